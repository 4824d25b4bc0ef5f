"""Checks a job before its night: everything on this machine that a run needs. It sends nothing.

What the carrier can tell is in `batchlic.runs.check_carrier`. Each check stands for itself: an error in one
hides no other.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec

from batchlic.callbacks.store import Store
from batchlic.chunker import DeviceStatus, Plan, PlanGroup
from batchlic.errors import BatchlicError, ExitCode
from batchlic.figures import counted
from batchlic.job import Job
from batchlic.journal.store_state import state_of
from batchlic.objectstore.addresses import is_remote
from batchlic.reader.formats.databases.reading import query_result
from batchlic.reader.inputs.addresses import Address, address_of, download
from batchlic.reader.inputs.databases import Database, refuse_without_query
from batchlic.reader.inputs.sources import expanded
from batchlic.reader.inputs.streams import STDIN, opened
from batchlic.runs.descriptors import connections_for, fewer_connections_note
from batchlic.runs.folder import RunFolder
from batchlic.runs.guards import guards_of
from batchlic.runs.kept import refuse_own_names
from batchlic.runs.ledger_sync import check_ledger, snapshot_for_plan
from batchlic.runs.run import dry_run

READ_WHOLE = 64 * 2**20
"""Bytes of inventories, together, up to which they are read whole without being asked to."""

BYTES_PER_DEVICE = 300
"""Disk room of a planned device: plan, journal, results and audit, beside the files of the last session.

A run of 25,000 devices was seen to leave 30; a limit that is hit often and long error texts take more.
"""

BYTES_PER_KEPT_CELL = 100
"""Disk room of a kept cell: a scratch file while the run is planned, kept.parquet, rejects and results."""

LITTLE_ROOM = 2**30
"""Bytes of free disk below which there is a warning, if the number of devices is not known."""

T = TypeVar("T")


class Level(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check. `message` says what was found and, unless it is ok, what to do."""

    check: str
    level: Level
    message: str
    credentials_rejected: bool = False


def ok(check: str, message: str) -> Finding:
    """A check without anything to do."""
    return Finding(check=check, level=Level.OK, message=message)


def warning(check: str, message: str) -> Finding:
    """A check after which the run may do less than it should."""
    return Finding(check=check, level=Level.WARNING, message=message)


def error(check: str, message: str) -> Finding:
    """A check after which the run would be refused, stop or fail."""
    return Finding(check=check, level=Level.ERROR, message=message)


