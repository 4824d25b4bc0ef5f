"""When parked requests keep a new sequence from beginning."""

from dataclasses import replace

import pytest

from batchlic.carrier.catalog import Action
from batchlic.chunker import Step, StepRequest
from batchlic.pool.parked import MOST_STUCK, Parked
from batchlic.pool.remaining import Delivery, Position
from batchlic.pool.suspicion import Suspicions
from tests.pool.builders import batch

ASSIGN = StepRequest(step=Step.ASSIGN, action=Action.ASSIGN, is_repeatable=False)


def second_steps(count: int, position: Position = Position.SECOND) -> list[Delivery]:
    return [
        Delivery(replace(batch(1, batch_id=number + 1, first=number), request=ASSIGN), position=position)
        for number in range(count)
    ]


@pytest.mark.parametrize("position", [Position.SECOND, Position.SECOND_RESTORABLE])
def test_no_new_sequence_begins_while_the_most_batches_are_stuck(position: Position) -> None:
    parked = Parked(Suspicions())
    *others, last = second_steps(MOST_STUCK, position)
    parked.put(others, are_stuck=True)
    assert not parked.blocks(is_between_steps=False)
    parked.put([last], are_stuck=True)
    assert parked.blocks(is_between_steps=False)
    parked.release(last)
    assert not parked.blocks(is_between_steps=False)


@pytest.mark.parametrize(
    ("position", "are_stuck"), [(Position.FIRST, True), (Position.UNDO, True), (Position.SECOND, False)]
)
def test_batches_that_are_not_stuck_block_nothing(position: Position, *, are_stuck: bool) -> None:
    parked = Parked(Suspicions())
    parked.put(second_steps(2 * MOST_STUCK, position), are_stuck=are_stuck)
    assert not parked.blocks(is_between_steps=False)


def test_stuck_batches_do_not_block_devices_that_are_between_two_steps() -> None:
    parked = Parked(Suspicions())
    parked.put(second_steps(MOST_STUCK), are_stuck=True)
    assert not parked.blocks(is_between_steps=True)
