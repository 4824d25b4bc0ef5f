"""Runs that share a ledger, against a sandbox over TCP: no device is licensed twice, none is forgotten."""

import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import polars as pl
import pytest

from batchlic.callbacks.store import Store
from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.credentials import Credentials, Secret
from batchlic.chunker import DeviceStatus
from batchlic.database import leases
from batchlic.database.postgresql import open_store
from batchlic.errors import LedgerError, RefusedToStart, RunFolderError, StoppedEarly, UsageError
from batchlic.job import Job, make_job
from batchlic.ledger import Ledger, RunEntry, RunRecords
from batchlic.ledger.files import Imported, import_files
from batchlic.reader import ReadOptions
from batchlic.runs.finalize import finalize
from batchlic.runs.folder import RunFolder
from batchlic.runs.history import device_history
from batchlic.runs.identity import job_of as job_of_journal
from batchlic.runs.ledger_sync import LedgerSync, refuse_at_work, snapshot_for_plan
from batchlic.runs.reconcile import reconcile
from batchlic.runs.rollback import By, rollback
from batchlic.runs.run import begin, resume, start
from batchlic.runs.settle import settle
from batchlic.runs.target import Target
from batchlic.sandbox.config import Fault, SandboxConfig
from batchlic.writer.summary import Summary
from tests.callbacks.builders import failure
from tests.callbacks.builders import message_about as callback
from tests.endtoend.program import ACCOUNT, FLEXIBLE, LIFETIME, books, imei, totals
from tests.forking import serving
from tests.journal.builders import intent
from tests.recovery.migrations import NEW
from tests.stores import take_away


@contextmanager
def carrier(**config: Any) -> Iterator[Target]:  # noqa: ANN401 - any field of a sandbox's configuration
    name = Secret("sandbox")
    credentials = Credentials(client_id=name, client_secret=name, username=name, password=name)
    with serving(SandboxConfig(**config)) as url:
        yield Target(url, url, credentials, ())


def job_of(folder: Path, devices: range, *, sku: str = FLEXIBLE, **tables: Any) -> Job:  # noqa: ANN401
    inventory = folder / f"fleet-{devices.start}-{devices.stop}.csv"
    inventory.write_text("\n".join(["IMEI", *map(imei, devices), ""]))
    content = {
        "action": "assign",
        "report": {"write": False},
        "inventory": {"files": [str(inventory)]},
        "license": {"account": ACCOUNT, "sku": sku, "consent_lifetime": True},
    }
    if _HOME.store is not None:
        content["store"] = {"url": _HOME.store}
    return make_job(content | tables, {}, where="test")


class Home:
    """Where the runs of a test keep journals and ledger: in files, or in a store."""

    store: str | None = None

    def ledger(self, folder: Path) -> Ledger:
        """The ledger of the runs in a folder."""
        return Ledger(self.store or folder / "ledger.db")


_HOME = Home()


@pytest.fixture(params=["files", "store"], autouse=True)
def home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Tests run on files and on a store, unless they are about files."""
    if request.param == "store":
        monkeypatch.setattr(_HOME, "store", request.getfixturevalue("empty_store"))
    return _HOME


about_files = pytest.mark.parametrize("home", ["files"], indirect=True)


def run(job: Job, folder: Path, target: Target) -> Mapping[DeviceStatus, int]:
    """Start a run whose id is its folder's name; its devices by status."""
    return start(job, RunFolder(folder), target, run_id=folder.name).statuses


def killed(job: Job, folder: Path, target: Target, answers: list[Answer | None]) -> None:
    """Leave the files of a killed run: intents in the order of the batches, and some of their answers."""
    stopped = job.model_copy(update={"limits": job.limits.model_copy(update={"max_concurrency": 1})})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchlic.runs.run.submit", _die)
        with pytest.raises(SystemExit):
            start(stopped, RunFolder(folder), target, run_id=folder.name)
    append(folder, answers, devices=job.limits.batch_size)


def append(folder: Path, answers: list[Answer | None], *, devices: int) -> None:
    """Add to a journal an intent for each batch, of so many devices, and some of their answers."""
    with RunFolder(folder).locked(), closing(RunFolder(folder).journal.open()) as journal:

        async def write() -> None:
            for batch_id, answer in enumerate(answers, start=1):
                seq = await journal.intend(intent(batch_id, device_count=devices))
                if answer is not None:
                    await journal.answer(seq, answer, duration_ms=1.0, final=False)

        anyio.run(write)


def stop(folder: RunFolder) -> None:
    """End the session of a killed run as a signal does: with results, and resumable."""
    with folder.locked(), closing(folder.journal.open()) as journal:
        job = job_of_journal(journal.identity)
        finalize(job, folder, journal, began=time.monotonic(), stopped=StoppedEarly("a signal"))


def _die(*_: object, **__: object) -> None:
    raise SystemExit


TAKEN = Answer(outcome=Outcome.ACCEPTED, http_status=200, request_id="request-1")