def attempted(check: str, work: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of a check; an error that ends it is one of them."""
    try:
        yield from work()
    except (BatchlicError, OSError) as failure:
        yield error(check, str(failure))


class Report:
    """The findings of all checks, in their order. `tell` gets each one as soon as it is known."""

    def __init__(self, tell: Callable[[Finding], None]) -> None:
        self._tell = tell
        self.findings: list[Finding] = []

    def add(self, check: str, work: Callable[[], Iterable[Finding]]) -> None:
        """Do a check. An error that ends it is one of its findings."""
        for finding in attempted(check, work):
            self.findings.append(finding)
            self._tell(finding)

    def value(self, check: str, get: Callable[[], T]) -> T | None:
        """What `get` returns; None after an error, which is a finding then."""
        values: list[T] = []

        def work() -> Iterator[Finding]:
            values.append(get())
            yield from ()

        self.add(check, work)
        return values[0] if values else None

    @property
    def exit_code(self) -> ExitCode:
        """5 if the carrier rejected the credentials, 3 after other errors, or else 0."""
        errors = [finding for finding in self.findings if finding.level is Level.ERROR]
        if any(finding.credentials_rejected for finding in errors):
            return ExitCode.CREDENTIALS
        return ExitCode.INCOMPLETE if errors else ExitCode.OK


# -- the job --------------------------------------------------------------------------------------------


def check_job(path: Path, job: Job) -> Iterator[Finding]:
    """Whether others can read a job file that holds secrets."""
    has_secrets = any(
        address.url != address.shown for name in job.inventory.files if (address := address_of(name))
    )
    if has_secrets and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield warning(
            "job",
            f"{path}: others may read the login or signature of an inventory's address: chmod 600 {path}",
        )
        return
    yield ok("job", f"{path}: {job.action}, {counted(len(job.inventory.files), 'inventory')}")


def check_inventories(job: Job) -> Iterator[Finding]:
    """Whether each inventory can be opened. Only its beginning is read."""
    inputs = expanded(job.inventory.files)
    refuse_without_query(inputs.databases, job.inventory.query)
    for name in inputs.names:
        yield from attempted("inventory", lambda name=name: _check_inventory(name, job))  # type: ignore[misc]


def _check_inventory(name: str | Address | Database, job: Job) -> Iterator[Finding]:
    if isinstance(name, Database):
        with query_result(name, job.read_options()) as result:
            result.inventory(job.read_options())
        if not result.rows and not job.inventory.allow_empty:
            yield error(
                "inventory", f"{name}: the query returns no rows: check it, or allow that with --allow-empty"
            )
            return
        yield ok("inventory", f"{name}: the query can be read")
        return
    if name == STDIN or (isinstance(name, str) and _is_pipe(name)):
        yield ok("inventory", f"{name}: a stream, which only the run can read")
        return
    with ExitStack() as files:
        if isinstance(name, Address):
            source = opened(files.enter_context(download(name, job.inventory.download_timeout)), files)
        else:
            source = opened(name, files)
        if not source.head and not job.inventory.allow_empty:
            yield error("inventory", f"{name}: is empty: check the export, or allow that with --allow-empty")
            return
    yield ok("inventory", f"{name}: {_size_and_time(name)}")


def _size_and_time(name: str | Address) -> str:
    if isinstance(name, Address) or is_remote(name):
        return "can be opened"
    found = Path(name).stat()
    changed = datetime.fromtimestamp(found.st_mtime, UTC)
    return f"{counted(found.st_size, 'byte')}, changed {changed:%Y-%m-%dT%H:%M:%SZ}"


def _is_pipe(name: str) -> bool:
    path = Path(name)
    return path.exists() and not path.is_file()


class Rehearsal:
    """The plan of a job's next run, without any file of it.

    After `check`, `groups` are those of the plan, and `devices` is how many there are. Where no inventory is
    planned, `devices` is None, and the groups are the job's default account and SKU, with 0 devices.
    """

    def __init__(self, job: Job, state_folder: Path, carrier: str) -> None:
        self._job = job
        self._folder = RunFolder(state_folder / "check")
        self._carrier = carrier
        self.devices: int | None = None
        self.groups = _default_groups(job)

    def check(self, *, whole: bool) -> Iterator[Finding]:
        """Plan the inventories if they are small, or with `whole`; say what the run would leave out."""
        job = self._job
        refuse_own_names(job)
        if not (_can_be_planned(job) if whole else _are_small(job)):
            advice = "standard input is read only by the run" if whole else "--whole plans them"
            yield ok("plan", f"the inventories are not read to their end: {advice}")
            yield from _check_consent(job, [group.sku_number for group in self.groups])
            return
        with snapshot_for_plan(job, self._folder, self._carrier) as snapshot:
            plan = dry_run(job, self._folder, guards_of(job, self._folder, self._carrier), snapshot)
        self.devices, self.groups = plan.planned, list(plan.groups)
        yield from _check_plan(job, plan)
        yield from _check_consent(job, [group.sku_number for group in self.groups])


def _can_be_planned(job: Job) -> bool:
    names = expanded(job.inventory.files).names
    return not any(isinstance(name, str) and (name == STDIN or _is_pipe(name)) for name in names)


def _are_small(job: Job) -> bool:
    """Whether the inventories are files on this machine that can be planned within seconds."""
    names = expanded(job.inventory.files).names
    paths = [Path(name) for name in names if isinstance(name, str) and name != STDIN and not is_remote(name)]
    are_files = len(paths) == len(names) and all(path.is_file() for path in paths)
    return are_files and sum(path.stat().st_size for path in paths) <= READ_WHOLE


def _default_groups(job: Job) -> list[PlanGroup]:
    sku = job.license.from_sku or job.license.sku
    if not (job.license.account and sku):
        return []
    return [PlanGroup(account_name=job.license.account, sku_number=sku, devices=0, batches=0)]


def _check_plan(job: Job, plan: Plan) -> Iterator[Finding]:
    text = f"{counted(plan.planned, 'device')} of {counted(plan.rows_read, 'row')}"
    if rejected := sum(plan.rejected.values()):
        reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in plan.rejected.items())
        text += f"; {counted(rejected, 'row')} rejected ({reasons})"
    if rejected > job.limits.max_rejects:
        yield warning(
            "plan", f"{text}: the run would exit 3. Correct the rows, or allow them with --max-rejects"
        )
    else:
        yield ok("plan", text)
    for status, devices in plan.excluded.items():
        if status != DeviceStatus.SKIPPED:
            yield warning(
                "plan",
                f"{counted(devices, 'device')} {status.replace('_', ' ')} according to the ledger, "
                "and left out: settle them in the run that has them in doubt (batchlic runs --failed)",
            )


def _check_consent(job: Job, skus: list[str]) -> Iterator[Finding]:
    def work() -> Iterator[Finding]:
        job.require_consent(skus)
        yield from ()

    yield from attempted("consent", work)


# -- the machine ----------------------------------------------------------------------------------------


def check_descriptors(max_concurrency: int) -> Iterator[Finding]:
    """Whether as many files may be open as the run wants connections."""
    connections = connections_for(max_concurrency)
    if connections < max_concurrency:
        yield warning("open files", fewer_connections_note(connections))
    else:
        yield ok("open files", f"enough for {counted(connections, 'request')} in flight")


def check_state_folder(folder: Path, devices: int | None, kept_columns: int = 0) -> Iterator[Finding]:
    """Whether runs can be written, by nobody else, and whether there is room.

    `devices` is None if their number is not known. `kept_columns`: how many columns the job keeps.
    """
    place = _existing(folder)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield error(
            "state folder",
            f"{folder}: {place} can't be written: fix its permissions, or set BATCHLIC_STATE_DIR",
        )
    elif folder.exists() and folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield warning("state folder", f"{folder}: others may write here: chmod 700 {folder}")
    else:
        yield ok("state folder", f"{folder}{'' if folder.exists() else ', which the first run makes'}")
    yield _room(place, devices, BYTES_PER_DEVICE + kept_columns * BYTES_PER_KEPT_CELL)


def _room(place: Path, devices: int | None, bytes_per_device: int) -> Finding:
    free = shutil.disk_usage(place).free
    needed = LITTLE_ROOM if devices is None else devices * bytes_per_device
    text = f"{free / 1e9:,.1f} GB free at {place}"
    if devices is None:
        text += f", room for {counted(free // bytes_per_device, 'device')}"
    else:
        text += f"; {counted(devices, 'device')} may take {needed / 1e9:,.1f} GB"
    if free >= needed:
        return ok("disk", text)
    level = warning if devices is None else error
    return level("disk", f"{text}: free some space, or name another disk with BATCHLIC_STATE_DIR")


def check_ledger_of(job: Job | None, location: Path | str) -> Iterator[Finding]:
    """Whether the ledger in a file or a store is whole and can be written."""
    if job is not None and not job.ledger.use:
        yield warning(
            "ledger",
            "not used (--no-ledger, use = false): a device that is licensed already gets another one",
        )
    elif check_ledger(location):
        yield ok("ledger", f"{location}: can be read and written")
    else:
        yield ok("ledger", f"{location}: there is none yet; the first run makes it")


def check_store(location: str | None, *, is_needed: bool) -> Iterator[Finding]:
    """Whether the store of callbacks can be read and written."""
    if location is None:
        if is_needed:
            yield warning(
                "store",
                "none is set, but the job requires confirmation: start a listener, and name its store in "
                "BATCHLIC_LISTENER_STORE",
            )
        else:
            yield ok(
                "store",
                "none is set, so no callbacks are read here; to read them, set BATCHLIC_LISTENER_STORE",
            )
        return
    path = None if "://" in location else Path(location)
    if path is not None and not path.exists():
        yield warning("store", f"{path}: there is no store yet: start the listener (batchlic listen)")
        return
    if path is not None and not all(os.access(name, os.W_OK) for name in (path, path.absolute().parent)):
        yield error("store", f"{path}: can't be written: fix the permissions of the file and its folder")
        return
    with closing(Store.open_existing(location)) as store:
        store.check()
    yield ok("store", f"{path or 'the database'}: can be read{'' if path is None else ' and written'}")


def check_shared_store(name: str) -> Iterator[Finding]:
    """Whether runs can keep their journals in the database that machines share."""
    state = state_of(name)
    for problem in state.problems:
        yield error("shared store", f"{name}: {problem}")
    if not state.problems:
        schema = (
            f"schema {state.schema_version}" if state.schema_version else "the first run makes its tables"
        )
        yield ok("shared store", f"{name}: can be read and written; PostgreSQL {state.server}, {schema}")


def _existing(path: Path) -> Path:
    """The path, or the first folder above it that exists."""
    for place in (path.absolute(), *path.absolute().parents):
        if os.path.lexists(place):
            return place
    return Path(path.absolute().anchor)
