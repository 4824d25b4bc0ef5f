"""Reconciling: messages decide the statuses of a run, in any order, and nothing else does."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import msgspec
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchlic.atomic import staged_path
from batchlic.callbacks.messages import StoredMessage
from batchlic.callbacks.store import Store
from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.credentials import Credentials, Secret
from batchlic.chunker import DeviceStatus, read_batches
from batchlic.errors import (
    BatchlicError,
    CredentialsRejected,
    ExitCode,
    RefusedToStart,
    RunFolderError,
    StoppedEarly,
    UsageError,
)
from batchlic.journal import Settlement
from batchlic.ledger import Ledger
from batchlic.ledger.files import device_rows
from batchlic.pool.remaining import remaining
from batchlic.reader import IdKind
from batchlic.runs import staging
from batchlic.runs.finalize import finalize
from batchlic.runs.folder import RunFolder
from batchlic.runs.history import device_history
from batchlic.runs.identity import inspected, job_of, sha256_of
from batchlic.runs.reconcile import follow, is_settled, reconcile, unconfirmed
from batchlic.runs.rollback import By, rollback
from batchlic.runs.settle import settle
from batchlic.runs.states import recorded_reports
from batchlic.runs.status import status
from batchlic.runs.target import Target
from batchlic.runs.verify import verify
from batchlic.writer.summary import Summary
from tests.callbacks.builders import (
    BEGAN,
    SKU,
    accepted,
    failure,
    lost,
    message_about,
    messages_of,
    shuffled,
    statuses,
    submitted_run,
)
from tests.journal.builders import intent
from tests.recovery.builders import record_as_written

AMBIGUOUS = Answer(outcome=Outcome.AMBIGUOUS, http_status=502)
REFUSED = Answer(outcome=Outcome.REFUSED, http_status=400, error_code="INPUT_INVALID.DeviceState.Invalid")
MINUTE = 60_000_000


def settled(folder: RunFolder, *messages: StoredMessage) -> Summary:
    with closing(Store.open(str(folder.path / "store.db"))) as store:
        if messages:
            store.write(list(messages))
        return reconcile(folder, store)


def changed(message: StoredMessage, **changes: Any) -> StoredMessage:  # noqa: ANN401 - any field of a message
    return message._replace(**changes)


def row(folder: RunFolder, place: int) -> dict[str, object]:
    return pl.read_parquet(folder.results).row(place, named=True)


def test_a_device_is_confirmed_or_failed_by_its_message(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 4, batch_size=2)
    first, second, third, _ = messages_of(folder, batch_size=2)
    second = second._replace(status="Failed", error_code="REQUEST_FAILED.X", error_message="sorry")
    summary = settled(folder, first, second, third)
    assert summary.statuses == statuses(folder) == {"accepted": 1, "confirmed": 2, "failed": 1}
    assert summary.exit_code == ExitCode.INCOMPLETE
    failed = row(folder, 1)
    assert (failed["error_code"], failed["error_message"]) == ("REQUEST_FAILED.X", "sorry")
    assert failed["settled_at"] == datetime.fromtimestamp(BEGAN / 1e6 + 1, UTC)


@pytest.mark.slow
def test_status_says_that_the_outcomes_are_missing(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    settled(folder, *messages_of(folder))
    assert status(folder).notes == []
    folder.outcomes.unlink()
    [note] = status(folder).notes
    assert note.startswith(f"{folder.outcomes} is missing")


@pytest.mark.slow
def test_outcomes_that_change_after_the_journal_was_read_are_not_damaged(tmp_path: Path) -> None:
    """As when `status` reads a run while `reconcile --watch` is at work."""
    folder = submitted_run(tmp_path / "run", 2)
    first, second = messages_of(folder)
    settled(folder, first)
    with inspected(folder) as journal:
        settled(folder, second)
        assert recorded_reports(folder, journal).collect().height == 2


def test_outcomes_that_are_published_while_they_are_compared_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    settled(folder, *messages_of(folder))
    staged = staged_path(folder.outcomes)
    folder.outcomes.rename(staged)

    def publish_and_hash(path: Path) -> str:
        if staged.exists():
            staged.rename(folder.outcomes)
        return sha256_of(path)

    monkeypatch.setattr(staging, "sha256_of", publish_and_hash)
    with inspected(folder) as journal:
        assert recorded_reports(folder, journal).collect().height == 2


@pytest.mark.parametrize("kind", ["imei", "iccid"])
def test_either_identifier_is_enough(tmp_path: Path, kind: str) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    other = {"imei": "iccid", "iccid": "imei"}[kind]
    settled(folder, *(changed(message, **{other: ""}) for message in messages_of(folder)))
    assert statuses(folder) == {"confirmed": 2}


def test_every_device_of_a_large_run_is_matched(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2001)
    settled(folder, *messages_of(folder))
    assert statuses(folder) == {"confirmed": 2001}


def test_a_device_with_another_sim_is_found_by_its_imei(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    first, second = messages_of(folder)
    settled(folder, changed(first, iccid=second.iccid))
    assert [row(folder, place)["status"] for place in (0, 1)] == ["confirmed", "accepted"]


@pytest.mark.parametrize(
    "strange",
    [
        {"request_id": "request-of-another-run"},
        {"account_name": "0000999999-00001"},
        {"imei": "490154203237518", "iccid": ""},
        {"imei": "", "iccid": ""},
        {"received_at": BEGAN - 2 * 3600 * 1_000_000},
    ],
)
def test_a_message_about_something_else_changes_nothing(tmp_path: Path, strange: dict[str, object]) -> None:
    folder = submitted_run(tmp_path / "run", 1)
    [message] = messages_of(folder)
    settled(folder, changed(message, **failure(**strange)))
    assert statuses(folder) == {"accepted": 1}


def test_refused_and_unsent_devices_keep_their_status(tmp_path: Path) -> None:
    folder = submitted_run(
        tmp_path / "run", 2, batch_size=1, answered=lambda batch: [REFUSED] if batch == 1 else []
    )
    settled(folder, *messages_of(folder, batch_size=1))
    assert statuses(folder) == {"failed": 1, "pending": 1}


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), cut=st.integers(0, 12), repeat=st.integers(1, 2))
def test_order_and_repetition_of_messages_change_nothing(
    tmp_path: Path, seed: int, cut: int, repeat: int
) -> None:
    folder = submitted_run(tmp_path / f"run-{seed}-{cut}-{repeat}", 6, batch_size=3)
    both_outcomes = [*messages_of(folder, batch_size=3), *messages_of(folder, batch_size=3, **failure())]
    messages = shuffled(both_outcomes, seed)[seed % len(both_outcomes) :] * repeat
    settled(folder, *messages[:cut])
    settled(folder, *messages[cut:])
    in_parts = folder.outcomes.read_bytes()
    folder.outcomes.unlink()
    settled(folder)
    assert pl.read_parquet(folder.outcomes).equals(pl.read_parquet(in_parts))


@pytest.mark.slow
def test_reconciling_again_changes_no_file(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 3)
    settled(folder, *messages_of(folder)[:2])
    before = {path.name: path.stat().st_mtime_ns for path in folder.path.glob("*.parquet")}
    before["summary.json"] = folder.summary.stat().st_mtime_ns
    settled(folder)
    names = [name for name, time in before.items() if (folder.path / name).stat().st_mtime_ns != time]
    assert names in ([], ["outcomes.parquet"])


@pytest.mark.slow
@pytest.mark.parametrize("place", ["reconcile.write_reports", "reconcile.finalize", "finalize.write_summary"])
@pytest.mark.parametrize("answered", [accepted, lost])
def test_reconcile_completes_after_a_crash(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    answered: Callable[[int], list[Answer | None]],
) -> None:
    folder = submitted_run(tmp_path / "run", 3, answered=answered)
    settled(folder)

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"batchlic.runs.{place}", crash)
        with pytest.raises(KeyboardInterrupt):
            settled(folder, *messages_of(folder))
    assert settled(folder).statuses == {"confirmed": 3}
    assert verify(folder).findings == []


@pytest.mark.slow
def test_outcomes_remain_without_the_store_of_callbacks(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    settled(folder, *messages_of(folder))
    (folder.path / "store.db").unlink()
    assert settled(folder).statuses == {"confirmed": 2}
    assert status(folder).statuses == {"confirmed": 2}


def test_outcomes_without_a_step_column_are_read(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    first, second = messages_of(folder)
    settled(folder, first)
    pl.read_parquet(folder.outcomes).drop("step").write_parquet(folder.outcomes)
    record_as_written(folder.outcomes)
    (folder.path / "store.db").unlink()
    assert settled(folder, second).statuses == {"confirmed": 2}


# -- doubt ----------------------------------------------------------------------------------------------


def test_a_callback_proves_a_request_whose_answer_was_lost(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2, answered=lost, sku="SIMSec-IoT-Lt")
    settled(folder)
    assert statuses(folder) == {"in_doubt": 2}
    settled(folder, messages_of(folder)[0]._replace(request_id="never-seen"))
    assert statuses(folder) == {"confirmed": 1, "in_doubt": 1}
    assert row(folder, 0)["request_id"] == "never-seen"


@pytest.mark.parametrize(
    "strange",
    [
        {"account_name": ""},
        {"account_name": "0000999999-00001"},
        {"received_at": BEGAN - 1},
        {"received_at": BEGAN + 31 * MINUTE},
        {"imei": "490154203237518", "iccid": ""},
    ],
)
def test_no_message_of_another_account_time_or_device_ends_doubt(
    tmp_path: Path, strange: dict[str, object]
) -> None:
    folder = submitted_run(tmp_path / "run", 1, answered=lost)
    [message] = messages_of(folder)
    settled(folder, changed(message, **{"request_id": "never-seen", **strange}))
    assert statuses(folder) == {"in_doubt": 1}


@pytest.mark.slow
@pytest.mark.parametrize("fault", [{}, failure()])
def test_a_cut_answer_counts_as_a_lost_answer(tmp_path: Path, fault: dict[str, str]) -> None:
    cut = Answer(outcome=Outcome.AMBIGUOUS, http_status=200, request_id="cut")
    folder = submitted_run(tmp_path / "run", 2, answered=lambda _: [cut])
    settled(
        folder, *(message_about("cut", device, **fault) for device in pl.read_parquet(folder.plan)["imei"])
    )
    assert set(statuses(folder)) == {"failed" if fault else "confirmed"}


def test_a_device_fails_only_after_all_its_lost_requests_failed(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 1, answered=lambda _: [AMBIGUOUS, None])
    [message] = messages_of(folder, **failure())
    settled(folder, message._replace(request_id="one"))
    assert statuses(folder) == {"in_doubt": 1}
    settled(folder, message._replace(request_id="two"))
    assert statuses(folder) == {"failed": 1}


def test_a_successful_lost_request_overrides_a_failed_repetition(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 1, answered=lambda batch: [AMBIGUOUS, *accepted(batch)])
    [failed] = messages_of(folder, **failure())
    [served] = messages_of(folder)
    settled(folder, failed, served._replace(request_id="lost"))
    assert statuses(folder) == {"confirmed": 1}


def test_a_failed_repetition_does_not_settle_a_lost_request(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 1, answered=lambda batch: [AMBIGUOUS, *accepted(batch)])
    [failed] = messages_of(folder, **failure())
    settled(folder, failed)
    assert statuses(folder) == {"accepted": 1}
    settled(folder, failed._replace(request_id="lost"))
    assert statuses(folder) == {"failed": 1}


@pytest.mark.slow
def test_requests_of_other_or_unreadable_runs_prove_nothing(
    tmp_path: Path,
) -> None:
    other = submitted_run(tmp_path / "other", 1)
    folder = submitted_run(tmp_path / "run", 1, answered=lost)
    hour_ago = BEGAN / 1e6 - 3600
    for path in other.path.glob("journal.db*"):
        os.utime(path, (hour_ago, hour_ago))
    settled(folder, *messages_of(folder))
    assert statuses(folder) == {"in_doubt": 1}
    other.journal_file.write_bytes(b"damaged")
    settled(folder, *(message._replace(request_id="whose") for message in messages_of(folder)))
    assert statuses(folder) == {"in_doubt": 1}


def test_a_request_with_devices_in_doubt_is_not_undone(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 3, answered=lost)
    served, *_ = messages_of(folder)
    settled(folder, served)
    name = Secret("sandbox")
    nobody = Credentials(client_id=name, client_secret=name, username=name, password=name)
    target = Target("sandbox", "http://127.0.0.1:1/api", nobody, ())
    with pytest.raises(RefusedToStart, match="1 accepted device shares a request with devices in doubt"):
        rollback(folder, By.REQUEST, target, run_id="back")


@pytest.mark.slow
def test_the_journal_records_a_settlement_by_callback_once(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 4, batch_size=2, answered=lost)
    served, failed, *_ = messages_of(folder, batch_size=2)
    failed = failed._replace(**failure())
    for _ in range(2):
        settled(folder, served, failed)
    with closing(folder.journal.open()) as journal:
        decided = [event for event in journal.history() if isinstance(event, Settlement)]
        assert {(one.part, one.status) for one in decided} == {("0", "accepted"), ("1", "failed")}
        assert len(decided) == 2
    assert [row(folder, place)["settled_by"] for place in range(3)] == ["a callback", "a callback", None]
    assert status(folder).statuses == {"confirmed": 1, "failed": 1, "in_doubt": 2}
    assert sum(len(doubt.devices) for doubt in status(folder).doubts) == 2
    assert verify(folder).findings == []


def test_a_device_history_has_its_callbacks(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    _, failed = messages_of(folder)
    settled(folder, failed._replace(**failure()))
    [last] = [one for one in device_history(failed.imei, tmp_path) if one.event == "called_back"]
    assert (last.outcome, last.request_id) == ("failed", "request-1")
    assert last.error_code == "REQUEST_FAILED.UnexpectedError"


def test_a_device_settled_by_a_callback_is_not_sent_again(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 4, batch_size=2, answered=lost)
    served, failed, *_ = messages_of(folder, batch_size=2)
    settled(folder, served, failed._replace(**failure()))
    with closing(folder.journal.open()) as journal:
        batches = read_batches(folder.plan, IdKind.AUTO)
        left = remaining(batches, journal, [SKU], on_accepted=lambda _: None)
        assert [(delivery.batch.batch_id, delivery.batch.part) for delivery in left] == [(2, "")]


@pytest.mark.parametrize("status", [DeviceStatus.ACCEPTED, DeviceStatus.FAILED, DeviceStatus.PENDING])
def test_a_callback_overrides_an_operator(tmp_path: Path, status: DeviceStatus) -> None:
    folder = submitted_run(tmp_path / "run", 1, answered=lost)
    settle(folder, status, reason="looked at the portal")
    settled(folder, *messages_of(folder))
    assert statuses(folder) == {"confirmed": 1}
    with pytest.raises(UsageError, match="nothing is in doubt"):
        settle(folder, DeviceStatus.FAILED, reason="no")


def test_a_request_of_another_run_proves_nothing_for_this_one(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 1, answered=lost)
    submitted_run(tmp_path / "other", 1)
    settled(folder, *messages_of(folder))
    assert statuses(folder) == {"in_doubt": 1}


@pytest.mark.slow
@pytest.mark.parametrize(("request_id", "status"), [("request-1", "in_doubt"), ("strange", "confirmed")])
def test_runs_in_one_store_know_the_requests_of_each_other(
    tmp_path: Path, empty_store: str, request_id: str, status: str
) -> None:
    folder = submitted_run(tmp_path / "here" / "run", 1, answered=lost, store=empty_store)
    submitted_run(tmp_path / "there" / "other", 1, store=empty_store)
    settled(folder, *(one._replace(request_id=request_id) for one in messages_of(folder)))
    assert statuses(folder) == {status: 1}


@pytest.mark.slow
def test_callbacks_of_one_store_reach_the_run_that_they_are_about(tmp_path: Path, empty_store: str) -> None:
    first = submitted_run(tmp_path / "a" / "run", 2, store=empty_store)
    second = submitted_run(tmp_path / "b" / "run", 2, answered=under("two"), store=empty_store)
    with closing(Store.open(empty_store)) as store:
        store.write([one._replace(request_id="two", **failure()) for one in messages_of(second)])
        store.write(messages_of(first))
        assert reconcile(first, store).statuses == {"confirmed": 2}
        assert reconcile(second, store).statuses == {"failed": 2}


def under(request_id: str) -> Callable[[int], list[Answer | None]]:
    """The answer that names this request."""
    return lambda _: [Answer(outcome=Outcome.ACCEPTED, http_status=200, request_id=request_id)]


@pytest.mark.slow
def test_a_part_in_doubt_depends_only_on_its_own_requests(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2, answered=lambda _: [REFUSED])
    with closing(folder.journal.open()) as journal:
        intents = [intent(1, part=part, device_count=1, started_at=BEGAN) for part in ("0", "1")]
        for one in intents:
            anyio.run(journal.intend, one)
    first, _ = messages_of(folder, **failure())
    settled(folder, first._replace(request_id="strange"))
    assert [row(folder, place)["status"] for place in (0, 1)] == ["failed", "in_doubt"]


@pytest.mark.slow
def test_a_callback_settles_nothing_again_that_an_earlier_one_settled(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 4, batch_size=2, answered=lost)
    served, failed, *_ = messages_of(folder, batch_size=2)
    settled(folder, served)
    settled(folder, failed._replace(**failure()))
    with closing(folder.journal.open()) as journal:
        decided = [event for event in journal.history() if isinstance(event, Settlement)]
    assert [(one.part, one.status) for one in decided] == [("0", "accepted"), ("1", "failed")]


@pytest.mark.slow
def test_an_unreadable_run_that_ended_days_ago_raises_no_doubt(tmp_path: Path) -> None:
    other = submitted_run(tmp_path / "other", 1)
    folder = submitted_run(tmp_path / "run", 1, answered=lost)
    other.journal_file.write_bytes(b"damaged")
    two_days_ago = BEGAN / 1e6 - 2 * 24 * 3600
    for path in other.path.glob("journal.db*"):
        os.utime(path, (two_days_ago, two_days_ago))
    settled(folder, *(message._replace(request_id="whose") for message in messages_of(folder)))
    assert statuses(folder) == {"confirmed": 1}


# -- the ledger ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_ledger_records_what_callbacks_reported(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db").close()
    folder = submitted_run(tmp_path / "run", 3, carrier="https://carrier.example/api")
    served, failed, _ = messages_of(folder)
    settled(folder, served, failed._replace(**failure()))
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        known = pl.concat(device_rows(ledger)).sort("imei")
    assert known["status"].to_list() == ["confirmed", "accepted"]
    assert failed.imei not in known["imei"].to_list()


# -- the run ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_reconciled_run_with_pending_devices_is_exit_6(tmp_path: Path) -> None:
    folder = submitted_run(
        tmp_path / "run", 2, batch_size=1, answered=lambda batch: accepted(batch) if batch == 1 else []
    )
    summary = settled(folder, *messages_of(folder, batch_size=1))
    assert (summary.statuses, summary.exit_code) == ({"confirmed": 1, "pending": 1}, ExitCode.STOPPED)


def test_an_active_run_is_not_reconciled(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 1)
    with folder.locked(), pytest.raises(RefusedToStart):
        settled(folder)
    assert not folder.outcomes.exists()


def test_devices_without_a_callback_are_named(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    settled(folder, messages_of(folder)[0])
    assert unconfirmed(folder)["imei"].to_list() == [messages_of(folder)[1].imei]


def test_a_stored_message_is_matched_among_unknown_ones(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 1)
    with closing(Store.open(str(folder.path / "store.db"))) as store:
        store.write([message_about("request-of-nobody", "864508030109877"), *messages_of(folder)])
    assert settled(folder).statuses == {"confirmed": 1}


def ended(folder: RunFolder, *, stopped: BatchlicError | None = None) -> RunFolder:
    """End the session of a submitted run, early if `stopped` says why."""
    with closing(folder.journal.open()) as journal:
        finalize(job_of(journal.identity), folder, journal, began=time.monotonic(), stopped=stopped)
    return folder


@pytest.mark.slow
def test_a_finished_run_with_a_device_in_doubt_stays_finished(tmp_path: Path) -> None:
    folder = ended(submitted_run(tmp_path / "run", 2, answered=lost))
    summary = settled(folder, messages_of(folder)[0]._replace(request_id="lost"))
    assert summary.statuses == {"confirmed": 1, "in_doubt": 1}
    assert (summary.exit_code, summary.stopped_because) == (ExitCode.INCOMPLETE, None)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [StoppedEarly("a signal"), CredentialsRejected("the login is locked")])
def test_a_stopped_run_stays_stopped_for_the_same_reason(tmp_path: Path, stopped: BatchlicError) -> None:
    sent_one = submitted_run(
        tmp_path / "run", 2, batch_size=1, answered=lambda batch: accepted(batch) if batch == 1 else []
    )
    folder = ended(sent_one, stopped=stopped)
    summary = settled(folder, messages_of(folder, batch_size=1)[0])
    assert summary.statuses == {"confirmed": 1, "pending": 1}
    assert (summary.exit_code, summary.stopped_because) == (stopped.exit_code, str(stopped))


def test_a_run_with_another_plan_than_it_began_with_is_refused(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    messages = messages_of(folder)
    pl.read_parquet(folder.plan).reverse().write_parquet(folder.plan)
    with pytest.raises(RunFolderError, match="changed since the run began"):
        settled(folder, *messages)


# -- waiting --------------------------------------------------------------------------------------------


class Clock:
    """Time that passes in sleeps only; `sleeps` are their seconds, and `arrive` is called after each."""

    def __init__(self, arrive: Callable[[int], None] = lambda _: None) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []
        self._looks = 0
        self._arrive = arrive

    def monotonic(self) -> float:
        self._looks += 1
        assert self._looks <= 5000, "the loop does not end"
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.sleeps.append(seconds)
        self._arrive(len(self.sleeps))


def followed(
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    *,
    patience: float | None,
    arriving: Mapping[int, Sequence[StoredMessage]] = MappingProxyType({}),
    took: float = 0,
) -> tuple[Summary, list[float], int]:
    """Follow a run whose messages arrive after so many sleeps; summary, sleeps, times it was reconciled."""
    times = 0
    with closing(Store.open(str(folder.path / "store.db"))) as store:
        clock = Clock(lambda sleeps: store.write(list(arriving[sleeps])) if sleeps in arriving else None)

        def counted(*arguments: Any) -> Summary:  # noqa: ANN401
            nonlocal times
            times += 1
            clock.now += took
            return reconcile(*arguments)

        monkeypatch.setattr("batchlic.runs.reconcile.time", clock)
        monkeypatch.setattr("batchlic.runs.reconcile.wait", clock.sleep)
        monkeypatch.setattr("batchlic.runs.reconcile.reconcile", counted)
        return follow(folder, store, patience=patience), clock.sleeps, times


def test_following_ends_after_the_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = submitted_run(tmp_path / "run", 1)
    summary, sleeps, _ = followed(folder, monkeypatch, patience=5)
    assert (summary.statuses, sleeps) == ({"accepted": 1}, [2, 2, 1])


@pytest.mark.slow
def test_following_without_a_limit_ends_when_all_is_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    first, second = messages_of(folder)
    summary, sleeps, _ = followed(folder, monkeypatch, patience=None, arriving={3: [first], 30: [second]})
    assert (summary.statuses, len(sleeps)) == ({"confirmed": 2}, 30)


@pytest.mark.slow
def test_a_run_is_reconciled_again_only_if_messages_arrived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    _, _, times = followed(folder, monkeypatch, patience=20, arriving={3: messages_of(folder)[:1]})
    assert times == 2


def test_following_a_large_run_sleeps_longer_than_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = submitted_run(tmp_path / "run", 1)
    _, sleeps, _ = followed(folder, monkeypatch, patience=30, took=10)
    assert sleeps == [20]


@pytest.mark.parametrize("status", DeviceStatus)
def test_a_run_is_settled_once_no_callback_can_change_it(tmp_path: Path, status: DeviceStatus) -> None:
    summary = msgspec.structs.replace(
        settled(submitted_run(tmp_path / "run", 1)), statuses={DeviceStatus.CONFIRMED: 1, status: 1}
    )
    can_change = {DeviceStatus.ACCEPTED, DeviceStatus.IN_DOUBT, DeviceStatus.PENDING}
    assert is_settled(summary) == (status not in can_change)