def reconciled(folder: Path, *, failed: Collection[str] = ()) -> Mapping[DeviceStatus, int]:
    """Reconcile a run with one callback a device; `failed` are IMEIs. Returns its devices by status."""
    sent = pl.read_parquet(folder / "results.parquet").drop_nulls("request_id")
    with closing(Store.open(str(folder.parent / f"{folder.name}.db"))) as store:
        store.write(
            [
                callback(
                    row["request_id"],
                    row["imei"],
                    received_at=round(row["last_attempt_at"].timestamp() * 1e6) + 1,
                    **failure() if row["imei"] in failed else {},
                )
                for row in sent.iter_rows(named=True)
            ]
        )
        return reconcile(RunFolder(folder), store).statuses


@pytest.mark.slow
def test_the_same_inventory_again_sends_nothing(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(1000))
    with carrier() as target:
        assert run(job, tmp_path / "first", target) == {"accepted": 1000}
        before = totals(target.base_url)
        again = start(job, RunFolder(tmp_path / "again"), target, run_id="again")
        assert totals(target.base_url) == before
    assert (again.exit_code, again.planned, again.statuses) == (0, 1000, {"skipped": 1000})
    assert again.requests["total"] == again.batches == 0
    results = pl.read_parquet(tmp_path / "again" / "results.parquet")
    assert results["attempts"].to_list() == [0] * 1000


@pytest.mark.slow
def test_a_larger_inventory_sends_only_the_new_devices(tmp_path: Path) -> None:
    with carrier() as target:
        run(job_of(tmp_path, range(1000)), tmp_path / "first", target)
        grown = run(job_of(tmp_path, range(1010)), tmp_path / "grown", target)
        licenses = Counter(sum(device["licenses"].values()) for device in books(target.base_url).values())
        assert totals(target.base_url)["executions"] == 11
    assert grown == {"accepted": 10, "skipped": 1000}
    assert licenses == {1: 1010}


@pytest.mark.slow
def test_unassigned_devices_are_licensed_again(tmp_path: Path) -> None:
    with carrier() as target:
        run(job_of(tmp_path, range(10)), tmp_path / "give", target)
        taken = run(job_of(tmp_path, range(4), action="unassign"), tmp_path / "take", target)
        unknown = run(job_of(tmp_path, range(10, 12), action="unassign"), tmp_path / "unknown", target)
        again = run(job_of(tmp_path, range(10)), tmp_path / "again", target)
    assert (taken, unknown) == ({"accepted": 4}, {"accepted": 2})
    assert again == {"accepted": 4, "skipped": 6}


@pytest.mark.slow
@about_files
def test_a_run_without_a_ledger_neither_reads_nor_records(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(10), ledger={"use": False})
    with carrier() as target:
        assert [run(job, tmp_path / name, target) for name in "ab"] == [{"accepted": 10}] * 2
    assert not (tmp_path / "ledger.db").exists()


