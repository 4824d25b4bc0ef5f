"""Compares the files of a run with its journal, and finds the place of each change."""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import polars as pl

from batchlic.errors import RunFolderError
from batchlic.figures import counted
from batchlic.journal import Journal
from batchlic.reader.scans import scan_parquet
from batchlic.runs.finalize import identity_sha256, summarize
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import sha256_of
from batchlic.runs.staging import publish_staged
from batchlic.runs.states import states_of
from batchlic.writer.audit import audit_table, chain_breaks
from batchlic.writer.device_states import RESULTS
from batchlic.writer.results import count_statuses
from batchlic.writer.summary import read_summary
from batchlic.writer.tables import write_table

ROWS_PER_COMPARISON = 50_000

_ONLY_IN_SUMMARY = {"stopped_because", "unconfirmed", "notes"}
"""Fields of summary.json that the journal does not hold."""

_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError)


class Finding(msgspec.Struct, frozen=True):
    """A difference between a file and what the run wrote."""

    file: str
    what: str


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `verify`. `head` is the last hash of an intact chain; keep it outside the run folder."""

    run_id: str | None
    head: str | None
    findings: list[Finding]


def verify(folder: RunFolder) -> Verification:
    """Recompute the audit's chain, and compare plan, audit, results, rejects and summary with the journal.

    Raises RunFolderError if there is no journal, and RefusedToStart while a session is active.
    """
    if not folder.journal.is_file():
        raise RunFolderError(f"{folder.journal}: there is no journal to compare the other files with")
    with folder.locked():
        try:
            with closing(Journal.open(folder.journal)) as journal:
                publish_staged(folder, journal)
                findings = list(_findings(folder, journal))
                head = None if findings else _head(folder.audit)
                return Verification(run_id=journal.identity.run_id, head=head, findings=findings)
        except RunFolderError as error:
            finding = Finding(folder.journal.name, str(error))
            return Verification(run_id=None, head=None, findings=[finding])


def _findings(folder: RunFolder, journal: Journal) -> Iterator[Finding]:
    for error in journal.integrity_errors():
        yield Finding(folder.journal.name, error)
    hashes = journal.file_hashes()
    if hashes.get("identity", identity_sha256(journal)) != identity_sha256(journal):
        yield Finding(folder.journal.name, "the identity of the run is not the recorded one")
    if not folder.plan.is_file() or sha256_of(folder.plan) != journal.identity.plan_sha256:
        yield Finding(folder.plan.name, "missing, or its SHA-256 is not the one in the journal")
        return
    if not hashes:
        return
    has_ended = journal.final_session_end is not None
    audit = _Table(folder.audit, audit_table(journal), hashes)
    yield from audit.findings(
        is_prefix=not has_ended, also=lambda: chain_breaks(folder.audit, journal.identity.run_id)
    )
    if has_ended:
        states = states_of(folder, journal)
        yield from _Table(folder.results, states.select(*RESULTS), hashes).findings()
        yield from _summary_findings(folder, states, journal)
    callback_outcomes = (
        [folder.outcomes] if folder.outcomes.name in hashes or folder.outcomes.exists() else []
    )
    for path in (folder.rejects, folder.summary, *callback_outcomes):
        if not path.is_file() or sha256_of(path) != hashes.get(path.name):
            yield Finding(path.name, "missing, or not the file that the journal recorded")


class _Table(NamedTuple):
    """A parquet file of a run, and the rows that it should have according to the journal."""

    path: Path
    expected: pl.LazyFrame
    hashes: Mapping[str, str]

    def findings(
        self, *, is_prefix: bool = False, also: Callable[[], Iterator[str]] = lambda: iter(())
    ) -> Iterator[Finding]:
        """The differences of the file, and the findings of `also`. With `is_prefix`, rows may be missing."""
        if not self.path.is_file():
            yield self._finding("missing")
            return
        recorded = self.hashes.get(self.path.name)
        if sha256_of(self.path) != recorded:
            comparison = self._compare_bytes()
            if comparison.sha256 != recorded:
                yield self._finding("not the file that the journal recorded")
            else:
                at = comparison.first_difference
                yield self._finding(f"byte {at:,} is not the one that the journal recorded")
                if comparison.size == self.path.stat().st_size:
                    # Bytes were changed in place. Such a file is not decoded: a decoder may trust a damaged
                    # length, and allocate more memory than the machine has.
                    return
        try:
            for difference in (*also(), *_differences(self.path, self.expected, is_prefix=is_prefix)):
                yield self._finding(difference)
        except _UNREADABLE as error:
            yield self._finding(f"can't be read: {_first_line(error)}")

    def _finding(self, what: str) -> Finding:
        return Finding(self.path.name, what)

    def _compare_bytes(self) -> "_ByteComparison":
        """Write the table again, and compare it with the bytes of the file."""
        with self.path.open("rb") as file:
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
    """The first value of a file that differs from the expected rows."""
    table = scan_parquet(path)
    rows = int(table.select(pl.len()).collect().item())
    start = 0
    for wanted in expected.collect_batches(chunk_size=ROWS_PER_COMPARISON, maintain_order=True):
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


def _summary_findings(folder: RunFolder, states: pl.LazyFrame, journal: Journal) -> Iterator[Finding]:
    expected = summarize(journal, count_statuses(states), journal.final_session_end)
    try:
        found = read_summary(folder.summary)
    except (RunFolderError, OSError) as error:
        yield Finding(folder.summary.name, f"can't be read: {_first_line(error)}")
        return
    for name in expected.__struct_fields__:
        values = getattr(found, name), getattr(expected, name)
        if name not in _ONLY_IN_SUMMARY and values[0] != values[1]:
            yield Finding(folder.summary.name, f"{name} is {values[0]!r}, but {values[1]!r} in the journal")


def _head(audit: Path) -> str | None:
    try:
        return scan_parquet(audit).select(pl.col("hash").last()).collect().item()  # type: ignore[no-any-return]
    except _UNREADABLE:
        return None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
