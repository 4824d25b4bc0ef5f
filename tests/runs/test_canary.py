"""Canaries: which devices are sent first, when the others follow, and who decides if they don't."""

from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from batchlic.callbacks.store import Store
from batchlic.chunker import DeviceStatus
from batchlic.errors import ExitCode, UsageError
from batchlic.events import EventStream, RunEvent, RunStarted, SessionEnded
from batchlic.job import Canary, Job
from batchlic.runs.apply import apply
from batchlic.runs.canary import Gate, awaits_callbacks
from batchlic.runs.folder import RunFolder
from batchlic.runs.guards import Guards
from batchlic.runs.reconcile import reconcile
from batchlic.runs.retry import retry
from batchlic.runs.run import plan_only, resume, start
from batchlic.runs.settle import settle
from batchlic.runs.target import Target
from batchlic.runs.verify import verify
from batchlic.sandbox.config import Fault, Poison
from tests.callbacks.builders import message_about
from tests.endtoend.program import FLEXIBLE, LIFETIME, attempts, books, imei
from tests.runs.test_apply import planned, requests, rows
from tests.runs.test_run import carrier, job_of

BUNDLE = "TS-BUNDLE-KTO-SIMSEC-MRC"


def with_canary(job: Job, devices: int | str, **rules: int | bool) -> Job:
    return job.model_copy(update={"canary": Canary(devices=str(devices), **rules)})  # type: ignore[arg-type]


def bad(*numbers: int) -> tuple[Poison, ...]:
    return tuple(Poison(identifier=imei(number)) for number in numbers)


def mixed(folder: Path) -> Job:
    """250 devices of one SKU, 120 of another, and 3 of a third one."""
    skus = [FLEXIBLE] * 250 + [BUNDLE] * 120 + [LIFETIME] * 3
    return job_of(folder, [f"{imei(number)},{sku}" for number, sku in enumerate(skus)])


def licensed(target: Target) -> Counter[str]:
    """The number of licenses by SKU in the books of the carrier."""
    found: Counter[str] = Counter()
    for record in books(target.base_url).values():
        found.update(record["licenses"])
    return found


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize(("failures", "code"), [(1, ExitCode.STOPPED), (2, ExitCode.INCOMPLETE)])
def test_as_many_canary_devices_as_the_job_says_may_fail(
    tmp_path: Path, failures: int, code: ExitCode
) -> None:
    job = with_canary(job_of(tmp_path, rows(*range(120))), 60, failures=failures)
    with carrier(poison=bad(0, 2)) as target:
        assert start(job, RunFolder(tmp_path / "run"), target, run_id="run").exit_code == code


@pytest.mark.slow
def test_a_canary_device_in_doubt_counts_as_failed_until_it_is_settled(tmp_path: Path) -> None:
    job = with_canary(job_of(tmp_path, rows(*range(200)), resend_in_doubt=False), 10)
    folder = RunFolder(tmp_path / "run")
    with carrier(faults={Fault.ERROR_500_AFTER: 1.0}) as target:
        summary = start(job, folder, target, run_id="run")
        assert (summary.exit_code, summary.statuses) == (6, {"pending": 190, "in_doubt": 10})
        assert "0 of its 10 devices failed and 10 in doubt" in (summary.stopped_because or "")
        assert "--canary-failures 10" in (resume(folder, target).stopped_because or "")
        assert requests(target) == 1
        settle(folder, DeviceStatus.ACCEPTED, reason="seen in the portal")
        assert resume(folder, target).statuses == {"accepted": 10, "in_doubt": 190}