@about_files
def test_a_plan_without_a_ledger_leaves_nothing_out(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db").close()
    plans = {use: job_of(tmp_path, range(10), ledger={"use": use}) for use in (True, False)}
    taken = {}
    for use, job in plans.items():
        with snapshot_for_plan(job, RunFolder(tmp_path / "plan"), "https://carrier.example/api") as snapshot:
            taken[use] = snapshot is not None
    assert taken == {True: True, False: False}


@pytest.mark.slow
@about_files
def test_a_run_without_a_ledger_is_resumed_settled_and_rolled_back(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(30), limits={"batch_size": 10}, ledger={"use": False})
    with carrier() as target:
        killed(job, tmp_path / "run", target, [TAKEN, None])
        settle(RunFolder(tmp_path / "run"), DeviceStatus.FAILED, reason="looked it up")
        assert resume(RunFolder(tmp_path / "run"), target).statuses == {"accepted": 20, "failed": 10}
        assert rollback(RunFolder(tmp_path / "run"), By.DEVICE, target, run_id="back").planned == 20
    assert not (tmp_path / "ledger.db").exists()


@pytest.mark.slow
@about_files
def test_two_carriers_in_one_ledger_do_not_mix(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(10), ledger={"path": str(tmp_path / "one.db")})
    with carrier() as here, carrier() as there:
        assert run(job, tmp_path / "here", here) == {"accepted": 10}
        assert run(job, tmp_path / "there", there) == {"accepted": 10}
        assert run(job, tmp_path / "again", here) == {"skipped": 10}


@pytest.mark.slow
@about_files
def test_a_run_against_an_embedded_sandbox_has_no_ledger(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(10), ledger={"path": str(tmp_path / "ledger.db")})
    with carrier() as target:
        fresh = Target("sandbox", target.base_url, target.credentials, ())
        assert [run(job, tmp_path / name, fresh) for name in "ab"] == [{"accepted": 10}] * 2
    assert not (tmp_path / "ledger.db").exists()


@pytest.mark.slow
def test_the_next_run_records_a_killed_run_from_its_journal(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(30), limits={"batch_size": 10})
    with carrier() as target:
        killed(job, tmp_path / "killed", target, [TAKEN, None])
        assert run(job, tmp_path / "next", target) == {"accepted": 10, "in_doubt": 10, "skipped": 10}


@pytest.mark.slow
def test_a_lifetime_license_in_doubt_after_a_kill_is_not_sent_again(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(30), sku=LIFETIME, limits={"batch_size": 10})
    with carrier() as target:
        killed(job, tmp_path / "killed", target, [TAKEN, None])
        summary = start(job, RunFolder(tmp_path / "next"), target, run_id="next")
        assert set(books(target.base_url)) == {imei(n) for n in range(20, 30)}
    assert (summary.exit_code, summary.statuses) == (3, {"accepted": 10, "in_doubt": 10, "skipped": 10})
    doubtful = pl.read_parquet(tmp_path / "next" / "results.parquet").filter(status="in_doubt")
    assert doubtful["batch_id"].null_count() == doubtful["x_request_id"].null_count() == 10
    assert doubtful["error_message"].str.contains("resume or settle that").all()


@pytest.mark.slow
def test_a_killed_run_is_not_resumed_after_another_sent_its_devices(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(30), limits={"batch_size": 10})
    with carrier() as target:
        killed(job, tmp_path / "killed", target, [TAKEN])
        run(job, tmp_path / "next", target)
        before = totals(target.base_url)
        with pytest.raises(RefusedToStart, match="run next has recorded 20 of the devices"):
            resume(RunFolder(tmp_path / "killed"), target)
        assert totals(target.base_url) == before


@pytest.mark.slow
@about_files
def test_h_newer_records_are_compared_one_frame_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    read, collect = Ledger.run_records, pl.LazyFrame.collect

    def run_records(*arguments: Any, **options: Any) -> Iterator[RunRecords]:  # noqa: ANN401
        for found in read(*arguments, **options):
            events.append(found.entry.run_id)
            yield found

    def count(frame: pl.LazyFrame, **options: Any) -> object:  # noqa: ANN401
        if options.get("engine") == "streaming":  # the content of records is read without
            events.append("compared")
        return collect(frame, **options)

    monkeypatch.setattr("batchlic.ledger.records.RECORDS_PER_FRAME", 5)
    job = job_of(tmp_path, range(30), limits={"batch_size": 10})
    with carrier() as target:
        killed(job, tmp_path / "killed", target, [TAKEN])
        run(job, tmp_path / "next", target)
        monkeypatch.setattr(Ledger, "run_records", run_records)
        monkeypatch.setattr(pl.LazyFrame, "collect", count)
        with pytest.raises(RefusedToStart, match="run next has recorded 20 of the devices"):
            resume(RunFolder(tmp_path / "killed"), target)
    assert events[events.index("next") :] == ["next", "compared", "compared"] * 4


@pytest.mark.slow
@pytest.mark.parametrize(("action", "sku"), [("unassign", FLEXIBLE), ("assign", NEW)])
def test_a_killed_migration_is_not_resumed_after_either_license_changed(
    tmp_path: Path, action: str, sku: str
) -> None:
    skus = {"account": ACCOUNT, "from_sku": FLEXIBLE, "to_sku": NEW}
    move = job_of(tmp_path, range(30), action="migrate", license=skus)
    with carrier() as target:
        killed(move, tmp_path / "move", target, [])
        run(job_of(tmp_path, range(5), action=action, sku=sku), tmp_path / "other", target)
        with pytest.raises(RefusedToStart, match="run other has recorded 5 of the devices"):
            resume(RunFolder(tmp_path / "move"), target)


@pytest.mark.slow
def test_a_killed_run_is_resumed_if_no_other_sent_its_devices(tmp_path: Path) -> None:
    with carrier() as target:
        killed(job_of(tmp_path, range(30), limits={"batch_size": 10}), tmp_path / "killed", target, [TAKEN])
        run(job_of(tmp_path, range(30, 40)), tmp_path / "next", target)
        summary = resume(RunFolder(tmp_path / "killed"), target)
        assert summary.statuses == {"accepted": 30}
        assert run(job_of(tmp_path, range(40)), tmp_path / "all", target) == {"skipped": 40}


@pytest.mark.slow
def test_a_killed_run_is_resumed_where_its_folder_has_moved_to(tmp_path: Path) -> None:
    with carrier() as target:
        killed(job_of(tmp_path, range(30), limits={"batch_size": 10}), tmp_path / "killed", target, [TAKEN])
        (tmp_path / "killed").rename(tmp_path / "archive")
        assert resume(RunFolder(tmp_path / "archive"), target).statuses == {"accepted": 30}
        assert run(job_of(tmp_path, range(40)), tmp_path / "next", target) == {"skipped": 30, "accepted": 10}


@about_files
@pytest.mark.parametrize("is_moved", [False, True])
def test_an_outdated_copy_of_a_run_sends_nothing(tmp_path: Path, is_moved: bool) -> None:  # noqa: FBT001
    with carrier() as target:
        killed(job_of(tmp_path, range(30), limits={"batch_size": 10}), tmp_path / "killed", target, [TAKEN])
        shutil.copytree(tmp_path / "killed", tmp_path / "copy")
        resume(RunFolder(tmp_path / "killed"), target)
        before = totals(target.base_url)
        if is_moved:
            (tmp_path / "killed").rename(tmp_path / "archive")
        with pytest.raises(RefusedToStart, match=r"copy: an outdated copy of run killed: .*/killed\)"):
            resume(RunFolder(tmp_path / "copy"), target)
        assert totals(target.base_url) == before
        assert run(job_of(tmp_path, range(40)), tmp_path / "next", target) == {"skipped": 30, "accepted": 10}


@about_files
def test_an_outdated_copy_is_told_also_if_the_clock_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with carrier() as target:
        killed(job_of(tmp_path, range(30), limits={"batch_size": 10}), tmp_path / "killed", target, [TAKEN])
        shutil.copytree(tmp_path / "killed", tmp_path / "copy")
        with monkeypatch.context() as patch:
            now = time.time_ns
            patch.setattr("batchlic.pool.sender.time.time_ns", lambda: now() - 10**17)
            resume(RunFolder(tmp_path / "killed"), target)
        with pytest.raises(RefusedToStart, match="copy: an outdated copy of run killed"):
            resume(RunFolder(tmp_path / "copy"), target)


@about_files
def test_an_outdated_copy_of_a_run_that_was_killed_again_replaces_no_newer_records(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "killed")
    with carrier() as target:
        job = job_of(tmp_path, range(30), limits={"batch_size": 10})
        killed(job, folder.path, target, [TAKEN])
        shutil.copytree(folder.path, tmp_path / "copy")
        resume(folder, target)
        with closing(Ledger(tmp_path / "ledger.db")) as ledger:
            entry = ledger.find_entry("killed")
            assert entry is not None
            ledger.register(entry)  # a later session, which was killed as well
        shutil.rmtree(folder.path)
        shutil.copytree(tmp_path / "copy", folder.path)
        before = totals(target.base_url)
        for _ in range(2):
            with pytest.raises(RefusedToStart, match="killed: an outdated copy of run killed"):
                resume(folder, target)
        with pytest.raises(RefusedToStart, match="an outdated copy of run killed"):
            run(job_of(tmp_path, range(40)), tmp_path / "next", target)
        assert totals(target.base_url) == before


@about_files
def test_a_copy_is_not_resumed_while_its_run_is_at_work(tmp_path: Path) -> None:
    with carrier() as target:
        killed(job_of(tmp_path, range(30), limits={"batch_size": 10}), tmp_path / "killed", target, [TAKEN])
        shutil.copytree(tmp_path / "killed", tmp_path / "copy")
        before = totals(target.base_url)
        why = pytest.raises(RefusedToStart, match=r"copy: a copy of a run at work: .*/killed: another")
        with RunFolder(tmp_path / "killed").locked(), why:
            resume(RunFolder(tmp_path / "copy"), target)
        assert totals(target.base_url) == before


@about_files
def test_an_outdated_copy_is_not_settled(tmp_path: Path) -> None:
    with carrier() as target:
        killed(job_of(tmp_path, range(30), limits={"batch_size": 10}), tmp_path / "killed", target, [None])
        shutil.copytree(tmp_path / "killed", tmp_path / "copy")
        resume(RunFolder(tmp_path / "killed"), target)
        with pytest.raises(RefusedToStart, match="copy: an outdated copy of run killed"):
            settle(RunFolder(tmp_path / "copy"), DeviceStatus.FAILED, reason="the portal says no")


@pytest.mark.slow
def test_two_runs_at_work_do_not_share_a_device(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(30))
    with carrier() as target:
        killed(job, tmp_path / "at-work", target, [])
        with RunFolder(tmp_path / "at-work").locked():
            with pytest.raises(RefusedToStart, match="run at-work is at work on 10 of the same devices"):
                run(job_of(tmp_path, range(20, 40)), tmp_path / "rival", target)
            assert run(job_of(tmp_path, range(50, 60)), tmp_path / "other", target) == {"accepted": 10}


@contextmanager
def at_work_elsewhere(folder: Path) -> Iterator[None]:
    """Let the run of a killed session be at work on another machine: its folder is not on this one."""
    named = RunFolder(folder).named_store
    assert named is not None
    folder.rename(folder.with_name("elsewhere"))
    key = f"run:{named.key}"
    leases.take(open_store(named.store), key, what="a run", holder="pid 1 on elsewhere", lease_s=600)
    yield
    take_away(named.store, key)


about_stores = pytest.mark.parametrize("home", ["store"], indirect=True)


@pytest.mark.slow
@about_stores
def test_runs_at_work_on_two_machines_do_not_share_a_device(tmp_path: Path) -> None:
    with carrier() as target:
        killed(job_of(tmp_path, range(30)), tmp_path / "at-work", target, [])
        with at_work_elsewhere(tmp_path / "at-work"):
            with pytest.raises(RefusedToStart, match="run at-work is at work on 10 of the same devices"):
                run(job_of(tmp_path, range(20, 40)), tmp_path / "rival", target)
            assert run(job_of(tmp_path, range(50, 60)), tmp_path / "other", target) == {"accepted": 10}


@pytest.mark.slow
@about_stores
def test_a_run_that_died_on_another_machine_stops_others(tmp_path: Path, home: Home) -> None:
    with carrier() as target:
        killed(job_of(tmp_path, range(10)), tmp_path / "killed", target, [None])
        is_at_work = pytest.raises(RefusedToStart, match=r"run killed is at work \(pid 1 on elsewhere\)")
        with (
            at_work_elsewhere(tmp_path / "killed"),
            closing(home.ledger(tmp_path)) as ledger,
            is_at_work,
        ):
            refuse_at_work(ledger, target.name)
        with pytest.raises(RefusedToStart, match="its folder is gone, or on another machine"):
            run(job_of(tmp_path, range(20, 30)), tmp_path / "next", target)


@pytest.mark.slow
@about_stores
def test_a_run_on_another_machine_that_sent_nothing_stops_nobody(tmp_path: Path) -> None:
    with carrier() as target:
        killed(job_of(tmp_path, range(10)), tmp_path / "killed", target, [])
        (tmp_path / "killed").rename(tmp_path / "elsewhere")
        assert run(job_of(tmp_path, range(10)), tmp_path / "next", target) == {"accepted": 10}
        with pytest.raises(RefusedToStart, match="run next has recorded 10 of the devices"):
            resume(RunFolder(tmp_path / "elsewhere"), target)


@pytest.mark.slow
@about_stores
def test_k_a_session_that_was_replaced_does_not_end_its_run_in_the_ledger(tmp_path: Path, home: Home) -> None:
    with carrier() as target:
        killed(job_of(tmp_path, range(10)), tmp_path / "run", target, [TAKEN])
        folder = RunFolder(tmp_path / "run")
        with folder.locked(), closing(folder.journal.open()) as journal:
            assert folder.lease is not None
            take_away(home.store or "", folder.lease.key)
            sync = LedgerSync(home.ledger(tmp_path), job_of(tmp_path, range(10)), target.name, (folder,))
            with pytest.raises(leases.LeaseLost):
                sync.record(folder, journal)
        with closing(home.ledger(tmp_path)) as ledger:
            assert ledger.is_open("run")
            assert ledger.scopes() == []


@pytest.mark.slow
def test_active_runs_may_share_devices_that_the_ledger_excludes(tmp_path: Path) -> None:
    with carrier() as target:
        run(job_of(tmp_path, range(10, 30)), tmp_path / "licensed", target)
        killed(job_of(tmp_path, range(30)), tmp_path / "at-work", target, [])
        with RunFolder(tmp_path / "at-work").locked():
            other = run(job_of(tmp_path, range(10, 40)), tmp_path / "other", target)
    assert other == {"accepted": 10, "skipped": 20}


@pytest.mark.slow
def test_a_run_is_resumed_after_its_excluded_doubts_are_settled(tmp_path: Path) -> None:
    with carrier() as target:
        killed(job_of(tmp_path, range(10)), tmp_path / "doubtful", target, [None])
        killed(job_of(tmp_path, range(20)), tmp_path / "killed", target, [])
        settle(RunFolder(tmp_path / "doubtful"), DeviceStatus.ACCEPTED, reason="looked it up")
        resumed = resume(RunFolder(tmp_path / "killed"), target)
    assert resumed.statuses == {"accepted": 10, "in_doubt": 10}


@about_files
def test_h_accounts_and_skus_are_asked_for_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    read = Ledger.run_records

    def run_records(*arguments: Any, **options: Any) -> Iterator[RunRecords]:  # noqa: ANN401
        asked.append(arguments[2])
        return read(*arguments, **options)

    with carrier() as target:
        monkeypatch.setattr(Ledger, "run_records", run_records)
        run(job_of(tmp_path, range(30)), tmp_path / "run", target)
    assert asked[-1] == [(ACCOUNT, FLEXIBLE)]


@pytest.mark.slow
def test_an_import_waits_for_active_runs_and_not_for_lost_ones(tmp_path: Path, home: Home) -> None:
    with carrier() as target:
        killed(job_of(tmp_path, range(10)), tmp_path / "at-work", target, [])
        with closing(home.ledger(tmp_path)) as ledger:
            with RunFolder(tmp_path / "at-work").locked(), pytest.raises(RefusedToStart, match="at-work"):
                refuse_at_work(ledger, target.name)
            refuse_at_work(ledger, target.name)
            (tmp_path / "at-work").rename(tmp_path / "elsewhere")
            refuse_at_work(ledger, target.name)


@pytest.mark.slow
def test_a_run_is_refused_if_another_sent_its_devices_since_planning(tmp_path: Path) -> None:
    with carrier() as target:

        def ask(_: str, **__: object) -> None:
            """Let another run go first."""
            assert run(job_of(tmp_path, range(20)), tmp_path / "quick", target) == {"accepted": 20}

        slow = RunFolder(tmp_path / "slow")
        with pytest.raises(RefusedToStart, match="run quick has recorded 10 of the devices"):
            start(job_of(tmp_path, range(10, 30)), slow, target, run_id="slow", ask=ask)
        assert totals(target.base_url)["executions"] == 1
        assert run(job_of(tmp_path, range(10, 30)), tmp_path / "again", target) == {
            "accepted": 10,
            "skipped": 10,
        }


@pytest.mark.slow
def test_a_run_with_a_missing_folder_stops_others_until_forgotten(tmp_path: Path, home: Home) -> None:
    job = job_of(tmp_path, range(10))
    with carrier() as target:
        killed(job, tmp_path / "lost", target, [None])
        (tmp_path / "lost").rename(tmp_path / "elsewhere")
        with pytest.raises(RefusedToStart, match="batchlic ledger forget lost"):
            run(job, tmp_path / "next", target)
        with closing(home.ledger(tmp_path)) as ledger:
            ledger.close_run("lost")
        assert run(job, tmp_path / "next", target) == {"accepted": 10}


@pytest.mark.slow
def test_a_lost_answer_is_recorded_as_in_doubt(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(10), sku=LIFETIME)
    with carrier(faults={Fault.RESET_AFTER: 1.0}) as target:
        assert run(job, tmp_path / "first", target) == {"in_doubt": 10}
        assert run(job, tmp_path / "again", target) == {"in_doubt": 10}
        assert {device["assigned"] for device in books(target.base_url).values()} == {1}


@pytest.mark.slow
def test_what_an_operator_settles_is_recorded(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(10), limits={"resend_in_doubt": False})
    with carrier(faults={Fault.RESET_AFTER: 1.0}) as doubtful:
        assert run(job, tmp_path / "first", doubtful) == {"in_doubt": 10}
        assert run(job, tmp_path / "held", doubtful) == {"in_doubt": 10}
        with pytest.raises(UsageError, match="itself: 10 devices are in doubt since an earlier run"):
            settle(RunFolder(tmp_path / "held"), DeviceStatus.ACCEPTED, reason="looked it up")
        settle(RunFolder(tmp_path / "first"), DeviceStatus.ACCEPTED, reason="looked it up")
        assert run(job, tmp_path / "again", doubtful) == {"skipped": 10}


@pytest.mark.slow
def test_devices_of_a_rollback_are_licensed_again(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(10))
    with carrier() as target:
        run(job, tmp_path / "first", target)
        back = rollback(RunFolder(tmp_path / "first"), By.REQUEST, target, run_id="back")
        assert back.statuses == {"accepted": 10}
        assert run(job, tmp_path / "again", target) == {"accepted": 10}
        assert {device["assigned"] for device in books(target.base_url).values()} == {2}


@pytest.mark.slow
def test_the_history_shows_a_skipped_device(tmp_path: Path) -> None:
    with carrier() as target:
        for name in ("first", "again"):
            run(job_of(tmp_path, range(3)), tmp_path / name, target)
    events = [(event.event, event.outcome) for event in device_history(imei(1), tmp_path)]
    assert events == [("planned", None), ("sent", None), ("answered", "accepted"), ("planned", "skipped")]


@pytest.mark.slow
def test_only_one_of_two_stopped_runs_with_the_same_devices_is_resumed(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(30), sku=LIFETIME, limits={"batch_size": 10})
    with carrier() as target:
        for name in "ab":
            killed(job, tmp_path / name, target, [])
        assert resume(RunFolder(tmp_path / "a"), target).statuses == {"accepted": 30}
        with pytest.raises(RefusedToStart, match="run a has recorded 30 of the devices"):
            resume(RunFolder(tmp_path / "b"), target)
        assert {device["assigned"] for device in books(target.base_url).values()} == {1}


def _empty_ledger(store: str) -> None:
    with open_store(store).engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE announced, catalog, records, runs")


def rebuilt(folder: Path, carrier: str) -> Imported:
    """Build the ledger of a folder of runs again, after its loss."""
    if _HOME.store is None:
        (folder / "ledger.db").unlink()
    else:
        _empty_ledger(_HOME.store)
    with closing(_HOME.ledger(folder)) as ledger:
        return import_files(ledger, [str(folder)], ReadOptions(), carrier=carrier)


@pytest.mark.slow
def test_d_a_rebuilt_ledger_knows_what_a_killed_run_sent(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(30), sku=LIFETIME, limits={"batch_size": 10})
    with carrier() as target:
        killed(job, tmp_path / "killed", target, [TAKEN, None])
        imported = rebuilt(tmp_path, target.name)
        assert run(job, tmp_path / "next", target) == {"accepted": 10, "in_doubt": 10, "skipped": 10}
    assert (imported.devices, imported.unfinished_runs) == (0, ["killed"])


@pytest.mark.slow
def test_d_a_rebuilt_ledger_knows_what_a_resumed_run_sent_before_a_kill(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(30), sku=LIFETIME, limits={"batch_size": 10})
    with carrier() as target:
        killed(job, tmp_path / "killed", target, [])
        stop(RunFolder(tmp_path / "killed"))
        append(tmp_path / "killed", [TAKEN, None], devices=10)
        assert rebuilt(tmp_path, target.name).unfinished_runs == ["killed"]
        assert run(job, tmp_path / "next", target) == {"accepted": 10, "in_doubt": 10, "skipped": 10}


@pytest.mark.slow
def test_a_rebuilt_ledger_leaves_ended_and_forgotten_runs_closed(tmp_path: Path, home: Home) -> None:
    with carrier() as target:
        run(job_of(tmp_path, range(10)), tmp_path / "ended", target)
        killed(job_of(tmp_path, range(20, 30)), tmp_path / "killed", target, [None])
        assert rebuilt(tmp_path, target.name).unfinished_runs == ["killed"]
        with closing(home.ledger(tmp_path)) as ledger:
            ledger.close_run("killed")
            again = import_files(ledger, [str(tmp_path)], ReadOptions(), carrier=target.name)
            assert ledger.open_entries(target.name) == []
    assert again.unfinished_runs == []


@about_files
def test_a_ledger_is_not_rebuilt_without_the_journal_of_a_killed_run(tmp_path: Path) -> None:
    with carrier() as target:
        killed(job_of(tmp_path, range(10)), tmp_path / "killed", target, [None])
        for log in (tmp_path / "killed").glob("journal.db-*"):
            log.unlink()
        (tmp_path / "killed" / "journal.db").write_bytes(b"")
        with pytest.raises(RunFolderError, match=r"killed/journal\.db: the journal is damaged"):
            rebuilt(tmp_path, target.name)


@pytest.mark.slow
@about_files
def test_a_resumed_run_uses_its_own_ledger_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, range(30), sku=LIFETIME, limits={"batch_size": 10})
    with carrier() as target:
        for name in "ab":
            killed(job, tmp_path / "runs" / name, target, [])
        assert run(job, tmp_path / "runs" / "next", target) == {"accepted": 30}
        monkeypatch.chdir(tmp_path / "runs" / "a")
        (tmp_path / "old").mkdir()
        (tmp_path / "runs" / "b").rename(tmp_path / "old" / "b")
        for folder in (Path(), tmp_path / "old" / "b"):
            with pytest.raises(RefusedToStart, match="run next has recorded 30"):
                resume(RunFolder(folder), target)
        (tmp_path / "runs" / "ledger.db").unlink()
        with pytest.raises(RefusedToStart, match="build it again: batchlic ledger import"):
            resume(RunFolder(tmp_path / "old" / "b"), target)
        assert {device["assigned"] for device in books(target.base_url).values()} == {1}


