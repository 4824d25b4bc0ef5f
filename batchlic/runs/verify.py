"""Compares the files of a run with its journal, and finds the place of each change."""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import polars as pl

from batchlic.atomic import explain_read_errors
from batchlic.errors import RunFolderError
from batchlic.figures import counted
from batchlic.journal import JournalQueries
from batchlic.reader.scans import scan_parquet
from batchlic.runs.finalize import identity_sha256, summarize
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import inspected, refuse_without_journal, sha256_of
from batchlic.runs.kept import is_recorded, kept_of
from batchlic.runs.staging import recorded_path
from batchlic.runs.states import states_of
from batchlic.writer.audit import AUDIT, HASHES, audit_table, chain_breaks
from batchlic.writer.device_states import RESULTS
from batchlic.writer.kept import NOTHING_KEPT
from batchlic.writer.results import count_statuses
from batchlic.writer.summary import Summary
from batchlic.writer.tables import UNREADABLE, write_table

ROWS_PER_COMPARISON = 50_000

_ONLY_IN_SUMMARY = {"stopped_because", "unconfirmed", "notes"}
"""Fields of summary.json that the journal does not hold."""

_UNREADABLE = (*UNREADABLE, OSError)


class Finding(msgspec.Struct, frozen=True):
    """A difference between a file and what the run wrote."""

    file: str
    what: str


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `verify`. `head` is the last hash of an intact chain; keep it outside the run folder.

    `notes` say what could not be compared, because another version of batchlic wrote a file.
    """

    run_id: str | None
    head: str | None
    findings: list[Finding]
    notes: list[Finding] = []


def verify(folder: RunFolder) -> Verification:
    """Recompute the audit's chain, and compare plan, audit, results, rejects and summary with the journal.

    This writes nothing. Raises RunFolderError if there is no journal, NoAccess if a file can't be opened,
    and RefusedToStart while a session is at work.
    """
    refuse_without_journal(folder)
    with folder.quiet():
        try:
            with inspected(folder) as journal:
                findings = list(_findings(folder, journal))
                head = None if findings else _head(recorded_path(folder.audit, journal))
                notes = [] if findings or not journal.file_hashes() else list(_notes(folder, journal))
                return Verification(run_id=journal.identity.run_id, head=head, findings=findings, notes=notes)
        except RunFolderError as error:
            finding = Finding(folder.journal_file.name, str(error))
            return Verification(run_id=None, head=None, findings=[finding])


def _findings(folder: RunFolder, journal: JournalQueries) -> Iterator[Finding]:
    for error in journal.integrity_errors():
        yield Finding(folder.journal_file.name, error)
    hashes = journal.file_hashes()
    if hashes.get("identity", identity_sha256(journal)) != identity_sha256(journal):
        yield Finding(folder.journal_file.name, "the identity of the run is not the recorded one")
    if not folder.plan.is_file() or sha256_of(folder.plan) != journal.identity.plan_sha256:
        yield Finding(folder.plan.name, "missing, or its SHA-256 is not the one in the journal")
        return
    if not is_recorded(folder, journal.identity):
        yield Finding(folder.kept.name, "missing, or its SHA-256 is not the one in the journal")
    if not hashes:
        return
    has_ended = journal.final_session_end is not None
    audit = _Table(folder.audit, recorded_path(folder.audit, journal), audit_table(journal), hashes)
    yield from audit.findings(
        is_prefix=not has_ended, also=lambda: chain_breaks(audit.found, journal.identity.run_id)
    )
    changed = [path for path in _whole_files(folder, hashes) if not _is_recorded(path, journal)]
    for path in changed:
        yield Finding(path.name, "missing, or not the file that the journal recorded")
    if has_ended and folder.outcomes not in changed:
        kept = kept_of(folder, journal.identity)
        kept = kept if kept.path else NOTHING_KEPT
        states = states_of(folder, journal, kept)
        results = recorded_path(folder.results, journal)
        expected = states.select(*RESULTS, *kept.columns)
        yield from _Table(folder.results, results, expected, hashes).findings()
        yield from _summary_findings(folder, states, journal)


def _whole_files(folder: RunFolder, hashes: Mapping[str, str]) -> list[Path]:
    """The files that are compared as a whole with the hash that the journal recorded."""
    is_called_back = folder.outcomes.name in hashes or _is_file(folder.outcomes)
    return [folder.rejects, folder.summary, *([folder.outcomes] if is_called_back else [])]


def _is_recorded(path: Path, journal: JournalQueries) -> bool:
    """Whether a file is the one that the journal recorded."""
    found = recorded_path(path, journal)
    return _is_file(found) and sha256_of(found) == journal.file_hashes().get(path.name)


def _is_file(path: Path) -> bool:
    with explain_read_errors(path):
        return path.is_file()


def _notes(folder: RunFolder, journal: JournalQueries) -> Iterator[Finding]:
    """What was not compared in files that are as they were written, but by another version of batchlic."""
    results = [*RESULTS, *journal.identity.kept_columns]
    for path, known in ((folder.audit, [*AUDIT]), (folder.results, results)):
        found = recorded_path(path, journal)
        if _is_file(found):
            columns = scan_parquet(found).collect_schema()
            yield from _note(path.name, known, columns.keys())
    if journal.final_session_end is not None:
        fields = _fields_of(recorded_path(folder.summary, journal))
        yield from _note(folder.summary.name, Summary.__struct_fields__, fields)


def _note(file: str, known: Iterable[str], found: Iterable[str]) -> Iterator[Finding]:
    """The columns or fields that only this version of batchlic knows, or only the one that wrote the file."""
    missing = [name for name in known if name not in {*found}]
    unknown = [name for name in found if name not in {*known}]
    parts = [f"it has no {', '.join(missing)}"] if missing else []
    parts += [f"this version does not know its {', '.join(unknown)}"] if unknown else []
    if parts:
        yield Finding(file, f"was written by another version of batchlic: {' and '.join(parts)}")


class _Table(NamedTuple):
    """A parquet file of a run, where it was found, and the rows that it should have by the journal."""

    path: Path
    found: Path
    expected: pl.LazyFrame
    hashes: Mapping[str, str]

    def findings(
        self, *, is_prefix: bool = False, also: Callable[[], Iterator[str]] = lambda: iter(())
    ) -> Iterator[Finding]:
        """The differences of the file, and the findings of `also`. With `is_prefix`, rows may be missing."""
        if not _is_file(self.found):
            yield self._finding("missing")
            return
        recorded = self.hashes.get(self.path.name)
        if sha256_of(self.found) != recorded:
            comparison = self._compare_bytes()
            if comparison.sha256 != recorded:
                yield self._finding("not the file that the journal recorded")
            else:
                at = comparison.first_difference
                yield self._finding(f"byte {at:,} is not the one that the journal recorded")
                if comparison.size == self.found.stat().st_size:
                    # Bytes were changed in place. Such a file is not decoded: a decoder may trust a damaged
                    # length, and allocate more memory than the machine has.
                    return
        try:
            for difference in (*also(), *_differences(self.found, self.expected, is_prefix=is_prefix)):
                yield self._finding(difference)
        except _UNREADABLE as error:
            yield self._finding(f"can't be read: {_first_line(error)}")

    def _finding(self, what: str) -> Finding:
        return Finding(self.path.name, what)

    def _compare_bytes(self) -> "_ByteComparison":
        """Write the table again, and compare it with the bytes of the file."""
        with self.found.open("rb") as file:
            comparison = _ByteComparison(file)
            write_table(comparison, self.expected)
        return comparison


class _ByteComparison(io.BytesIO):
    """A file object that compares the written bytes with a file, and does not store them."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._hash = hashlib.sha256()
        self._difference: int | None = None
        self.size = 0

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer
        """Compare the next bytes."""
        expected = bytes(data)
        found = self._file.read(len(expected))
        if self._difference is None and found != expected:
            pairs = enumerate(zip(found, expected, strict=False))
            unequal = (at for at, (one, other) in pairs if one != other)
            self._difference = self.size + next(unequal, len(found))
        self._hash.update(expected)
        self.size += len(expected)
        return len(expected)

    @property
    def sha256(self) -> str:
        """SHA-256 of the written bytes, in hexadecimal."""
        return self._hash.hexdigest()

    @property
    def first_difference(self) -> int:
        """Place of the first different byte; the number of written bytes if the file is only longer."""
        return self.size if self._difference is None else self._difference


