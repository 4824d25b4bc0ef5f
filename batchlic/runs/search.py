"""Which runs name a device: a search in the plans and rejects of many runs at once."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from batchlic.errors import BatchlicError
from batchlic.reader.scans import scan_parquets
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import refuse_changed_plan
from batchlic.writer.tables import UNREADABLE

_IDENTIFIERS = {"imei": pl.String(), "iccid": pl.String()}


def is_planned(device: str) -> pl.Expr:
    """Whether a row of a plan is the device with this IMEI or ICCID."""
    return pl.any_horizontal(pl.col(name) == device for name in _IDENTIFIERS)


def is_rejected(device: str) -> pl.Expr:
    """Whether a rejected row names the device.

    A rejected cell is as it is in the file, such as `86-450803-010987-7`: only its digits are compared.
    """
    digits = _digits(pl.lit(device))
    return pl.any_horizontal(
        (pl.col(name) == device) | ((_digits(pl.col(name)) == digits) & (digits.str.len_bytes() > 0))
        for name in _IDENTIFIERS
    ).fill_null(value=False)


def runs_to_read(device: str, folders: Sequence[RunFolder]) -> list[RunFolder]:
    """The runs that name the device, and those that can't be searched, so that their readers say why.

    Of the other runs, only the identity in the journal is read, and a changed plan counts as unreadable:
    so no run is left out whose plan may have named the device.
    """
    sound = [folder for folder in folders if _has_recorded_plan(folder)]
    rejects = [folder.rejects for folder in sound if folder.rejects.exists()]
    searched = {folder.path for folder in sound}
    named = {path.parent for path in _naming([folder.plan for folder in sound], is_planned(device))}
    named |= {path.parent for path in _naming(rejects, is_rejected(device))}
    return [
        folder for folder in folders if folder.path not in searched or folder.plan.absolute().parent in named
    ]


def _has_recorded_plan(folder: RunFolder) -> bool:
    try:
        identity, _ = folder.journal.identity()
        refuse_changed_plan(folder, identity)
    except (BatchlicError, OSError):
        return False
    return True


def _naming(paths: Sequence[Path], condition: pl.Expr) -> Iterator[Path]:
    """The absolute paths of the tables that have such a row, or can't be read."""
    if not paths:
        return
    try:
        rows = scan_parquets(paths, _IDENTIFIERS).filter(condition).select(pl.col("path").unique())
        yield from map(Path, rows.collect(engine="streaming")["path"])
    except (*UNREADABLE, OSError, TypeError):  # TypeError: a path that is not UTF-8
        if len(paths) == 1:
            yield paths[0].absolute()
            return
        middle = len(paths) // 2
        yield from _naming(paths[:middle], condition)
        yield from _naming(paths[middle:], condition)


def _digits(cell: pl.Expr) -> pl.Expr:
    return cell.str.replace_all(r"\D", "")
