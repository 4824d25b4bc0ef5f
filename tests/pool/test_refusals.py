"""Batch after batch refused alike stops the run instead of burning its plan."""

from dataclasses import replace

import pytest

from batchlic.carrier.answers import Answer
from batchlic.carrier.catalog import Action
from batchlic.chunker import Step, StepRequest
from batchlic.errors import ExitCode, StoppedEarly
from batchlic.pool.refusals import ALIKE, MANY_DEVICES, RefusalWatch
from batchlic.pool.remaining import Position
from tests.pool.builders import (
    ACCOUNT,
    AMBIGUOUS,
    BAD_ACCOUNT,
    BAD_DEVICE,
    FLEXIBLE,
    LIFETIME,
    REFUSED,
    batch,
)


def refuse(
    watch: RefusalWatch, times: int, *, sku: str = FLEXIBLE, refusal: Answer = BAD_ACCOUNT, devices: int = 4
) -> None:
    for number in range(times):
        watch.refused(batch(devices, batch_id=number + 1, sku=sku), refusal)


def test_batches_refused_alike_stop_the_run_and_say_what_to_check() -> None:
    watch = RefusalWatch()
    refuse(watch, ALIKE - 1)
    with pytest.raises(StoppedEarly, match=rf"{ACCOUNT}.*{FLEXIBLE}.*AccountNotFound") as stop:
        refuse(watch, 1)
    assert stop.value.exit_code is ExitCode.STOPPED


def test_a_migration_is_told_that_a_device_may_have_one_sku_only() -> None:
    watch = RefusalWatch()
    refuse(watch, ALIKE - 1)
    with pytest.raises(StoppedEarly, match="--order unassign-first"):
        watch.refused(
            replace(batch(), request=StepRequest(step=Step.ASSIGN, action=Action.ASSIGN)), BAD_ACCOUNT
        )


@pytest.mark.parametrize("place", [Position.SECOND, Position.SECOND_RESTORABLE])
def test_one_that_has_given_up_the_old_sku_first_is_not_told_to(place: Position) -> None:
    watch = RefusalWatch()
    refuse(watch, ALIKE - 1)
    with pytest.raises(StoppedEarly, match=r"then resume the run$"):
        watch.refused(
            replace(batch(), request=StepRequest(step=Step.ASSIGN, action=Action.ASSIGN)), BAD_ACCOUNT, place
        )


def test_refused_undo_requests_never_stop_the_run() -> None:
    watch = RefusalWatch()
    for _ in range(10 * ALIKE):
        watch.refused(batch(), BAD_ACCOUNT, Position.UNDO)


def test_once_something_was_accepted_refusals_are_the_devices_own() -> None:
    watch = RefusalWatch()
    watch.accepted(batch())
    refuse(watch, 10 * ALIKE)


def test_another_sku_says_nothing_of_this_one() -> None:
    watch = RefusalWatch()
    watch.accepted(batch(sku=LIFETIME))
    with pytest.raises(StoppedEarly):
        refuse(watch, ALIKE)


@pytest.mark.parametrize("refusal", [BAD_DEVICE, REFUSED])
def test_bad_devices_in_a_row_are_no_wrong_account(refusal: Answer) -> None:
    refuse(RefusalWatch(), MANY_DEVICES - 1, refusal=refusal, devices=1)


@pytest.mark.parametrize("refusal", [BAD_DEVICE, REFUSED])
def test_where_all_of_many_devices_are_bad_the_account_is_suspected(refusal: Answer) -> None:
    with pytest.raises(StoppedEarly):
        refuse(RefusalWatch(), ALIKE, refusal=refusal, devices=MANY_DEVICES // ALIKE)


def test_refusals_that_differ_and_doubts_do_not_add_up() -> None:
    watch = RefusalWatch()
    refuse(watch, ALIKE - 1)
    for _ in range(ALIKE - 1):
        watch.refused(batch(), BAD_DEVICE)
        watch.refused(batch(), AMBIGUOUS)
    refuse(watch, ALIKE - 1, sku=LIFETIME)