@pytest.mark.slow
def test_callbacks_for_an_assign_do_not_stop_a_later_unassign(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(30), limits={"batch_size": 10})
    take = job_of(tmp_path, range(30), action="unassign", limits={"batch_size": 10})
    with carrier() as target:
        run(job, tmp_path / "given", target)
        killed(take, tmp_path / "taken", target, [TAKEN])
        assert reconciled(tmp_path / "given", failed=[imei(29)]) == {"confirmed": 29, "failed": 1}
        assert resume(RunFolder(tmp_path / "taken"), target).statuses == {"accepted": 30}


@pytest.mark.slow
def test_an_interrupted_rollback_is_resumed_after_a_reconcile(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(30), limits={"batch_size": 10})
    with carrier() as target:
        run(job, tmp_path / "given", target)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("batchlic.runs.run.submit", _die)
            with pytest.raises(SystemExit):
                rollback(RunFolder(tmp_path / "given"), By.DEVICE, target, run_id="back")
        reconciled(tmp_path / "given")
        back = rollback(RunFolder(tmp_path / "given"), By.DEVICE, target, run_id="again")
    assert back.statuses == {"accepted": 30}


@pytest.mark.slow
def test_a_denied_unassign_stops_the_run_that_assigns_again(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(10), limits={"batch_size": 10})
    with carrier() as target:
        run(job, tmp_path / "given", target)
        run(job_of(tmp_path, range(10), action="unassign"), tmp_path / "taken", target)
        killed(job, tmp_path / "anew", target, [])
        reconciled(tmp_path / "taken", failed=[imei(3)])
        with pytest.raises(RefusedToStart, match="run taken has recorded 1 of the devices"):
            resume(RunFolder(tmp_path / "anew"), target)
        assert run(job, tmp_path / "next", target) == {"accepted": 9, "skipped": 1}


