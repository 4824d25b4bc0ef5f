"""Validates one block of cells: valid rows become integers, and other rows become rejects with a reason."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from batchlic.reader.columns.headers import fold
from batchlic.reader.inventory import LONG, SHIFTED, SHORT, WHOLE
from batchlic.reader.options import ReadOptions
from batchlic.reader.roles import IDENTIFIERS, TARGETS, Role, kept_cell
from batchlic.reader.streaming import Schema
from batchlic.reader.validation import rules

ROW = "row"
CELLS = (*IDENTIFIERS, *TARGETS)

CELL_COLUMNS: Schema = {ROW: pl.UInt32(), **dict.fromkeys(CELLS, pl.String())}
"""The cells of a row as they are in the file."""
_WHOLE_ROWS: Schema = {ROW: pl.UInt32(), WHOLE: pl.String()}
REJECT_COLUMNS: Schema = CELL_COLUMNS | {"reason": pl.String(), "message": pl.String()}


@dataclass(frozen=True, slots=True)
class ValidatedBlock:
    """The rows of a block after validation; `row` counts from 0 within the block.

    `valid`: `row`, `imei_number`, `iccid_number`, and `account` and `sku`, null for the job's default.
    `original_cells` (CELL_COLUMNS): the cells of the valid rows that were cleaned. `rejects`
    (REJECT_COLUMNS): the cells of the other rows, and why they are rejected. `foreign_accounts` (String): the
    account cells of the valid rows for which the job's account counts. `wrong_check_digits`: identifiers by
    role and number of digits. `height`: the number of valid and rejected rows, without repeated header lines.
    `kept`: the cells of the columns to keep, of all rows in order; null for empty cells, and for the
    `shifted` rows, whose cells may belong to other columns.
    `whole` (ROW, and WHOLE with all cells): the rejects with fewer or more cells than the header, or without
    an identifier.
    """

    height: int
    valid: pl.DataFrame
    original_cells: pl.DataFrame
    rejects: pl.DataFrame
    foreign_accounts: pl.Series
    wrong_check_digits: Mapping[tuple[Role, int], int]
    kept: pl.DataFrame
    shifted: int = 0
    whole: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_WHOLE_ROWS))


class Validator:
    """Applies the rules to blocks of one inventory; `headers` are those of its columns by role.

    In a real inventory, a few integer operations prove that nearly all rows are valid. The other rows are
    cleaned, and checked by the table of rules. Threads can share a validator.
    """

    def __init__(self, options: ReadOptions, headers: Mapping[Role, str]) -> None:
        self._headers = {role: fold(header) for role, header in headers.items()}
        self._quick_proof = rules.quick_proof(options)
        self._cleaning = rules.cleaning(options)
        self._table = rules.table(options)
        self._is_wrong = rules.wrong_check_digits() if options.check_digit else {}
        broken = (pl.when(rule.broken).then(index) for index, rule in enumerate(self._table))
        self._first_broken = pl.coalesce(*broken).alias("broken")
        self._keep = list(options.keep)

    def __call__(self, block: pl.DataFrame) -> ValidatedBlock:
        """Validate cells: String columns named by role or `kept_cell`; a missing column counts as empty."""
        kept, frame = self._kept(block), self._completed(block)
        values = frame.select(_valid_columns(rules.raw_values()))
        is_proven = frame.with_columns(values).select(self._quick_proof).to_series()
        proven = values if is_proven.all() else values.filter(is_proven)
        if proven.height == frame.height:
            return ValidatedBlock(
                frame.height,
                proven,
                pl.DataFrame(schema=CELL_COLUMNS),
                pl.DataFrame(schema=REJECT_COLUMNS),
                pl.Series(dtype=pl.String),
                {},
                kept,
                self._shifted(block),
            )
        unproven = frame.filter(~is_proven)
        header_rows = unproven.filter(self._is_header())[ROW]
        if len(header_rows):
            numbered = block.with_row_index(ROW)
            return self(numbered.filter(~pl.col(ROW).is_in(header_rows.implode())).drop(ROW))
        unproven = self._cleaned(unproven)
        cleaned, rejects = self._check_by_table(unproven)
        valid = pl.concat([proven, cleaned.select(_valid_columns(rules.cleaned_values()))]).sort(ROW)
        return ValidatedBlock(
            frame.height,
            valid,
            cleaned.select(map(_copied, CELL_COLUMNS)),
            rejects.select(map(_copied, REJECT_COLUMNS)),
            cleaned.filter("account_is_foreign")["account_cell"] + "",
            self._wrong_check_digits(unproven),
            kept,
            self._shifted(block),
            whole=_whole_rows(rejects[ROW], frame),
        )

    def _kept(self, block: pl.DataFrame) -> pl.DataFrame:
        """The cells of the columns to keep, under their names in the results."""
        is_known = ~pl.col(SHIFTED) if SHIFTED in block.columns else pl.lit(value=True)
        return block.select(
            pl.when(is_known & (pl.col(cell).str.len_bytes() > 0)).then(pl.col(cell)).alias(name)
            if (cell := kept_cell(name)) in block.columns
            else pl.repeat(None, block.height, dtype=pl.String).alias(name)
            for name in self._keep
        )

    def _shifted(self, block: pl.DataFrame) -> int:
        return int(block[SHIFTED].sum()) if self._keep and SHIFTED in block.columns else 0

    def _completed(self, block: pl.DataFrame) -> pl.DataFrame:
        """The block with all cells, empty ones null, and with its rows numbered."""
        absent = [pl.lit(None, pl.String).alias(role) for role in CELLS if role not in block.columns]
        absent += [pl.lit(value=False).alias(name) for name in (SHORT, LONG) if name not in block.columns]
        filled = [
            pl.when(pl.col(role).str.len_bytes() > 0).then(pl.col(role)).alias(role)
            for role in CELLS
            if role in block.columns
        ]
        cells = block.drop(map(kept_cell, self._keep), strict=False)
        return cells.with_columns(*absent, *filled).with_row_index(ROW)

    def _is_header(self) -> pl.Expr:
        """Whether a row repeats the header, as in exports that were joined into one file."""
        if not self._headers.keys() & set(IDENTIFIERS):
            return pl.lit(value=False)
        equals = (
            pl.col(role).str.normalize("NFKC").str.replace_all(r"[\W_]+", "").str.to_lowercase() == header
            for role, header in self._headers.items()
        )
        return pl.all_horizontal(equals).fill_null(value=False)

    def _cleaned(self, rows: pl.DataFrame) -> pl.DataFrame:
        for columns in self._cleaning:
            rows = rows.with_columns(columns)
        return rows

    def _check_by_table(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The cleaned rows that break no rule, and the rejects."""
        valid, rejects = pl.DataFrame(schema=rows.schema), [pl.DataFrame(schema=REJECT_COLUMNS)]
        for (broken,), group in rows.with_columns(self._first_broken).group_by("broken"):
            if broken is None:
                valid = group
            else:
                rule = self._table[int(str(broken))]
                reason = pl.lit(rule.reason.value).alias("reason")
                rejects.append(group.select(*CELL_COLUMNS, reason, rule.message.alias("message")))
        return valid, pl.concat(rejects).sort(ROW)

    def _wrong_check_digits(self, cleaned: pl.DataFrame) -> dict[tuple[Role, int], int]:
        """The number of identifiers with a wrong check digit by role and number of digits."""
        counts: dict[tuple[Role, int], int] = {}
        for role, is_wrong in self._is_wrong.items():
            lengths = cleaned.filter(is_wrong)[f"{role}_digits"].str.len_bytes().value_counts()
            counts |= {(role, digits): count for digits, count in lengths.iter_rows()}
        return counts


def _whole_rows(rejected: pl.Series, frame: pl.DataFrame) -> pl.DataFrame:
    """ROW and WHOLE of the rejected rows that have it, copied: see `_copied`."""
    if WHOLE not in frame.columns:
        return pl.DataFrame(schema=_WHOLE_ROWS)
    rows = frame.filter(pl.col(ROW).is_in(rejected.implode()) & (pl.col(WHOLE) != ""))
    return rows.select(ROW, pl.col(WHOLE) + "")


def _copied(column: str) -> pl.Expr:
    """A column with its text copied: a view of a few cells would keep the whole block in memory."""
    return pl.col(column) + "" if REJECT_COLUMNS[column] == pl.String else pl.col(column)


def _valid_columns(values: Mapping[str, pl.Expr]) -> list[pl.Expr]:
    return [pl.col(ROW), *(value.alias(name) for name, value in values.items())]
