"""Holds what a run has left against its journal: a changed byte is found, and where it is."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import polars as pl

from batchlic.runs.finalize import identity_sha256, summarize
from batchlic.errors import RunFolderError
from batchlic.runs.identity import sha256_of
from batchlic.journal import Journal
from batchlic.runs.folder import RunFolder
from batchlic.runs.staging import publish_staged
from batchlic.writer.audit import chain_breaks, write_audit
from batchlic.writer.results import write_results
from batchlic.writer.summary import count_statuses, read_summary

ROWS_PER_LOOK = 50_000

_SEALED_ALONE = {"stopped_because", "notes"}
"""Fields of summary.json that the journal does not tell."""

_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError)


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as the run left it."""

    file: str
    what: str


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify` saw; `head` is the last hash of a chain that holds, worth keeping somewhere else."""

    run_id: str | None
    head: str | None
    findings: list[Finding]


def verify(folder: RunFolder) -> Verification:
    """Recompute the chain, and hold journal, plan, audit, results, rejects and summary against each other.

    Raises RunFolderError where there is no journal, RefusedToStart while the run is at work.
    """
    if not folder.journal.is_file():
        raise RunFolderError(f"{folder.journal}: there is no journal here to hold anything against")
    with folder.locked():
        try:
            with closing(Journal.open(folder.journal)) as journal:
                publish_staged(folder, journal)
                findings = list(_findings(folder, journal))
                head = None if findings else _head(folder.audit)
                return Verification(run_id=journal.identity.run_id, head=head, findings=findings)
        except RunFolderError as error:
            return Verification(run_id=None, head=None, findings=[Finding(folder.journal.name, str(error))])


def _findings(folder: RunFolder, journal: Journal) -> Iterator[Finding]:
    for trouble in journal.check():
        yield Finding(folder.journal.name, trouble)
    file_hashes = journal.file_hashes()
    if file_hashes.get("identity", identity_sha256(journal)) != identity_sha256(journal):
        yield Finding(folder.journal.name, "the identity of the run is not the one that was sealed")
    if not folder.plan.is_file() or sha256_of(folder.plan) != journal.identity.plan_sha256:
        yield Finding(folder.plan.name, "missing, or not the plan that the journal knows by its SHA-256")
        return
    if not file_hashes:
        return
    with TemporaryDirectory(prefix="batchlic-") as scratch:
        again = RunFolder(Path(scratch))
        write_audit(again.audit, journal=journal)
        if not _is_damaged(folder.audit, again.audit, file_hashes):
            yield from _chain(folder, journal)
        yield from _table(folder.audit, again.audit, file_hashes, is_prefix=journal.final_session_end is None)
        if journal.final_session_end is not None:
            write_results(again.results, plan=folder.plan, journal=journal, outcomes=folder.outcomes)
            yield from _table(folder.results, again.results, file_hashes)
            yield from _summary(folder, again.results, journal)
    told = [folder.outcomes] if folder.outcomes.name in file_hashes or folder.outcomes.exists() else []
    for path in (folder.rejects, folder.summary, *told):
        if not path.is_file() or sha256_of(path) != file_hashes.get(path.name):
            yield Finding(path.name, "missing, or not the file that the journal sealed")


def _chain(folder: RunFolder, journal: Journal) -> Iterator[Finding]:
    try:
        for trouble in chain_breaks(folder.audit, journal.identity.run_id):
            yield Finding(folder.audit.name, trouble)
    except _UNREADABLE as error:
        yield Finding(folder.audit.name, f"can't be read: {_first_line(error)}")


def _table(path: Path, again: Path, file_hashes: dict[str, str], *, is_prefix: bool = False) -> Iterator[Finding]:
    """Hold a table against the same one written again from the journal."""
    if not path.is_file():
        yield Finding(path.name, "missing")
        return
    is_sealed = sha256_of(path) == file_hashes.get(path.name)
    if not is_sealed and sha256_of(again) == file_hashes.get(path.name):
        yield Finding(path.name, f"byte {_first_byte(path, again):,} is not the one that was sealed")
        if _is_damaged(path, again, file_hashes):
            return
    elif not is_sealed:
        yield Finding(path.name, "not the file that the journal sealed")
    try:
        difference = _first_difference(path, again, is_prefix=is_prefix)
    except _UNREADABLE as error:
        difference = f"can't be read: {_first_line(error)}"
    if difference:
        yield Finding(path.name, difference)


def _is_damaged(path: Path, again: Path, file_hashes: dict[str, str]) -> bool:
    """Whether bytes of a file were changed where they are: then it is not decoded any more.

    A decoder may take a length that it finds there at its word, and ask for so much memory that the process
    ends.
    """
    if not path.is_file() or path.stat().st_size != again.stat().st_size:
        return False
    return sha256_of(path) != file_hashes.get(path.name) == sha256_of(again)


def _first_byte(path: Path, again: Path) -> int:
    found, expected = path.read_bytes(), again.read_bytes()
    pairs = enumerate(zip(found, expected, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(found), len(expected)))


def _first_difference(path: Path, again: Path, *, is_prefix: bool) -> str | None:
    """Where the values of two tables differ first, in words."""
    found, expected = pl.scan_parquet(path), pl.scan_parquet(again)
    rows, told = (int(table.select(pl.len()).collect().item()) for table in (found, expected))
    if rows > told or (rows < told and not is_prefix):
        return f"has {rows:,} rows, the journal tells of {told:,}"
    for start in range(0, rows, ROWS_PER_LOOK):
        length = min(ROWS_PER_LOOK, rows - start)
        ours, theirs = found.slice(start, length).collect(), expected.slice(start, length).collect()
        for name in theirs.columns:
            unequal = ours[name].ne_missing(theirs[name]).arg_true()
            if len(unequal):
                row: Any = ours.row(unequal[0], named=True)
                whose = f"seq {row['seq']}" if "seq" in row else f"batch {row['batch_id']}"
                return (
                    f"row {start + unequal[0] + 1:,} ({whose}): {name} is {ours[name][unequal[0]]!r}, "
                    f"the journal tells {theirs[name][unequal[0]]!r}"
                )
    return None


def _summary(folder: RunFolder, results: Path, journal: Journal) -> Iterator[Finding]:
    told = summarize(journal, count_statuses(results), journal.session_ends(), journal.final_session_end)
    try:
        found = read_summary(folder.summary)
    except (RunFolderError, OSError) as error:
        yield Finding(folder.summary.name, f"can't be read: {_first_line(error)}")
        return
    for name in told.__struct_fields__:
        if name not in _SEALED_ALONE and getattr(found, name) != getattr(told, name):
            yield Finding(
                folder.summary.name,
                f"{name} is {getattr(found, name)!r}, the journal tells {getattr(told, name)!r}",
            )


def _head(audit: Path) -> str | None:
    try:
        return pl.scan_parquet(audit).select(pl.col("hash").last()).collect().item()  # type: ignore[no-any-return]
    except _UNREADABLE:
        return None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