@pytest.mark.slow
def test_a_refused_run_can_be_started_again(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(30))
    with carrier() as target:
        killed(job, tmp_path / "at-work", target, [])
        with RunFolder(tmp_path / "at-work").locked(), pytest.raises(RefusedToStart, match="is at work on"):
            run(job, tmp_path / "tonight", target)
        resume(RunFolder(tmp_path / "at-work"), target)
        assert run(job, tmp_path / "tonight", target) == {"skipped": 30}


@pytest.mark.slow
def test_a_run_killed_before_its_journal_is_started_again_in_its_folder(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(30))
    with carrier() as target:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("batchlic.runs.run.begin", _die)
            with pytest.raises(SystemExit):
                run(job, tmp_path / "tonight", target)
        again = start(job, RunFolder(tmp_path / "tonight"), target, run_id="again")
    assert again.statuses == {"accepted": 30}


@pytest.mark.slow
def test_a_killed_run_can_be_rolled_back(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(30), limits={"batch_size": 10})
    with carrier() as target:
        killed(job, tmp_path / "killed", target, [TAKEN])
        back = rollback(RunFolder(tmp_path / "killed"), By.DEVICE, target, run_id="back")
    assert back.planned == 10


@pytest.mark.parametrize("lost", ["journal.db", "plan.parquet"])
@about_files
def test_an_unreadable_killed_run_stops_others_until_forgotten(tmp_path: Path, lost: str) -> None:
    with carrier() as target:
        killed(job_of(tmp_path, range(10)), tmp_path / "killed", target, [None])
        (tmp_path / "killed" / "run.log").touch()
        for path in (tmp_path / "killed").glob(f"{lost}*"):
            path.unlink()
        with pytest.raises(RefusedToStart, match=rf"{lost}.*batchlic ledger forget killed"):
            run(job_of(tmp_path, range(50, 60)), tmp_path / "next", target)


