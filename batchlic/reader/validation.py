"""One block of cells, judged: the rows fit to plan as integers, and the others with a reason."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
from polars._typing import PolarsDataType

from batchlic.reader import rules
from batchlic.reader.columns import fold
from batchlic.reader.inventory import SHORT
from batchlic.reader.options import IDENTIFIERS, ReadOptions, Role

ROW = "row"
TARGETS = (Role.ACCOUNT, Role.SKU)
CELLS = (*IDENTIFIERS, *TARGETS)

ODD: dict[str, PolarsDataType] = {ROW: pl.UInt32, **dict.fromkeys(CELLS, pl.String)}
REJECTS: dict[str, PolarsDataType] = {**ODD, "reason": pl.String, "message": pl.String}


@dataclass(frozen=True, slots=True)
class Validated:
    """What became of a block's rows; `row` counts from 0 within the block.

    `sound`: `row`, `imei_number`, `iccid_number`, and `account` and `sku`, null where the job's stand in.
    `odd` (columns ODD): the cells, as they stood, of those sound rows that had to be cleaned. `rejects`
    (columns REJECTS): the cells as they stood, and why. `height`: rows of the block, sound or rejected;
    repeated header lines are no rows.
    """

    height: int
    sound: pl.DataFrame
    odd: pl.DataFrame
    rejects: pl.DataFrame


class Validator:
    """Applies the rules to blocks of one inventory, `headers` being those of its columns by role.

    Nearly all rows of a real inventory are plainly sound, and for them a few integer operations prove it.
    The others are cleaned and put through the table of rules. Safe to share between threads.
    """

    def __init__(self, options: ReadOptions, headers: Mapping[Role, str]) -> None:
        self._headers = {role: fold(header) for role, header in headers.items()}
        self._plainly_sound = rules.plainly_sound(options)
        self._cleaning = rules.cleaning(options)
        self._table = rules.table(options)
        broken = (pl.when(rule.broken).then(at) for at, rule in enumerate(self._table))
        self._first_broken = pl.coalesce(*broken).alias("broken")

    def __call__(self, block: pl.DataFrame) -> Validated:
        """Judge a block of cells: columns named by role (String); a missing one counts as empty."""
        frame = self._completed(block)
        values = frame.select(_sound(rules.plain_values()))
        plain = frame.with_columns(values).select(self._plainly_sound).to_series()
        sound = values if plain.all() else values.filter(plain)
        if sound.height == frame.height:
            return Validated(frame.height, sound, pl.DataFrame(schema=ODD), pl.DataFrame(schema=REJECTS))
        doubtful = frame.filter(~plain)
        repeated = doubtful.filter(self._is_header())[ROW]
        if len(repeated):
            return self(block.with_row_index(ROW).filter(~pl.col(ROW).is_in(repeated.implode())).drop(ROW))
        cleaned, rejects = self._through_the_table(doubtful)
        sound = pl.concat([sound, cleaned.select(_sound(rules.clean_values()))]).sort(ROW)
        return Validated(
            frame.height, sound, cleaned.select(*map(_own, ODD)), rejects.select(*map(_own, REJECTS))
        )

    def _completed(self, block: pl.DataFrame) -> pl.DataFrame:
        """The block with all cells, empty ones null, and with its rows numbered."""
        absent = [pl.lit(None, pl.String).alias(role) for role in CELLS if role not in block.columns]
        absent += [] if SHORT in block.columns else [pl.lit(value=False).alias(SHORT)]
        filled = [
            pl.when(pl.col(role).str.len_bytes() > 0).then(pl.col(role)).alias(role)
            for role in CELLS
            if role in block.columns
        ]
        return block.with_columns(*absent, *filled).with_row_index(ROW)

    def _is_header(self) -> pl.Expr:
        if not self._headers.keys() & set(IDENTIFIERS):
            return pl.lit(value=False)
        same = (
            pl.col(role).str.normalize("NFKC").str.replace_all(r"[\W_]+", "").str.to_lowercase() == header
            for role, header in self._headers.items()
        )
        return pl.all_horizontal(same).fill_null(value=False)

    def _through_the_table(self, doubtful: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The rows that break no rule once cleaned, and the rejects."""
        for step in self._cleaning:
            doubtful = doubtful.with_columns(step)
        cleaned, rejects = pl.DataFrame(schema=doubtful.schema), [pl.DataFrame(schema=REJECTS)]
        for (broken,), rows in doubtful.with_columns(self._first_broken).group_by("broken"):
            if broken is None:
                cleaned = rows
            else:
                rule = self._table[int(str(broken))]
                reason = pl.lit(rule.reason.value).alias("reason")
                rejects.append(rows.select(*ODD, reason, rule.message.alias("message")))
        return cleaned, pl.concat(rejects).sort(ROW)


def _own(column: str) -> pl.Expr:
    """A column with its text copied: a view of a few cells would keep the whole block in memory."""
    return pl.col(column) + "" if REJECTS[column] == pl.String else pl.col(column)


def _sound(values: Mapping[str, pl.Expr]) -> list[pl.Expr]:
    return [pl.col(ROW), *(value.alias(name) for name, value in values.items())]