def _differences(path: Path, expected: pl.LazyFrame, *, is_prefix: bool) -> Iterator[str]:
    """The first value of a file that differs from the expected rows, in the columns that the file has.

    The hashes of another version's chain cover other columns, so they are not compared here.
    """
    table = scan_parquet(path)
    columns, found_columns = expected.collect_schema(), table.collect_schema()
    ignored = HASHES if columns.keys() != found_columns.keys() else frozenset()
    compared = {name: kind for name, kind in columns.items() if name in found_columns and name not in ignored}
    table = table.select(pl.col(name).cast(kind) for name, kind in compared.items())
    rows = int(table.select(pl.len()).collect().item())
    start = 0
    wanted_rows = expected.select(*compared)
    for wanted in wanted_rows.collect_batches(chunk_size=ROWS_PER_COMPARISON, maintain_order=True):
        found = table.slice(start, wanted.height).collect()
        if difference := _first_difference(found, wanted.head(found.height), start):
            total = int(expected.select(pl.len()).collect().item())
            is_shorter = rows < total and not is_prefix
            yield _row_counts(rows, total) if rows > total or is_shorter else difference
            return
        start += wanted.height
    if rows > start or (rows < start and not is_prefix):
        yield _row_counts(rows, start)


def _row_counts(found: int, expected: int) -> str:
    return f"has {counted(found, 'row')}, the journal has {expected:,}"