@pytest.mark.slow
@about_files
def test_a_run_succeeds_even_if_the_ledger_can_not_be_written(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(10), ledger={"path": str(tmp_path / "one.db")})
    with carrier() as target:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Ledger, "record", _full_disk)
            summary = start(job, RunFolder(tmp_path / "first"), target, run_id="first")
        assert (summary.exit_code, summary.statuses) == (0, {"accepted": 10})
        assert "the disk is full" in summary.notes[-1]
        assert run(job, tmp_path / "again", target) == {"skipped": 10}


def _full_disk(*_: object, **__: object) -> None:
    raise StoppedEarly("the disk is full")


@pytest.mark.slow
@pytest.mark.parametrize("own", [range(10), range(5, 20)])
def test_a_first_run_notices_another_first_run_that_ended_meanwhile(tmp_path: Path, own: range) -> None:
    job, other = job_of(tmp_path, own), job_of(tmp_path, range(8))
    with carrier() as target:

        def end_another(_: str, **__: object) -> None:
            run(other, tmp_path / "other", target)

        with pytest.raises(RefusedToStart, match="run other has recorded"):
            start(job, RunFolder(tmp_path / "own"), target, run_id="own", ask=end_another)
        assert totals(target.base_url)["devices"] == 8


@pytest.mark.slow
def test_a_ledger_whose_first_run_is_at_work_is_not_new(tmp_path: Path) -> None:
    with carrier() as target:
        run(job_of(tmp_path, range(10), ledger={"use": False}), tmp_path / "unrecorded", target)
        first = job_of(tmp_path, range(10, 20), ledger={"allow_new": True})
        killed(first, tmp_path / "first", target, [TAKEN])
        with RunFolder(tmp_path / "first").locked():
            other = run(job_of(tmp_path, range(20, 30)), tmp_path / "other", target)
    assert other == {"accepted": 10}