@pytest.mark.slow
def test_callbacks_about_the_canary_are_enough_whatever_else_is_in_doubt(tmp_path: Path) -> None:
    folder, failing = RunFolder(tmp_path / "run"), {Fault.ERROR_500_AFTER: 1.0}
    with carrier(faults=failing) as broken:
        at = Target("https://carrier.example", broken.base_url, broken.credentials, ())
        before = job_of(tmp_path, rows(*range(3)), resend_in_doubt=False)
        start(before, RunFolder(tmp_path / "before"), at, run_id="before")
    with carrier() as target:
        at = Target("https://carrier.example", target.base_url, target.credentials, ())
        job = with_canary(job_of(tmp_path, rows(*range(40))), 5, confirmed=True)
        stopped = start(job, folder, at, run_id="run")
        assert stopped.statuses == {"in_doubt": 3, "accepted": 5, "pending": 32}
        assert awaits_callbacks(folder, job.canary)
        canary = pl.read_parquet(folder.plan).filter(pl.col("phase") == 1)
        [attempt] = attempts(folder.path)
        later = attempt.started_at + 1
        messages = [
            message_about(attempt.request_id or "", device, received_at=later) for device in canary["imei"]
        ]
        with closing(Store.open(str(tmp_path / "store.db"))) as store:
            store.write(messages[:4])
            reconcile(folder, store)
            assert "the outcome of 1 of its 5 devices" in (resume(folder, at).stopped_because or "")
            store.write(messages[4:])
            reconcile(folder, store)
        assert not awaits_callbacks(folder, job.canary)
        assert resume(folder, at).statuses == {"in_doubt": 3, "confirmed": 5, "accepted": 32}


@pytest.mark.slow
def test_a_run_that_dies_after_its_canary_judges_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, job = RunFolder(tmp_path / "run"), with_canary(mixed(tmp_path), 30)

    def die(_: Gate) -> None:
        raise KeyboardInterrupt

    with carrier(poison=bad(0)) as target:
        monkeypatch.setattr(Gate, "objection", die)
        with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)):
            start(job, folder, target, run_id="run")
        monkeypatch.undo()
        assert not folder.summary.exists()
        sent = requests(target)
        assert resume(folder, target).statuses == {"pending": 343, "accepted": 29, "failed": 1}
        assert requests(target) == sent
        assert resume(folder, target, canary_failures=1).statuses == {"accepted": 372, "failed": 1}
        assert set(licensed(target).values()) == {249, 120, 3}


@pytest.mark.slow
def test_a_reviewed_plan_is_sent_with_its_canary_byte_for_byte(tmp_path: Path) -> None:
    folder, job = RunFolder(tmp_path / "run"), with_canary(job_of(tmp_path, rows(*range(300))), "10%")
    with carrier(poison=bad(0)) as target:
        planned(job, folder, target)
        before = folder.plan.read_bytes()
        stopped = apply(folder, target, run_id="run")
        assert stopped.statuses == {"pending": 270, "accepted": 29, "failed": 1}
        assert apply(folder, target, run_id="again").stopped_because == stopped.stopped_because
        assert resume(folder, target, canary_failures=1).statuses == {"accepted": 299, "failed": 1}
    assert folder.plan.read_bytes() == before
    assert "canary: 30 of 300 devices are sent first" in stopped.notes


def test_a_percentage_of_no_device_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder, job = RunFolder(tmp_path / "run"), with_canary(job_of(tmp_path, rows(*range(50))), "1%")
    with carrier() as target:
        for command in (planned, partial(start, run_id="run")):
            with pytest.raises(UsageError, match="1% of 50 devices to send is not even one device"):
                command(job, folder, target)
        assert requests(target) == 0
    assert not folder.path.exists()


@pytest.mark.parametrize("whole", [50, 100, "100%"])
def test_a_canary_of_all_devices_is_a_plain_run(tmp_path: Path, whole: int | str) -> None:
    job, plain = job_of(tmp_path, rows(*range(50))), RunFolder(tmp_path / "plain")
    plan_only(job, plain, Guards())
    folder = RunFolder(tmp_path / "run")
    with carrier(poison=bad(3)) as target:
        summary = start(with_canary(job, whole), folder, target, run_id="run")
    assert (summary.exit_code, summary.statuses) == (3, {"accepted": 49, "failed": 1})
    assert folder.plan.read_bytes() == plain.plan.read_bytes()


@pytest.mark.slow
def test_the_same_command_may_allow_more_failures_but_no_other_canary(tmp_path: Path) -> None:
    folder, job = RunFolder(tmp_path / "run"), job_of(tmp_path, rows(*range(300)))
    with carrier(poison=bad(0)) as target:
        start(with_canary(job, 10, confirmed=True), folder, target, run_id="run")
        with pytest.raises(UsageError, match=r"canary\.devices is None, was 10"):
            start(job, folder, target, run_id="run")
        again = start(with_canary(job, 10, failures=1), folder, target, run_id="run")
        assert "the outcome of 9 of its 10 devices was not known" in (again.stopped_because or "")
        resumed = resume(folder, target, canary_failures=1, canary_confirmed=False)
        assert resumed.statuses == {"accepted": 299, "failed": 1}


