"""A refused batch is split until only the bad devices are left."""

from collections import Counter
from dataclasses import replace
from math import log2

import anyio
from hypothesis import given
from hypothesis import strategies as st

from batchlic.carrier.answers import Answer, Outcome
from batchlic.chunker import Batch
from batchlic.pool.bisect import bisect
from batchlic.pool.remaining import Delivery
from batchlic.pool.verdict import Next, Verdict, judge
from tests.pool.builders import (
    ACCEPTED,
    AMBIGUOUS,
    BAD_ACCOUNT,
    BAD_DEVICE,
    batch,
    identifier,
)


def judged(part: Batch, answer: Answer) -> Verdict:
    return judge(Delivery(part), answer, is_proven=False, is_resendable=True, trusts_duplicates=True)


class Carrier:
    """Refuses whatever holds a bad device; names the first `naming` bad ones of a request."""

    def __init__(self, bad: set[int], naming: int = 0) -> None:
        self._bad = bad
        self._naming = naming
        self.requests: list[tuple[int, ...]] = []
        self.accepted: Counter[int] = Counter()
        self.refused_alone: Counter[int] = Counter()

    async def send(self, part: Batch) -> Verdict:
        offsets = tuple(part.offsets)
        self.requests.append(offsets)
        bad = sorted(self._bad.intersection(offsets))
        if not bad:
            self.accepted.update(offsets)
            return judged(part, ACCEPTED)
        if len(offsets) == 1:
            self.refused_alone.update(offsets)
        return judged(part, replace(BAD_DEVICE, named_devices=tuple(map(identifier, bad[: self._naming]))))

    def deliver(self, whole: Batch) -> None:
        async def see_through() -> None:
            verdict = await self.send(whole)
            if verdict.next is Next.SPLIT:
                await bisect(whole, verdict.answer.named_devices, self.send)

        anyio.run(see_through)


@st.composite
def refused(draw: st.DrawFn) -> tuple[int, set[int]]:
    size = draw(st.integers(1, 100))
    return size, draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=size))


@given(refused(), st.sampled_from([0, 1, 100]))
def test_good_devices_are_licensed_once_and_bad_ones_are_refused_alone(
    drawn: tuple[int, set[int]], naming: int
) -> None:
    size, bad = drawn
    carrier = Carrier(bad, naming)
    carrier.deliver(batch(size))
    assert carrier.accepted == Counter(set(range(size)) - bad)
    assert carrier.refused_alone == Counter(bad)
    assert len(set(carrier.requests)) == len(carrier.requests)


@given(refused(), st.sampled_from([0, 1, 100]))
def test_finding_them_costs_no_more_than_binary_splitting(drawn: tuple[int, set[int]], naming: int) -> None:
    size, bad = drawn
    carrier = Carrier(bad, naming)
    carrier.deliver(batch(size))
    assert len(carrier.requests) - 1 <= 2 * len(bad) * (log2(size / len(bad)) + 1)


def test_one_unnamed_bad_device_in_100_costs_at_most_the_halvings() -> None:
    for bad in range(100):
        carrier = Carrier({bad})
        carrier.deliver(batch(100))
        assert len(carrier.requests) - 1 <= 14


def test_a_half_is_not_sent_whole_where_its_sibling_got_through() -> None:
    carrier = Carrier({99})
    carrier.deliver(batch(100))
    assert len(carrier.requests) - 1 == 8


def test_named_devices_go_alone_and_the_rest_goes_at_once() -> None:
    carrier = Carrier({3, 5}, naming=2)
    carrier.deliver(batch(8))
    assert sorted(carrier.requests) == [tuple(range(8)), (0, 1, 2, 4, 6, 7), (3,), (5,)]


def test_a_half_in_doubt_is_left_and_the_other_half_is_delivered() -> None:
    sent: list[str] = []

    async def send(part: Batch) -> Verdict:
        sent.append(part.part)
        return judged(
            part, AMBIGUOUS if part.part == "0-1" else BAD_DEVICE if 3 in part.offsets else ACCEPTED
        )

    anyio.run(bisect, batch(4), (), send)
    assert sent == ["0-1", "2-3", "2", "3"]


def test_a_refusal_that_blames_the_account_ends_the_bisection_of_a_part() -> None:
    sent: list[str] = []

    async def send(part: Batch) -> Verdict:
        sent.append(part.part)
        return judged(part, BAD_ACCOUNT)

    anyio.run(bisect, batch(8), (), send)
    assert sent == ["0-3", "4-7"]
    assert BAD_ACCOUNT.outcome is Outcome.REFUSED
