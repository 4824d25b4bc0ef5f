"""A migration that is killed several times ends with the right licenses."""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import polars as pl

from batchlic.sandbox.config import LatencyConfig, SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    attempts,
    batchlic,
    begin,
    books,
    end,
    fleet,
    imei,
    keys,
    totals,
    until,
)
from tests.forking import Program, serving

NEW = "TS-BUNDLE-KTO-SIMSEC-MRC"
DEVICES = 10_000
KILLS = int(os.environ.get("KILLS", "4"))
MIGRATE = ("migrate", "fleet.csv", "--account", ACCOUNT, "--from-sku", FLEXIBLE, "--to-sku", NEW)


@contextmanager
def onboarded(path: Path) -> Iterator[str]:
    """The URL of a slow carrier at which a fleet has its old licenses."""
    fleet(path / "fleet.csv", DEVICES)
    with serving(SandboxConfig(latency=LatencyConfig(base_s=0.05))) as url:
        given = ("assign", "fleet.csv", "--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "runs/given")
        assert batchlic(*given, settings=keys(url), cwd=path).code == 0
        yield url


def requests_sent(url: str) -> int:
    return sum(dict[str, int](totals(url)["requests"]).values())


def has_sent_more(url: str, process: Program, before: int) -> bool:
    return requests_sent(url) > before or process.poll() is not None


def test_a_migration_killed_many_times_moves_every_device_once(
    tmp_path: Path,
) -> None:
    dice = random.Random(KILLS)
    with onboarded(tmp_path) as url:
        settings = keys(url)
        command = (*MIGRATE, "--run-dir", "runs/move", "--max-concurrency", "4")
        half_way = requests_sent(url) + DEVICES // 100
        processes = [begin(*command, settings=settings, cwd=tmp_path)]
        until(lambda: requests_sent(url) >= half_way or processes[0].poll() is not None)
        for _ in range(KILLS):
            processes[-1].kill()
            assert end(processes[-1]).code == -signal.SIGKILL
            processes.append(begin("resume", "runs/move", settings=settings, cwd=tmp_path))
            until(partial(has_sent_more, url, processes[-1], requests_sent(url)))
            time.sleep(dice.uniform(0, 0.1))
        ended, licenses = end(processes[-1]), {device: one["licenses"] for device, one in books(url).items()}
        again = batchlic("resume", "runs/move", settings=settings, cwd=tmp_path)
        verified = batchlic("audit", "runs/move", "--verify", cwd=tmp_path)
    folder = tmp_path / "runs" / "move"
    results = pl.read_parquet(folder / "results.parquet")
    assert (ended.code, again.code, verified.code) == (0, 0, 0), (ended.err, again.err, verified.err)
    assert results["status"].value_counts().rows() == [("accepted", DEVICES)]
    assert 0 < sum(attempt.outcome is None for attempt in attempts(folder)) <= 4 * KILLS
    assert licenses == {imei(number): {NEW: 1} for number in range(DEVICES)}
