"""Two runs with one login and one store: they tell each other what they find, and leave at their ends."""

from pathlib import Path

from batchlic.database.limits import limit_sharers
from batchlic.sandbox.config import LatencyConfig, LimitConfig, RetryHint, SandboxConfig
from tests.endtoend.program import ACCOUNT, FLEXIBLE, begin, books, end, imei, keys, until
from tests.forking import serving
from tests.postgresql import PostgreSQL

DEVICES = 50
"""Devices of each run."""
LIMITS = LimitConfig(rate=40.0, burst=40, retry_hint=RetryHint.NOTHING)


def test_two_runs_share_a_limit_and_license_all_devices(postgresql: PostgreSQL, tmp_path: Path) -> None:
    database = "time_slots"
    store = postgresql.new_database(database)
    with serving(SandboxConfig(limits=LIMITS, latency=LatencyConfig(base_s=0.05))) as url:
        settings = keys(url, BATCHLIC_STORE=store)
        runs = [
            begin("assign", *arguments(tmp_path, run), settings=settings, cwd=tmp_path) for run in range(2)
        ]
        seen: set[str] = set()

        def has_ended() -> bool:
            seen.update(sharers(postgresql, database))
            return all(run.poll() is not None for run in runs)

        until(has_ended)
        assert [ended.code for ended in map(end, runs)] == [0, 0]
        assert len(books(url)) == 2 * DEVICES
    assert len(seen) == len(runs)
    assert sharers(postgresql, database) == []


def arguments(folder: Path, run: int) -> list[str | Path]:
    """Options of a run of its own devices, one in each request."""
    inventory = folder / f"{run}.csv"
    devices = range(run * DEVICES, (run + 1) * DEVICES)
    inventory.write_text("\n".join(["IMEI", *map(imei, devices), ""]))
    options = ["--account", ACCOUNT, "--sku", FLEXIBLE, "--batch-size", "1", "--no-ledger", "--yes"]
    return [inventory, *options, "--run-dir", f"run-{run}"]


def sharers(server: PostgreSQL, database: str) -> list[str]:
    """The processes that share the limit of the login now."""
    if server.execute(f"SELECT to_regclass('{limit_sharers}')", database) == [(None,)]:
        return []
    rows = server.execute(f"SELECT name FROM {limit_sharers}", database)  # noqa: S608 - a constant
    return [name for (name,) in rows]
