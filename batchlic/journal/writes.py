"""The rows of intents and answers, as the databases of a journal insert them."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, NamedTuple

import sqlalchemy as sa

from batchlic.carrier.answers import Answer
from batchlic.journal import tables
from batchlic.journal.records import Intent


class Insertion(NamedTuple):
    """One row that waits to be committed, with a value for each column of its table."""

    table: sa.Table
    row: tuple[Any, ...]


def intent_row(seq: int, intent: Intent) -> Insertion:
    """The row of an intent with the number `seq`."""
    return Insertion(tables.intents, (seq, *_INTENT_VALUES(intent)))


def answer_row(seq: int, answer: Answer, *, duration_ms: float, final: bool) -> Insertion:
    """The row of the answer to the intent with the number `seq`."""
    row = (
        seq,
        duration_ms,
        answer.outcome.value,
        final,
        answer.http_status,
        answer.request_id,
        answer.error_code,
        answer.error_message,
        answer.retry_after_s,
        answer.blame is not None,
    )
    return Insertion(tables.answers, row)


_INTENT_VALUES = attrgetter(*(column.name for column in tables.intents.c if column.name != "seq"))