def test_a_later_session_waits_for_callbacks_by_its_own_rules(tmp_path: Path) -> None:
    folder, job = RunFolder(tmp_path / "run"), job_of(tmp_path, rows(*range(300)))
    with carrier(poison=bad(0)) as target:
        start(with_canary(job, 10), folder, target, run_id="run")
        waiting = with_canary(job, 10, failures=1, confirmed=True)
        again = start(waiting, folder, target, run_id="run")
        assert "the outcome of 9 of its 10 devices was not known" in (again.stopped_because or "")
        assert awaits_callbacks(folder, waiting.canary)
        resumed = resume(folder, target, canary_failures=1, canary_confirmed=True)
        assert resumed.stopped_because == again.stopped_because


@pytest.mark.slow
def test_apply_that_continues_waits_for_callbacks_if_its_caller_does(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    job = with_canary(job_of(tmp_path, rows(*range(40)), give_up_after=1), 5)
    with carrier() as target:
        planned(job, folder, target)
        away = Target(target.name, "http://127.0.0.1:9/api", target.credentials, ())
        assert apply(folder, away, run_id="run").exit_code == ExitCode.STOPPED
        stopped = apply(folder, target, run_id="again", waits=True)
    assert stopped.statuses == {"accepted": 5, "pending": 35}


@pytest.mark.slow
def test_a_run_starts_once_for_its_observers_whatever_its_sessions_are(tmp_path: Path) -> None:
    folder, events, seen = RunFolder(tmp_path / "run"), EventStream(), list[RunEvent]()
    job = with_canary(job_of(tmp_path, rows(*range(40))), 5, confirmed=True)
    with carrier() as target, events.attached("test", seen.append):
        start(job, folder, target, run_id="run", events=events)
        resume(folder, target, canary_failures=0, canary_confirmed=False, events=events)
    assert [event.is_resumed for event in seen if isinstance(event, RunStarted)] == [False]
    assert [int(event.exit_code) for event in seen if isinstance(event, SessionEnded)] == [6, 0]


@pytest.mark.slow
def test_a_decision_about_a_canary_is_refused_for_a_run_without_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with carrier() as target:
        start(job_of(tmp_path, rows(1)), folder, target, run_id="run")
        with pytest.raises(UsageError, match="has no canary"):
            resume(folder, target, canary_failures=1)


@pytest.mark.slow
def test_an_unassign_has_a_canary_and_a_ledger_that_skips_licensed_devices(tmp_path: Path) -> None:
    fleet = rows(*range(20))
    with carrier() as target:
        start(job_of(tmp_path, fleet[:5]), RunFolder(tmp_path / "some"), target, run_id="some")
        give = start(
            with_canary(job_of(tmp_path, fleet), 2), RunFolder(tmp_path / "all"), target, run_id="all"
        )
        assert (give.exit_code, give.statuses) == (0, {"accepted": 15, "skipped": 5})
        back = with_canary(job_of(tmp_path, fleet, action="unassign"), "25%")
        taken = start(back, RunFolder(tmp_path / "back"), target, run_id="back")
        assert (taken.exit_code, taken.statuses) == (0, {"accepted": 20})
        assert licensed(target).total() == 0


@pytest.mark.slow
def test_a_retry_has_the_canary_of_its_own_command(tmp_path: Path) -> None:
    folder, to = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "retry")
    job = with_canary(job_of(tmp_path, rows(*range(200))), "50%", failures=200)
    with carrier(poison=bad(*range(20))) as target:
        start(job, folder, target, run_id="run")
        with pytest.raises(UsageError, match="need a canary"):
            retry(folder, target, to, run_id="retry", canary={"failures": 2})
        summary = retry(folder, target, to, run_id="retry", canary={"devices": "5"})
    assert (summary.exit_code, summary.statuses) == (6, {"pending": 15, "failed": 5})
