"""What runs learn about the limit: a file beside the ledger, which never stops a run."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import polars as pl
import pytest

from batchlic.database.postgresql import open_store
from batchlic.events import EventStream, LimitChanged, RunEvent, Warned
from batchlic.job import Inventory, Job, LedgerUse, Limits, StoreUse
from batchlic.journal import SANDBOX
from batchlic.pool.limiter.evidence import Learned
from batchlic.pool.limiter.findings import Calls, Rate, Window
from batchlic.runs.learned import MAX_AGE, LearnedLimit, LimitsInStore, Memory, learned_path
from tests.privileges import without_privileges

URL = "https://thingspace.verizon.com/api"
BUCKET = Learned(limit=Rate(50.0, refused_per_s=52.0, burst=9))
LEARNED = [
    BUCKET,
    Learned(limit=Rate(20.0, pause_s=10.2, refused_per_s=20.5), refusal_s=10.2),
    Learned(limit=Rate(20.0, refused_per_s=20.5, is_spaced=True)),
    Learned(limit=Window(300, 60.0)),
    Learned(limit=Calls(10), refusal_s=1.0),
]


class Events(EventStream):
    """Events that are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[RunEvent] = []

    def emit(self, event: RunEvent) -> None:
        self.kept.append(event)

    @property
    def warnings(self) -> list[str]:
        return [event.message for event in self.kept if isinstance(event, Warned)]


def memory(
    folder: Path,
    *accounts: str,
    carrier: str = URL,
    use: bool = True,
    events: EventStream | None = None,
    scope: Literal["login", "account"] = "login",
    store: str | None = None,
) -> Memory:
    """The memory of a run with these accounts, whose ledger is in the folder, or in a store."""
    plan = folder / "plan.parquet"
    pl.DataFrame({"account_name": accounts or ("A-1",)}).write_parquet(plan)
    ledger = LedgerUse(path=store or str(folder / "ledger.db"), use=use)
    job = Job(
        action="assign",
        inventory=Inventory(files=["fleet.csv"]),
        ledger=ledger,
        limits=Limits(scope=scope),
        store=StoreUse(url=store),
    )
    return Memory(job, carrier, plan, events or Events())


@pytest.mark.parametrize("learned", LEARNED, ids=lambda learned: str(learned.limit))
def test_the_next_run_starts_from_what_the_last_one_learned(learned: Learned, tmp_path: Path) -> None:
    memory(tmp_path).keep({None: learned})
    found = memory(tmp_path).recall().get(None)
    assert found is not None
    assert str(found.limit) == str(learned.limit)
    assert found.refusal_s == learned.refusal_s
    assert learned_path(tmp_path / "ledger.db").stat().st_mode & 0o777 == 0o600


def test_what_is_learned_holds_for_each_account_of_the_run_at_this_carrier(tmp_path: Path) -> None:
    memory(tmp_path, "A-1", "A-2").keep({None: BUCKET})
    assert memory(tmp_path, "A-2", "A-3").recall().get(None) is not None
    assert memory(tmp_path, "A-3").recall().get(None) is None
    assert memory(tmp_path, "A-1", carrier="https://other.example/api").recall().get(None) is None


def test_the_account_that_was_seen_last_counts(tmp_path: Path) -> None:
    memory(tmp_path, "A-1").keep({None: BUCKET})
    memory(tmp_path, "A-2").keep({None: Learned(limit=Calls(10))})
    found = memory(tmp_path, "A-1", "A-2").recall().get(None)
    assert found == Learned(limit=Calls(10))


def test_a_run_that_learned_nothing_leaves_what_was_known(tmp_path: Path) -> None:
    memory(tmp_path).keep({None: BUCKET})
    memory(tmp_path).keep({})
    assert memory(tmp_path).recall().get(None) is not None


def test_what_was_mostly_noise_is_never_a_start(tmp_path: Path) -> None:
    memory(tmp_path).keep({None: BUCKET})
    memory(tmp_path).keep({None: Learned(limit=Rate(50.0), is_noise=True)})
    assert memory(tmp_path).recall().get(None) is None


