"""What a run tells the ledger: its results, as far as they say what the carrier did."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from batchlic.carrier.catalogue import Action
from batchlic.journal import Standing
from batchlic.journal.ledger import SCOPE, STATES, WORDS, WORDS_AT_ONCE
from batchlic.reader.known import State
from batchlic.reader.rules import iccid_number, imei_number

IMPORTED = "imported"
TOLD = (Standing.ACCEPTED.value, "confirmed", Standing.IN_DOUBT.value, IMPORTED)
"""Statuses that say something: a device that failed is as it was, one not sent as well."""


IS_WORD = pl.col("status").is_in(TOLD) & (
    pl.col("x_request_id").is_not_null() | (pl.col("status") == IMPORTED)
)
"""Rows of results.parquet that say something."""

_NUMBERS = (
    imei_number(pl.col("imei")).alias("imei_number"),
    iccid_number(pl.col("iccid")).alias("iccid_number"),
)


def words_of_results(results: Path) -> Iterator[pl.DataFrame]:
    """The words in a results.parquet, about devices that this run has sent a request for."""
    yield from words(pl.scan_parquet(results).with_columns(at="last_attempt_at"))


def pairs_of_results(results: Path) -> Iterator[pl.DataFrame]:
    """Identifiers (ledger.IDENTIFIERS) that a results.parquet gives together, of devices not sent."""
    rows = pl.scan_parquet(results).filter(pl.col("batch_id").is_null())
    for start in range(0, rows.select(pl.len()).collect().item(), WORDS_AT_ONCE):
        yield rows.slice(start, WORDS_AT_ONCE).select(*_NUMBERS).drop_nulls().collect()


def words_of_plan(plan: Path) -> Iterator[pl.DataFrame]:
    """A word for each device of a plan: that it is known, from outside, to be assigned."""
    said = {"action": Action.ASSIGN.value, "status": IMPORTED, "x_request_id": None, "request_id": None}
    columns = [pl.lit(value, pl.String).alias(name) for name, value in said.items()]
    yield from words(pl.scan_parquet(plan).with_columns(*columns, at=pl.lit(None, WORDS["at"])))


def words(rows: pl.LazyFrame, *, only: pl.Expr | None = None) -> Iterator[pl.DataFrame]:
    """Words (ledger.SCOPE and ledger.WORDS) of rows with the columns of results.parquet, and `at`.

    A device that no request was sent for is none of the run's business.
    """
    columns = [*SCOPE, *_NUMBERS, _state().alias("state"), *list(WORDS)[3:]]
    for start in range(0, rows.select(pl.len()).collect().item(), WORDS_AT_ONCE):
        some = rows.slice(start, WORDS_AT_ONCE).filter(IS_WORD)
        frame = (some if only is None else some.filter(only)).select(columns).collect()
        if frame.height:
            yield frame


def _state() -> pl.Expr:
    state = (
        pl.when(pl.col("status") == Standing.IN_DOUBT.value)
        .then(pl.lit(State.IN_DOUBT.name.lower()))
        .when(pl.col("action") == Action.ASSIGN.value)
        .then(pl.lit(State.ASSIGNED.name.lower()))
        .otherwise(pl.lit(State.UNASSIGNED.name.lower()))
    )
    return state.cast(STATES)
