"""What is known of devices before they are planned, and what becomes of those that are not to be sent."""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Protocol

import polars as pl


class State(IntEnum):
    """What is known of a device; where its two identifiers are told different things, the greater counts.

    So a SIM that has moved to another device leads to no second license.
    """

    UNASSIGNED = 1
    IN_DOUBT = 2
    ASSIGNED = 3


class Known(Protocol):
    """What earlier runs were told of devices; the later word about an identifier counts."""

    def records(self, targets: Sequence[tuple[str, str]], identifier: str) -> Iterator[pl.DataFrame]:
        """All words about devices of some accounts and SKUs, the earliest first.

        `rank` (UInt32): the target's place among `targets`. A column called `identifier` (Int64): the
        device's, not null. `state` (UInt8): a State.
        """

    @property
    def to_sku(self) -> str | None:
        """The SKU that all devices are to get instead of the one they are planned under, if there is one."""


class Fate(IntEnum):
    """What becomes of a sound row."""

    SENT = 0
    SKIPPED = 1
    IN_DOUBT = 2
    REJECTED = 3
    FAILED = 4


HELD: dict[Fate, str] = {Fate.SKIPPED: "skipped", Fate.IN_DOUBT: "in_doubt", Fate.FAILED: "failed"}
"""Rows that are planned but in no batch, and the status that they have for it."""


def fate(state: pl.Expr, left: pl.Expr) -> pl.Expr:
    """The Fate (UInt8) of rows by the State known of each under the SKU that it is to get, 0 where none is.

    What is in doubt is asked for again by the run that left it so, or by nobody: only that run can do so
    under the same `X-Request-ID` (promise D). `left` is the State under the SKU that it is to leave, 0 where
    it is to leave none: what has the new license is not given it again, and has not moved while it is known
    to hold the old one, too.
    """
    cases = (
        ((state == State.ASSIGNED) & (left == State.ASSIGNED), Fate.FAILED),
        ((state == State.IN_DOUBT) | (left == State.IN_DOUBT), Fate.IN_DOUBT),
        (state == State.ASSIGNED, Fate.SKIPPED),
    )
    decided = [pl.when(holds).then(pl.lit(fate, pl.UInt8)) for holds, fate in cases]
    return pl.coalesce(*decided, pl.lit(Fate.SENT, pl.UInt8))
