"""A migration: two steps for each batch, in an order that leaves no device without a license for long."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain, islice

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.carrier.answers import Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import Batch, DeviceStatus, Step
from batchlic.journal import Journal, Part
from batchlic.pool.migration import MAX_CLEARINGS, Migration
from batchlic.pool.remaining import Delivery
from tests.journal.builders import intent
from tests.pool.builders import ACCOUNT, FLEXIBLE, answer, batch
from tests.writer.builders import journal_of

NEW = "TS-BUNDLE-KTO-SIMSEC-MRC"
SIZE = 4

Carrier = Callable[[Batch, int], Outcome | None]
"""What it says to a device (by its offset) in a request; None: its answer is lost."""


class Ends(Counter[str]):
    def __call__(self, moved: int, failed: int) -> None:
        self["moved"] += moved
        self["failed"] += failed


def migration(
    journal: Journal,
    *,
    spare: dict[str, int] | None = None,
    restorable: Iterable[str] = (),
    resendable: Iterable[str] = (FLEXIBLE, NEW),
    is_revocable: bool = True,
    denied: Mapping[tuple[int, Step], Collection[int]] | None = None,
    ends: Ends | None = None,
) -> Migration:
    return Migration(
        journal=journal,
        to_sku=NEW,
        spare={} if spare is None else spare,
        is_revocable=is_revocable,
        resendable=set(resendable),
        restorable=set(restorable),
        denied=denied or {},
        on_accepted=lambda _: None,
        on_end=Ends() if ends is None else ends,
    )


def deliver(journal: Journal, delivery: Delivery, says: Carrier) -> None:
    """See a delivery through as the pool does, device by device: each refusal is final."""

    async def tell() -> None:
        for offset in delivery.batch.offsets:
            part = delivery.batch.take([offset])
            assert part.action is not None
            asked = intent(part.batch_id, step=part.step, part=part.part, device_count=1, action=part.action)
            seq, outcome = await journal.intend(asked), says(part, offset)
            if outcome is not None:
                final = outcome is Outcome.REFUSED
                await journal.answer(seq, answer(outcome), duration_ms=1, final=final)

    anyio.run(tell)


def live(
    journal: Journal,
    moving: Migration,
    batches: Iterable[Batch],
    says: Carrier,
    *,
    deliveries: int | None = None,
) -> list[tuple[Step | None, str]]:
    """Deliver sequences one after another, all or so many deliveries; returns what was sent."""
    sent: list[tuple[Step | None, str]] = []
    for delivery in chain.from_iterable(moving.sequences(lambda: batches)):
        if len(sent) == deliveries:
            break
        sent.append((delivery.batch.step, str(delivery.batch.action)))
        deliver(journal, delivery, says)
    return sent


def agreeing(_: Batch, __: int) -> Outcome:
    return Outcome.ACCEPTED


def refusing(action: Action, offsets: Iterable[int]) -> Carrier:
    bad = set(offsets)
    return lambda part, offset: (
        Outcome.REFUSED if part.action is action and offset in bad else Outcome.ACCEPTED
    )


@pytest.mark.parametrize(
    ("spare", "order"),
    [
        ({}, ["assign", "unassign"]),
        ({ACCOUNT: SIZE}, ["assign", "unassign"]),
        ({ACCOUNT: SIZE - 1}, ["unassign", "assign"]),
        ({ACCOUNT: 0}, ["unassign", "assign"]),
    ],
)
def test_the_new_license_comes_first_where_there_are_enough(spare: dict[str, int], order: list[str]) -> None:
    journal = journal_of([])
    sent = live(journal, migration(journal, spare=spare), [batch(SIZE)], agreeing)
    assert [action for _, action in sent] == order


def test_licenses_are_promised_to_batches_in_their_order_and_only_once() -> None:
    journal, batches = journal_of([]), [batch(SIZE, batch_id=n) for n in (1, 2, 3)]
    sent = live(journal, migration(journal, spare={ACCOUNT: 2 * SIZE}), batches, agreeing)
    assert [action for _, action in sent] == ["assign", "unassign"] * 2 + ["unassign", "assign"]


@pytest.mark.parametrize(
    ("spare", "later", "second"),
    [({}, {ACCOUNT: 0}, Action.UNASSIGN), ({ACCOUNT: 0}, {}, Action.ASSIGN)],
)
def test_a_batch_goes_on_in_the_order_in_which_it_began(
    spare: dict[str, int], later: dict[str, int], second: Action
) -> None:
    journal = journal_of([])
    live(journal, migration(journal, spare=spare), [batch(SIZE)], agreeing, deliveries=1)
    moving = migration(journal, spare=later, restorable=[FLEXIBLE, NEW])
    sent = live(journal, moving, [batch(SIZE)], refusing(second, [0]))
    assert sent == [(Step[second.name], second.value), (Step.RESTORE, second.value)]


def test_each_step_of_a_batch_has_its_own_x_request_id() -> None:
    journal, ids = journal_of([]), {}
    moving = migration(journal, spare={ACCOUNT: 0}, restorable=[FLEXIBLE])
    for delivery in chain.from_iterable(moving.sequences(lambda: [batch(SIZE, batch_id=3)])):
        ids[delivery.batch.batch_id, delivery.batch.step] = delivery.batch.x_request_id("run")
        deliver(journal, delivery, refusing(Action.ASSIGN, [0]))
    assert list(ids)[:2] == [(3, Step.UNASSIGN), (3, Step.ASSIGN)]
    assert (3, Step.RESTORE) in ids
    assert len(set(ids.values())) == len(ids)
    assert {attempt.step for attempt in journal.attempts()} == {"unassign", "assign", "restore"}


def test_only_what_has_taken_the_first_step_takes_the_second() -> None:
    journal, carried = journal_of([]), []

    def says(part: Batch, offset: int) -> Outcome:
        carried.append((part.action, part.sku_number, offset))
        return refusing(Action.ASSIGN, [1])(part, offset) or Outcome.ACCEPTED

    live(journal, migration(journal), [batch(SIZE)], says)
    assert carried == [
        *((Action.ASSIGN, NEW, offset) for offset in range(SIZE)),
        *((Action.UNASSIGN, FLEXIBLE, offset) for offset in (0, 2, 3)),
    ]


@pytest.mark.parametrize(
    ("spare", "second", "undo"),
    [
        ({ACCOUNT: 0}, Action.ASSIGN, (Action.ASSIGN, FLEXIBLE)),
        ({}, Action.UNASSIGN, (Action.UNASSIGN, NEW)),
    ],
)
def test_where_the_second_step_fails_the_first_is_undone_on_request(
    spare: dict[str, int], second: Action, undo: tuple[Action, str]
) -> None:
    for restorable, expected in (({FLEXIBLE, NEW}, [(*undo, 2)]), (set[str](), [])):
        journal = journal_of([])
        undone: list[object] = []

        def says(part: Batch, offset: int, undone: list[object] = undone) -> Outcome:
            if part.step is Step.RESTORE:
                undone.append((part.action, part.sku_number, offset))
                return Outcome.ACCEPTED
            return refusing(second, [2])(part, offset) or Outcome.ACCEPTED

        ends = Ends()
        moving = migration(journal, spare=dict(spare), restorable=restorable, ends=ends)
        live(journal, moving, [batch(SIZE)], says)
        assert undone == expected
        assert ends == {"moved": SIZE - 1, "failed": 1}


def test_d_a_lifetime_license_is_never_undone_and_never_asked_for_again() -> None:
    def lost(part: Batch, _: int) -> Outcome | None:
        return None if part.action is Action.ASSIGN else Outcome.ACCEPTED

    journal = journal_of([])
    for _ in range(3):
        moving = migration(journal, resendable=[FLEXIBLE], restorable=[FLEXIBLE])
        live(journal, moving, [batch(SIZE)], lost)
    assert Counter(attempt.action for attempt in journal.attempts()) == {"assign": SIZE}


def test_an_assign_in_doubt_is_cleared_before_it_is_sent_again() -> None:
    def lost(part: Batch, offset: int) -> Outcome | None:
        return None if part.action is Action.ASSIGN and offset == 1 else Outcome.ACCEPTED

    journal = journal_of([])
    live(journal, migration(journal), [batch(SIZE)], lost, deliveries=1)
    sent = live(journal, migration(journal), [batch(SIZE)], agreeing)
    of_others, of_the_one = [(Step.UNASSIGN, "unassign")], [(Step.CLEAR, "unassign"), (Step.ASSIGN, "assign")]
    assert sent == [*of_others, *of_the_one, (Step.UNASSIGN, "unassign")]
    cleared = [a for a in journal.attempts() if a.step == Step.CLEAR]
    assert [attempt.part for attempt in cleared] == ["1"]


def test_each_clearing_changes_the_x_request_id_in_every_session() -> None:
    journal, ids = journal_of([]), []
    for deliveries in (1, 2, 1, 2):
        for delivery in islice(next(migration(journal).sequences(lambda: [batch(1)])), deliveries):
            ids.append((delivery.batch.action, delivery.batch.x_request_id("run")))
            deliver(journal, delivery, lambda part, _: _lost_if(part, Action.ASSIGN))
    assert [action for action, _ in ids] == [Action.ASSIGN, Action.UNASSIGN] * 3
    assert len(set(ids)) == len(ids)


def test_it_is_cleared_each_time_and_not_for_ever() -> None:
    journal = journal_of([])
    sent = live(journal, migration(journal), [batch(1)], lambda part, _: _lost_if(part, Action.ASSIGN))
    assert [action for _, action in sent] == ["assign", *["unassign", "assign"] * MAX_CLEARINGS]


def test_what_could_not_be_cleared_is_not_sent_again() -> None:
    journal = journal_of([])
    live(journal, migration(journal), [batch(1)], lambda part, _: _lost_if(part, *Action), deliveries=3)
    assert Counter(attempt.action for attempt in journal.attempts())["assign"] == 1


def test_what_can_not_be_taken_away_once_a_clearing_was_lost_is_gone() -> None:
    journal, lost = journal_of([]), [Action.ASSIGN, Action.UNASSIGN]

    def says(part: Batch, _: int) -> Outcome | None:
        if lost and part.action is lost[0]:
            lost.pop(0)
            return None
        is_clearing = part.action is Action.UNASSIGN and part.sku_number == NEW
        return Outcome.REFUSED if is_clearing else Outcome.ACCEPTED

    ends = Ends()
    sent = live(journal, migration(journal, ends=ends), [batch(1)], says)
    assert [action for _, action in sent] == ["assign", "unassign", "unassign", "assign", "unassign"]
    assert ends == {"moved": 1, "failed": 0}


@pytest.mark.parametrize("resendable", [[FLEXIBLE, NEW], []])
@pytest.mark.parametrize(("is_revocable", "actions"), [(True, ["unassign", "assign"]), (False, ["assign"])])
def test_what_an_operator_has_sent_again_is_cleared_first_if_it_can_be(
    resendable: list[str], *, is_revocable: bool, actions: list[str]
) -> None:
    journal, part = journal_of([]), Part(1, Step.ASSIGN, "", 1)
    lost = migration(journal, resendable=[], is_revocable=is_revocable)
    live(journal, lost, [batch(1)], lambda part, _: _lost_if(part, Action.ASSIGN))
    journal.settle([part], DeviceStatus.PENDING, settled_by="x", reason="x", settled_at=1)
    moving = migration(journal, resendable=resendable, is_revocable=is_revocable)
    assert [action for _, action in live(journal, moving, [batch(1)], agreeing)] == [*actions, "unassign"]


def _lost_if(part: Batch, *actions: Action) -> Outcome | None:
    return None if part.action in actions else Outcome.ACCEPTED


def test_what_an_operator_settles_as_accepted_takes_the_second_step() -> None:
    def says(part: Batch, offset: int) -> Outcome | None:
        return None if part.action is Action.ASSIGN and offset == 1 else Outcome.ACCEPTED

    journal = journal_of([])
    live(journal, migration(journal, resendable=[]), [batch(SIZE)], says)
    part = Part(1, Step.ASSIGN, "1", 1)
    journal.settle([part], DeviceStatus.ACCEPTED, settled_by="x", reason="x", settled_at=1)
    ends = Ends()
    live(journal, migration(journal, resendable=[], ends=ends), [batch(SIZE)], agreeing)
    last = list(journal.attempts())[-1]
    assert (last.action, last.part) == ("unassign", "1")
    assert ends == {"moved": SIZE, "failed": 0}


@given(st.data(), st.integers(1, 3), st.integers(0, 12), st.sampled_from([(), (FLEXIBLE, NEW)]))
def test_stops_never_repeat_or_reorder_the_steps_of_a_device(
    data: st.DataObject, batches: int, spare: int, restorable: tuple[str, ...]
) -> None:
    executed: defaultdict[tuple[int, int], list[str]] = defaultdict(list)

    def says(part: Batch, offset: int) -> Outcome:
        outcome = data.draw(st.sampled_from([Outcome.ACCEPTED, Outcome.ACCEPTED, Outcome.REFUSED]))
        if outcome is Outcome.ACCEPTED:
            executed[part.batch_id, offset].append(f"{part.step} {part.action} {part.sku_number}")
        return outcome

    journal = journal_of([])
    plan = [batch(SIZE, batch_id=number) for number in range(1, batches + 1)]
    ends = Ends()
    for deliveries in [*data.draw(st.lists(st.integers(0, 6), max_size=4)), None]:
        ends = Ends()
        moving = migration(
            journal,
            spare={ACCOUNT: spare},
            restorable=restorable,
            ends=ends,
        )
        live(journal, moving, plan, says, deliveries=deliveries)
    away, there = f"unassign unassign {FLEXIBLE}", f"assign assign {NEW}"
    back, out = f"restore assign {FLEXIBLE}", f"restore unassign {NEW}"
    moves = [[away, there], [there, away]]
    undone = [[away, back], [there, out]] if restorable else []
    assert all(steps in [[away], [there], *moves, *undone] for steps in executed.values())
    moved = sum(steps in moves for steps in executed.values())
    assert ends == Counter(moved=moved, failed=batches * SIZE - moved)
