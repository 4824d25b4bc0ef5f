"""What of a plan is still to be sent: nothing settled, nothing twice, nothing forgotten."""

from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.carrier.answers import Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import Batch, DeviceStatus, Step, StepRequest, format_ranges, parse_ranges
from batchlic.journal import Attempt, Settlement, is_lost, status_of
from batchlic.pool.remaining import BATCHES_PER_READ, Delivery, remaining, remaining_of
from tests.pool.builders import FLEXIBLE, LIFETIME, batch
from tests.writer.builders import JournaledAttempt, journal_of

SIZE = 8


def attempt(seq: int, offsets: list[int] | None, outcome: str | None, *, final: bool = False) -> Attempt:
    return Attempt(
        seq=seq,
        batch_id=1,
        step=None,
        part="" if offsets is None else format_ranges(offsets),
        x_request_id="1-000",
        attempt=1,
        action="assign",
        device_count=SIZE if offsets is None else len(offsets),
        request_sha256="",
        pace_rps=None,
        started_at=seq,
        duration_ms=None,
        outcome=outcome,
        final=final,
        http_status=None,
        request_id=None,
        error_code=None,
        error_message=None,
        retry_after_s=None,
    )


@st.composite
def histories(draw: st.DrawFn) -> list[Attempt]:
    """Attempts of which the first carries all, and none a device that is accepted or was refused alone."""
    outcomes = st.sampled_from([*Outcome, None])
    attempts: list[Attempt] = []
    unsettled = set(range(SIZE))
    for seq in range(draw(st.integers(0, 12))):
        if not unsettled:
            break
        part = st.sets(st.sampled_from(sorted(unsettled)), min_size=1, max_size=SIZE - 1)
        offsets = draw(part.map(sorted)) if seq else None
        outcome = draw(outcomes)
        final = outcome is Outcome.REFUSED and offsets is not None and len(offsets) == 1
        attempts.append(attempt(seq, offsets, outcome, final=final))
        if final or outcome is Outcome.ACCEPTED:
            unsettled -= set(range(SIZE) if offsets is None else offsets)
    return attempts


def carriers(history: list[Attempt], offset: int) -> list[Attempt]:
    return [a for a in history if not a.part or offset in parse_ranges(a.part)]


@given(histories(), st.sampled_from([FLEXIBLE, LIFETIME]))
def test_just_the_unsettled_devices_are_left_each_once(history: list[Attempt], sku: str) -> None:
    left = Counter(
        offset
        for delivery in remaining_of(batch(SIZE, sku=sku), history, {FLEXIBLE})
        for offset in delivery.batch.offsets
    )
    pending, repeatable = set[int](), defaultdict[str, set[int]](set)
    for offset in range(SIZE):
        of_device = carriers(history, offset)
        status, lost = status_of(of_device), {a.part for a in of_device if is_lost(a)}
        if status is DeviceStatus.PENDING:
            pending.add(offset)
        elif status is DeviceStatus.IN_DOUBT and not of_device[-1].final and lost == {of_device[-1].part}:
            repeatable[of_device[-1].part].add(offset)
    whole = [offsets for part, offsets in repeatable.items() if offsets == offsets_of(part)]
    assert left == Counter(pending.union(*whole if sku == FLEXIBLE else ()))


def offsets_of(part: str) -> set[int]:
    return set(parse_ranges(part) if part else range(SIZE))


@pytest.mark.parametrize("status", ["accepted", "failed"])
def test_d_a_request_in_doubt_is_not_sent_again_in_part(status: str) -> None:
    """Callbacks or an operator settle some devices of a batch whose answer was lost."""
    lost = attempt(1, None, None)
    settlement = Settlement(2, 1, None, format_ranges([0, 3]), 2, status, "a callback", "", 0)
    assert list(remaining_of(batch(SIZE), [lost, settlement], {FLEXIBLE})) == []


def test_devices_that_an_operator_settled_as_pending_are_sent_in_part() -> None:
    lost = attempt(1, None, None)
    settlement = Settlement(2, 1, None, format_ranges([0, 3]), 2, "pending", "operator", "", 0)
    [delivery] = remaining_of(batch(SIZE), [lost, settlement], {FLEXIBLE})
    assert list(delivery.batch.offsets) == [0, 3]
    assert not delivery.is_in_doubt


@pytest.mark.parametrize(("step", "action"), [(Step.CLEAR, Action.UNASSIGN), (Step.RESTORE, Action.ASSIGN)])
def test_only_a_lost_unassign_is_sent_again_in_part(step: Step, action: Action) -> None:
    request = StepRequest(step=step, action=action)
    settlement = Settlement(2, 1, step, format_ranges([0, 3]), 2, "accepted", "operator", "", 0)
    left = list(
        remaining_of(replace(batch(SIZE), request=request), [attempt(1, None, None), settlement], {FLEXIBLE})
    )
    assert len(left) == (action is Action.UNASSIGN)


@given(histories())
def test_c_what_was_refused_as_it_stands_is_never_sent_as_it_stood(history: list[Attempt]) -> None:
    for delivery in remaining_of(batch(SIZE), history, {FLEXIBLE}):
        same = [a for a in history if a.part == delivery.batch.part]
        assert delivery.attempts == len(same)
        assert delivery.is_refused == (bool(same) and same[-1].outcome == Outcome.REFUSED)
        assert not (delivery.is_refused and len(delivery.batch.offsets) == 1)


def test_a_fresh_journal_leaves_everything_as_it_is() -> None:
    batches = [batch(batch_id=number) for number in range(1, 4)]
    assert list(remaining(batches, journal_of([]), {FLEXIBLE})) == [Delivery(b) for b in batches]


def test_a_whole_batch_in_doubt_goes_again_as_it_was() -> None:
    whole = batch(SIZE)
    assert list(remaining_of(whole, [attempt(1, None, None)], {FLEXIBLE})) == [
        Delivery(whole, attempts=1, is_in_doubt=True)
    ]
    assert list(remaining_of(batch(SIZE, sku=LIFETIME), [attempt(1, None, None)], {FLEXIBLE})) == []


def test_a_long_plan_is_looked_at_in_stretches() -> None:
    count = 2 * BATCHES_PER_READ + 3
    sizes = [4] * count
    done = [JournaledAttempt(number) for number in range(1, count + 1) if number % 3]
    batches = [batch(batch_id=number) for number in range(1, count + 1)]
    accepted: list[Batch] = []
    left = remaining(batches, journal_of(done, sizes), {FLEXIBLE}, on_accepted=accepted.append)
    assert [delivery.batch.batch_id for delivery in left] == list(range(3, count + 1, 3))
    assert accepted == [batch for batch in batches if batch.batch_id % 3]