def _first_difference(found: pl.DataFrame, expected: pl.DataFrame, start: int) -> str | None:
    for name in expected.columns:
        unequal = found[name].ne_missing(expected[name]).arg_true()
        if len(unequal):
            at = unequal[0]
            row: Any = found.row(at, named=True)
            key = f"seq {row['seq']}" if "seq" in row else f"batch {row['batch_id']}"
            return (
                f"row {start + at + 1:,} ({key}): {name} is {found[name][at]!r}, "
                f"but {expected[name][at]!r} in the journal"
            )
    return None


def _summary_findings(folder: RunFolder, states: pl.LazyFrame, journal: JournalQueries) -> Iterator[Finding]:
    expected = msgspec.to_builtins(summarize(journal, count_statuses(states), journal.final_session_end))
    try:
        found = _fields_of(recorded_path(folder.summary, journal))
    except (ValueError, OSError, msgspec.MsgspecError) as error:
        yield Finding(folder.summary.name, f"can't be read: {_first_line(error)}")
        return
    for name in (name for name in expected if name in found and name not in _ONLY_IN_SUMMARY):
        if found[name] != expected[name]:
            what = f"{name} is {found[name]!r}, but {expected[name]!r} in the journal"
            yield Finding(folder.summary.name, what)


def _fields_of(summary: Path) -> dict[str, Any]:
    """The fields of a summary.json, whatever version wrote it."""
    return msgspec.json.decode(summary.read_bytes(), type=dict[str, Any])


def _head(audit: Path) -> str | None:
    try:
        return scan_parquet(audit).select(pl.col("hash").last()).collect().item()  # type: ignore[no-any-return]
    except _UNREADABLE:
        return None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
