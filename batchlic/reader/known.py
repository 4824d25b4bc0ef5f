"""What is known of devices before they are planned, and what becomes of those that are not to be sent."""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Protocol

import polars as pl


class State(IntEnum):
    """What is known of a device; where its two identifiers are told different things, the greater counts.

    So a SIM that has moved to another device leads to no second licence.
    """

    UNASSIGNED = 1
    IN_DOUBT = 2
    ASSIGNED = 3


class Known(Protocol):
    """What earlier runs were told of devices; the later word about an identifier counts."""

    def words(self, targets: Sequence[tuple[str, str]], identifier: str) -> Iterator[pl.DataFrame]:
        """All words about devices of some accounts and SKUs, the earliest first.

        `rank` (UInt32): the target's place among `targets`. A column called `identifier` (Int64): the
        device's, not null. `state` (UInt8): a State.
        """


class Fate(IntEnum):
    """What becomes of a sound row."""

    SENT = 0
    SKIPPED = 1
    IN_DOUBT = 2
    REJECTED = 3


HELD: dict[Fate, str] = {Fate.SKIPPED: "skipped", Fate.IN_DOUBT: "in_doubt"}
"""Rows that are planned but in no batch, and the status that they have for it."""


def fate(state: pl.Expr) -> pl.Expr:
    """The Fate (UInt8) of rows that are to be assigned, by the State known of each, 0 where none is.

    What is in doubt is asked for again by the run that left it so, or by nobody: only that run can do so
    under the same `X-Request-ID` (promise D).
    """
    return (
        pl.when(state == State.ASSIGNED)
        .then(pl.lit(Fate.SKIPPED, pl.UInt8))
        .when(state == State.IN_DOUBT)
        .then(pl.lit(Fate.IN_DOUBT, pl.UInt8))
        .otherwise(pl.lit(Fate.SENT, pl.UInt8))
    )
