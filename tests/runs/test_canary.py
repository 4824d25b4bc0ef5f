"""Canaries: which devices are sent first, when the others follow, and who decides if they don't."""

from collections import Counter
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from batchlic.errors import ExitCode, RefusedToStart, UsageError
from batchlic.job import Canary, Job
from batchlic.journal import Journal
from batchlic.runs.apply import apply
from batchlic.runs.folder import RunFolder
from batchlic.runs.run import resume, start
from batchlic.runs.settle import settle
from batchlic.runs.target import Target
from batchlic.runs.verify import verify
from batchlic.sandbox.config import Fault, Poison
from tests.endtoend.program import FLEXIBLE, LIFETIME, attempts, books, imei
from tests.runs.test_apply import planned, requests, rows
from tests.runs.test_run import carrier, job_of

BUNDLE = "TS-BUNDLE-KTO-SIMSEC-MRC"


def with_canary(job: Job, devices: int | str, **rules: int | bool) -> Job:
    return job.model_copy(update={"canary": Canary(devices=str(devices), **rules)})  # type: ignore[arg-type]


def bad(*numbers: int) -> tuple[Poison, ...]:
    return tuple(Poison(identifier=imei(number)) for number in numbers)


def mixed(folder: Path, **limits: float) -> Job:
    """250 devices of one SKU, 120 of another, and 3 of a third one."""
    skus = [FLEXIBLE] * 250 + [BUNDLE] * 120 + [LIFETIME] * 3
    return job_of(folder, [f"{imei(number)},{sku}" for number, sku in enumerate(skus)], **limits)


def licensed(target: Target) -> Counter[str]:
    """The number of licenses by SKU in the books of the carrier."""
    found: Counter[str] = Counter()
    for record in books(target.base_url).values():
        found.update(record["licenses"])
    return found


def test_a_canary_that_comes_out_well_is_followed_by_the_others(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with carrier() as target:
        summary = start(with_canary(mixed(tmp_path), 30), folder, target, run_id="run")
        assert licensed(target) == {FLEXIBLE: 250, BUNDLE: 120, LIFETIME: 3}
        assert requests(target) == 3 + 3 + 2 + 1
    assert (summary.exit_code, summary.statuses) == (0, {"accepted": 373})
    assert "canary: 30 of 373 devices are sent first" in summary.notes
    assert "canary: 30 accepted; then the other devices were sent" in summary.notes
    assert verify(folder).findings == []
    first = [attempt.device_count for attempt in attempts(folder.path)][:3]
    assert sum(first) == 30


def test_the_others_are_not_sent_if_a_canary_device_fails(tmp_path: Path) -> None:
    folder, job = RunFolder(tmp_path / "run"), with_canary(mixed(tmp_path), 30)
    with carrier(poison=bad(0, 249)) as target:
        summary = start(job, folder, target, run_id="run")
        assert summary.exit_code == ExitCode.STOPPED
        assert summary.statuses == {"pending": 343, "accepted": 29, "failed": 1}
        reason = summary.stopped_because or ""
        assert "1 of its 30 devices failed, and --canary-failures allows 0" in reason
        assert reason in folder.log.read_text()
        found, sent = licensed(target), requests(target)
        assert (found.total(), min(found[sku] for sku in (FLEXIBLE, BUNDLE, LIFETIME))) == (29, 1)

        again = resume(folder, target)
        assert (again.exit_code, again.statuses, again.stopped_because) == (6, summary.statuses, reason)
        assert requests(target) == sent

        decided = resume(folder, target, canary_failures=1)
        assert (decided.exit_code, decided.statuses) == (3, {"accepted": 371, "failed": 2})
        assert licensed(target).total() == 371
        assert resume(folder, target).statuses == decided.statuses
    assert verify(folder).findings == []