@about_files
def test_a_run_that_is_refused_leaves_no_ledger(tmp_path: Path) -> None:
    few = {FLEXIBLE: 5}
    with carrier(licenses=few) as target, pytest.raises(RefusedToStart, match="too few licenses"):
        run(job_of(tmp_path, range(10)), tmp_path / "run", target)
    assert not (tmp_path / "ledger.db").exists()


@pytest.mark.parametrize("path", ["folder", "file/ledger.db"])
@about_files
def test_a_ledger_that_can_not_be_made_stops_a_run_before_it_sends(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    job = job_of(tmp_path, range(10), ledger={"path": str(tmp_path / path)})
    with carrier() as target:
        with pytest.raises(UsageError, match=r"can't be written, because .* a folder: name another place"):
            run(job, tmp_path / "first", target)
        assert totals(target.base_url)["executions"] == 0


def damage(ledger: Path) -> None:
    """Flip a bit in the newest content of a ledger."""
    whole = bytearray(ledger.read_bytes())
    whole[whole.rindex(b"PAR1") - 50] ^= 1
    ledger.write_bytes(whole)


@pytest.mark.slow
@about_files
def test_a_damaged_ledger_stops_a_run_before_it_sends(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(10))
    with carrier() as target:
        run(job, tmp_path / "first", target)
        damage(tmp_path / "ledger.db")
        before = totals(target.base_url)
        with pytest.raises(LedgerError, match="the records of run first"):
            run(job, tmp_path / "again", target)
        assert totals(target.base_url) == before


@pytest.mark.slow
@about_files
def test_a_damaged_ledger_stops_the_resumption_of_a_run(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(30), limits={"batch_size": 10})
    with carrier() as target:
        killed(job, tmp_path / "killed", target, [])
        run(job_of(tmp_path, range(40, 50)), tmp_path / "other", target)
        damage(tmp_path / "ledger.db")
        before = totals(target.base_url)
        with pytest.raises(LedgerError, match="the records of run other"):
            resume(RunFolder(tmp_path / "killed"), target)
        assert totals(target.base_url) == before


@pytest.mark.slow
@about_files
def test_a_damaged_ledger_is_not_blamed_on_a_killed_run(tmp_path: Path) -> None:
    job = job_of(tmp_path, range(30))
    with carrier() as target:
        run(job, tmp_path / "killed", target)
        with closing(Ledger(tmp_path / "ledger.db")) as ledger:
            ledger.register(RunEntry("killed", target.name, str(tmp_path / "killed"), 1))
        damage(tmp_path / "ledger.db")
        with pytest.raises(LedgerError, match="batchlic ledger import"):
            run(job_of(tmp_path, range(50, 60)), tmp_path / "next", target)


@pytest.mark.slow
@about_files
def test_a_ledger_that_is_damaged_during_a_run_is_a_note_of_the_run(tmp_path: Path) -> None:
    def damage_and_begin(*arguments: Any, **options: Any) -> Summary:  # noqa: ANN401
        damage(tmp_path / "ledger.db")
        return begin(*arguments, **options)

    job = job_of(tmp_path, range(10))
    with carrier() as target, pytest.MonkeyPatch.context() as patch:
        first = run(job, tmp_path / "first", target)
        patch.setattr("batchlic.runs.run.begin", damage_and_begin)
        summary = start(
            job_of(tmp_path, range(10, 20)), RunFolder(tmp_path / "second"), target, run_id="second"
        )
    assert first == summary.statuses == {"accepted": 10}
    assert summary.exit_code == 0
    assert "ledger.db is damaged" in summary.notes[-1]