@pytest.mark.parametrize("days", [-1, 31, 4000])
def test_what_is_too_old_or_from_the_future_is_no_start(days: int) -> None:
    seen_at = datetime(2026, 11, 29, tzinfo=UTC)
    entry = LearnedLimit.of(BUCKET, seen_at)
    assert entry.learned(seen_at + timedelta(hours=1)) is not None
    assert entry.learned(seen_at + timedelta(days=days)) is None


def test_the_older_a_rate_is_the_wider_is_its_interval() -> None:
    seen_at = datetime(2026, 11, 1, tzinfo=UTC)
    ages = [LearnedLimit.of(BUCKET, seen_at).learned(seen_at + timedelta(days=days)) for days in (0, 1, 20)]
    limits = [one.limit for one in ages if one is not None]
    assert [limit.per_s for limit in limits if isinstance(limit, Rate)] == [50.0] * 3
    refused = [limit.refused_per_s for limit in limits if isinstance(limit, Rate)]
    assert refused[0] < refused[1] < refused[2] / 5


def test_old_entries_are_removed(tmp_path: Path) -> None:
    path = learned_path(tmp_path / "ledger.db")
    memory(tmp_path, "A-1").keep({None: BUCKET})
    content = json.loads(path.read_text())
    content["carriers"][URL]["A-1"]["seen_at"] = (datetime.now(UTC) - 2 * MAX_AGE).isoformat()
    path.write_text(json.dumps(content))
    memory(tmp_path, "A-2").keep({None: BUCKET})
    assert list(json.loads(path.read_text())["carriers"][URL]) == ["A-2"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b'{"carriers": {"' + URL.encode() + b'": {"A-1": {"seen_at": "2026-11-29", "per_s": 5}}}}',
        b'{"carriers": {"' + URL.encode() + b'": {"A-1": {"seen_at": "2026-11-29T01:00:00", "per_s": 5}}}}',
        b'{"carriers": {"' + URL.encode() + b'": {"A-1": {"seen_at": "2026-11-29T01:00:00Z", "per_s": -5}}}}',
        b'{"carriers": {"' + URL.encode() + b'": {"A-1": {"seen_at": "2026-11-29T01:00:00Z", "quota": 0}}}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_reported_and_replaced(content: bytes, tmp_path: Path) -> None:
    learned_path(tmp_path / "ledger.db").write_bytes(content)
    events = Events()
    damaged = memory(tmp_path, events=events)
    assert damaged.recall().get(None) is None
    assert len(events.warnings) == 1
    assert "damaged" in events.warnings[0]
    damaged.keep({None: BUCKET})
    assert memory(tmp_path).recall().get(None) is not None


@pytest.mark.parametrize("closed", ["file", "folder", "a folder in its place"])
def test_a_file_that_cannot_be_used_only_warns(closed: str, tmp_path: Path) -> None:
    events = Events()
    kept = memory(tmp_path, events=events)
    path = learned_path(tmp_path / "ledger.db")
    if closed == "file":
        kept.keep({None: BUCKET})
        path.chmod(0)
    elif closed == "folder":
        tmp_path.chmod(0o500)
    else:
        (path / "sub").mkdir(parents=True)
    with without_privileges():
        assert kept.recall().get(None) is None
        kept.keep({None: BUCKET})
    tmp_path.chmod(0o700)
    assert events.warnings


@pytest.mark.parametrize(("carrier", "use"), [(SANDBOX, True), (URL, False)])
def test_rehearsals_and_runs_without_a_ledger_learn_nothing(carrier: str, use: bool, tmp_path: Path) -> None:  # noqa: FBT001
    memory(tmp_path, carrier=carrier, use=use).keep({None: BUCKET})
    assert memory(tmp_path, carrier=carrier, use=use).recall().get(None) is None
    assert not learned_path(tmp_path / "ledger.db").exists()


def test_each_account_starts_from_its_own_limit_if_it_has_a_limiter(tmp_path: Path) -> None:
    memory(tmp_path, "A-1", "A-2", scope="account").keep({"A-1": BUCKET, "A-2": Learned(limit=Calls(10))})
    found = memory(tmp_path, "A-1", "A-2", "A-3", scope="account").recall()
    assert {account: str(one.limit) for account, one in found.items()} == {
        "A-1": str(BUCKET.limit),
        "A-2": str(Calls(10)),
    }


def test_what_one_account_learned_is_not_kept_for_another(tmp_path: Path) -> None:
    memory(tmp_path, "A-1", "A-2").keep({None: BUCKET})
    memory(tmp_path, "A-1", "A-2", scope="account").keep({"A-2": Learned(limit=Calls(10))})
    found = memory(tmp_path, "A-1", "A-2", scope="account").recall()
    assert str(found["A-1"].limit) == str(BUCKET.limit)
    assert found["A-2"] == Learned(limit=Calls(10))


def test_an_account_with_a_recalled_limit_is_named_in_the_event(tmp_path: Path) -> None:
    memory(tmp_path, "A-1").keep({None: BUCKET})
    events = Events()
    memory(tmp_path, "A-1", "A-2", scope="account", events=events).recall()
    assert [event.account for event in events.kept if isinstance(event, LimitChanged)] == ["A-1"]


@pytest.mark.parametrize("learned", LEARNED, ids=lambda learned: str(learned.limit))
def test_a_store_keeps_what_a_run_learned_for_other_machines(
    learned: Learned, tmp_path: Path, empty_store: str
) -> None:
    memory(tmp_path, store=empty_store).keep({None: learned})
    found = memory(tmp_path, store=empty_store).recall().get(None)
    assert found is not None
    assert str(found.limit) == str(learned.limit)
    assert list(tmp_path.iterdir()) == [tmp_path / "plan.parquet"]


def test_a_store_keeps_limits_of_carriers_and_accounts_apart(tmp_path: Path, empty_store: str) -> None:
    memory(tmp_path, "A-1", "A-2", store=empty_store).keep({None: BUCKET})
    assert memory(tmp_path, "A-2", "A-3", store=empty_store).recall().get(None) is not None
    assert memory(tmp_path, "A-3", store=empty_store).recall().get(None) is None
    assert (
        memory(tmp_path, "A-1", carrier="https://other.example/api", store=empty_store).recall().get(None)
        is None
    )


def test_an_older_limit_never_replaces_a_newer_one(empty_store: str) -> None:
    now = datetime.now(UTC)
    kept = LimitsInStore(empty_store)
    for seen_at, learned in ((now, BUCKET), (now - timedelta(hours=1), Learned(limit=Calls(10)))):
        kept.keep(URL, {"A-1": LearnedLimit.of(learned, seen_at)}, seen_at)
    assert kept.read(URL)["A-1"].calls is None


def test_old_limits_are_removed_from_a_store(empty_store: str) -> None:
    now = datetime.now(UTC)
    kept = LimitsInStore(empty_store)
    for account, seen_at in (("A-1", now - 2 * MAX_AGE), ("A-2", now)):
        kept.keep(URL, {account: LearnedLimit.of(BUCKET, seen_at)}, seen_at)
    assert list(kept.read(URL)) == ["A-2"]


def test_a_limit_of_another_version_is_not_used(tmp_path: Path, empty_store: str) -> None:
    memory(tmp_path, "A-1", store=empty_store).keep({None: BUCKET})
    with open_store(empty_store).engine.begin() as connection:
        connection.exec_driver_sql("UPDATE learned_limits SET content = '{}'")
    events = Events()
    assert memory(tmp_path, "A-1", events=events, store=empty_store).recall().get(None) is None
    assert events.warnings == []


def test_a_store_that_does_not_answer_only_warns(tmp_path: Path) -> None:
    events = Events()
    kept = memory(tmp_path, events=events, store="postgresql://nobody@/gone?host=/nowhere")
    assert kept.recall().get(None) is None
    kept.keep({None: BUCKET})
    assert len(events.warnings) == 2
