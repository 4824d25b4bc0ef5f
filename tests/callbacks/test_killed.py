"""After a killed `reconcile`, no file looks tampered with, and the next command completes it."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import anyio
import pytest
import sqlalchemy as sa

from batchlic.callbacks.messages import StoredMessage
from batchlic.callbacks.store import Store
from batchlic.carrier.answers import Answer
from batchlic.carrier.credentials import Credentials, Secret
from batchlic.chunker import DeviceStatus, Step
from batchlic.errors import ExitCode, StoppedEarly
from batchlic.runs.finalize import finalize
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import job_of
from batchlic.runs.reconcile import reconcile
from batchlic.runs.run import resume
from batchlic.runs.settle import settle
from batchlic.runs.target import Target
from batchlic.runs.verify import verify
from tests.callbacks.builders import BEGAN, accepted, failure, lost, messages_of, statuses, submitted_run
from tests.journal.builders import intent

NAME = Secret("sandbox")
KEYS = Credentials(client_id=NAME, client_secret=NAME, username=NAME, password=NAME)
NOBODY = Target("sandbox", "http://127.0.0.1:1/api", KEYS, ())


STRIDE = int(os.environ.get("STRIDE", "19"))
"""Of how many places one is tried; 1 takes a minute and tries all."""


class KilledError(BaseException):
    """What a process does not survive."""


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """Let a process die at this one of its durable steps: around a rename, before a sync, commit or removal.

    It does nothing durable any more from then on, whatever it still tries.
    """
    steps = count()

    def passing() -> None:
        if next(steps) >= step:
            raise KilledError

    fsync, replace, unlink = os.fsync, Path.replace, Path.unlink

    def synced(descriptor: int) -> None:
        passing()
        fsync(descriptor)

    def replaced(path: Path, target: Path) -> Path:
        passing()
        found = replace(path, target)
        passing()
        return found

    def unlinked(path: Path, missing_ok: bool = False) -> None:  # noqa: FBT001, FBT002 - as pathlib has it
        passing()
        unlink(path, missing_ok=missing_ok)

    def committing(_: sa.Connection) -> None:
        passing()

    sa.event.listen(sa.Engine, "commit", committing)
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(os, "fsync", synced)
            patched.setattr(Path, "replace", replaced)
            patched.setattr(Path, "unlink", unlinked)
            yield
    finally:
        sa.event.remove(sa.Engine, "commit", committing)


def finished(path: Path, answered: Callable[[int], list[Answer | None]]) -> RunFolder:
    """A run of three Lifetime licenses that has ended, with the messages about two of them in its folder."""
    folder = submitted_run(path, 3, answered=answered, sku="SIMSec-IoT-Lt")
    with closing(folder.journal.open()) as journal:
        finalize(job_of(journal.identity), folder, journal, began=time.monotonic())
    served, failed, _ = messages_of(folder)
    keep(folder, [served, failed._replace(**failure())])
    return folder


def keep(folder: RunFolder, messages: list[StoredMessage]) -> None:
    with closing(Store.open(str(folder.path / "store.db"))) as store:
        store.write(messages)


def reconciled(folder: RunFolder) -> dict[DeviceStatus, int]:
    with closing(Store.open(str(folder.path / "store.db"))) as store:
        return dict(reconcile(folder, store).statuses)


def settled(folder: RunFolder) -> dict[DeviceStatus, int]:
    first = messages_of(folder)[0].imei
    return dict(settle(folder, DeviceStatus.ACCEPTED, reason="the portal shows it", devices=[first]).statuses)


@pytest.mark.parametrize(
    ("answered", "act", "expected"),
    [
        (accepted, reconciled, {"confirmed": 1, "failed": 1, "accepted": 1}),
        (lost, reconciled, {"confirmed": 1, "failed": 1, "in_doubt": 1}),
        (lost, settled, {"accepted": 1, "in_doubt": 2}),
    ],
)
def test_a_killed_reconcile_changes_nothing_until_the_next_command(
    tmp_path: Path,
    answered: Callable[[int], list[Answer | None]],
    act: Callable[[RunFolder], dict[str, int]],
    expected: dict[str, int],
) -> None:
    before = finished(tmp_path / "before", answered)
    for step in count(step=STRIDE):
        here = RunFolder(tmp_path / f"{step}")
        shutil.copytree(before.path, here.path)
        try:
            with killed_at(step):
                act(here)
        except KilledError:
            pass
        else:
            break
        assert verify(here).findings == [], step
        assert resume(here, NOBODY).exit_code in {ExitCode.OK, ExitCode.INCOMPLETE}, step
        assert verify(here).findings == [], step
        assert resume(here, NOBODY).statuses == statuses(here), step
        assert act(here) == expected == statuses(here), step
        assert verify(here).findings == [], step
        assert not list(here.path.glob(".*.next")), step
    assert step > 10


def test_a_failed_write_leaves_no_staged_file_and_the_old_files(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", accepted)
    before = {path.name: path.read_bytes() for path in folder.session_files}

    def full(*_: object) -> None:
        raise StoppedEarly("no space left")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("batchlic.runs.finalize.write_summary", full)
        with pytest.raises(StoppedEarly):
            reconciled(folder)
    assert {path.name: path.read_bytes() for path in folder.session_files} == before
    assert not list(folder.path.glob(".*.next"))
    assert not folder.outcomes.exists()


def test_files_that_can_not_be_published_wait_for_the_next_command(tmp_path: Path) -> None:
    folder, replace = finished(tmp_path / "run", accepted), Path.replace

    def read_only(path: Path, target: Path) -> Path:
        if path.suffix == ".next":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return replace(path, target)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "replace", read_only)
        with pytest.raises(StoppedEarly, match="Read-only"):
            reconciled(folder)
    assert list(folder.path.glob(".*.next"))
    assert reconciled(folder) == {"confirmed": 1, "failed": 1, "accepted": 1}
    assert verify(folder).findings == []


def test_a_killed_reconcile_of_an_ended_migration_is_no_killed_run(
    tmp_path: Path,
) -> None:
    folder = submitted_run(tmp_path / "run", 3, to_sku="SIMSec-IoT-Lt")  # the old licenses are gone
    with closing(folder.journal.open()) as journal:
        assign = intent(1, step=Step.ASSIGN, device_count=3, started_at=BEGAN)
        anyio.run(journal.intend, assign)  # and whether the new ones came is not known
        finalize(job_of(journal.identity), folder, journal, began=time.monotonic())
    keep(folder, [messages_of(folder)[0]._replace(request_id="strange")])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("batchlic.runs.reconcile.finalize", _die)
        with pytest.raises(KilledError):
            reconciled(folder)
    with closing(Store.open(str(folder.path / "store.db"))) as store:
        summary = reconcile(folder, store)
    assert (summary.exit_code, summary.statuses) == (ExitCode.INCOMPLETE, {"accepted": 1, "in_doubt": 2})


def _die(*_: object, **__: object) -> None:
    raise KilledError
