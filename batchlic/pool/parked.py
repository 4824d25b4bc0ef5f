"""Requests that were refused without a known reason and are sent again later, after growing pauses.

So are requests that a gateway refuses while it passes on others: see rule 7 of `suspicion`.

1. A parked request is sent again once its last refusal is explained, at most one for each new sequence. If
   its refusal can't count whatever else is accepted, it waits for the end of the plan.
2. Devices that are parked leave the sequence of their batch: the others take their next step without them.
3. No new sequence begins while `MOST_STUCK` batches wait between two steps of a migration, except those whose
   devices are between two steps already.
4. The last `WITNESSES` sequences of the plan wait until all others are answered, except those that did not
   reach the service `MANY_UNAVAILABLE` times. If parked requests need evidence then, a witness is sent each
   time that no refusal is explained: its acceptance explains them all.
5. After the plan, there is one last round: each parked request is sent again until it ends, or until it is
   given up. Then the run stops, and names the devices. They are pending.
6. While `MOST_PARKED` requests are in memory, no new sequence begins, either: they are sent again. Those that
   are given up make room, and their devices are pending.
"""

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence

import anyio

from batchlic.chunker import Step
from batchlic.pool.remaining import Delivery, Position
from batchlic.pool.suspicion import EXPLAINED, Suspicions, due_at
from batchlic.pool.verdict import can_be_proven

MOST_PARKED = 1000
"""Requests in memory (promise H), in all lanes together."""
MOST_STUCK = 5
"""Batches that may wait between two steps, with no device accepted for the second one."""
WITNESSES = EXPLAINED
"""Sequences that are kept, so that the refusals of a device can be explained as often as necessary."""
TO_CHECK = 16
"""So many parked requests are looked at for each new sequence."""
MOST_NAMES = 5
"""Devices or batches that a message names."""

_IDENTIFIER = re.compile(r'"id":"(\d+)"')


class Parked:
    """The parked deliveries of a lane, at most so many."""

    def __init__(self, suspicions: Suspicions, *, most: int = MOST_PARKED) -> None:
        self._suspicions = suspicions
        self._most = most
        self._deliveries: deque[Delivery] = deque()
        self._stuck: Counter[tuple[int, Step | None]] = Counter()
        """Parked deliveries of batches that are stuck, by batch and step."""
        self.left_out = 0
        """Devices of requests that were given up to make room."""

    def __iter__(self) -> Iterator[Delivery]:
        """The deliveries that are parked now."""
        return iter(self._deliveries)

    def __len__(self) -> int:
        return len(self._deliveries)

    def put(self, deliveries: Iterable[Delivery], *, are_stuck: bool = False) -> None:
        """Park deliveries. `are_stuck`: no device of their batch was accepted for this step."""
        for delivery in deliveries:
            self._make_room()
            self._deliveries.append(delivery)
            if are_stuck and delivery.position in {Position.SECOND, Position.SECOND_RESTORABLE}:
                self._stuck[_key(delivery)] += 1

    def take_over(self, other: "Parked") -> None:
        """Park what another lane has parked, whose devices are pending."""
        self.put(other)
        self.left_out += other.left_out

    def _make_room(self) -> None:
        """If there are too many deliveries, leave out one that is given up."""
        if len(self._deliveries) >= self._most:
            given_up = next(filter(self._suspicions.is_given_up, self._deliveries), None)
            if given_up is not None:
                self._deliveries.remove(given_up)
                self.left_out += len(given_up.batch.offsets)
                self.release(given_up)

    @property
    def needs_evidence(self) -> bool:
        """Whether a request is parked whose refusals count if they are explained."""
        return any(_can_count(one) and not self._suspicions.may_be_chance(one) for one in self._deliveries)

    def take_due(self) -> Delivery | None:
        """A delivery whose next refusal could count against its devices, if one is due."""
        now = anyio.current_time()
        for _ in range(min(len(self._deliveries), TO_CHECK)):
            first = self._deliveries.popleft()
            if self._is_explained(first) and now >= due_at(first):
                return first
            self._deliveries.append(first)
        return None

    def take_explained(self) -> Delivery | None:
        """The delivery that is due first, of those whose next refusal could count against their devices."""
        return self._take_first_of(list(filter(self._is_explained, self._deliveries)))

    def take_first(self, *, only_bounded: bool) -> Delivery | None:
        """The delivery that is due first, of those that are not given up."""
        return self._take_first_of(
            [
                one
                for one in self._deliveries
                if not self._suspicions.is_given_up(one) and (one.is_bounded or not only_bounded)
            ]
        )

    def _is_explained(self, delivery: Delivery) -> bool:
        return _can_count(delivery) and self._suspicions.is_explained(delivery)

    def _take_first_of(self, deliveries: list[Delivery]) -> Delivery | None:
        first = min(deliveries, key=due_at, default=None)
        if first is not None:
            self._deliveries.remove(first)
        return first

    def release(self, delivery: Delivery) -> None:
        """Note that a delivery that was taken has been sent. What is left of it has been put again."""
        if (key := _key(delivery)) in self._stuck:
            self._stuck[key] -= 1
            if not self._stuck[key]:
                del self._stuck[key]

    def blocks(self, *, is_between_steps: bool) -> bool:
        """Whether no sequence may begin. `is_between_steps`: its devices are between two steps already."""
        is_full = len(self._deliveries) >= self._most and not any(
            map(self._suspicions.is_given_up, self._deliveries)
        )
        return is_full or (len(self._stuck) >= MOST_STUCK and not is_between_steps)

    @property
    def reason(self) -> str:
        """Why they are parked."""
        if self._deliveries and all(one.unavailable.count for one in self._deliveries):
            return (
                "some requests did not reach the license service, while others did: a gateway may refuse them"
            )
        return "the carrier refuses some devices for an unknown reason"

    def description(self) -> str:
        """The devices that are parked, the last answer to one of them, and what the operator can do."""
        parked = sorted(self._deliveries, key=lambda one: (one.batch.batch_id, one.batch.offsets[0]))
        devices = sum(len(one.batch.offsets) for one in parked) + self.left_out
        names = list(dict.fromkeys(map(_name, parked)))
        named = ", ".join(names[:MOST_NAMES]) + (", …" if len(names) > MOST_NAMES or self.left_out else "")
        last = max((one.setbacks for one in parked), key=lambda setbacks: setbacks.last_at).last
        counted = "1 device" if devices == 1 else f"{devices:,} devices"
        return f"pending: {counted} ({named}); last answer: {last}{_advice(parked)}"


def _advice(parked: Sequence[Delivery]) -> str:
    """How to settle a device."""
    single = [one for one in parked if len(one.batch.offsets) == 1]
    if not single:
        return ""
    return (
        ". If you know that a device is at fault, settle it: batchlic settle RUN_DIR --as failed "
        f"--device {_name(single[0])} --reason …"
    )


def _can_count(delivery: Delivery) -> bool:
    return not delivery.unavailable.count and can_be_proven(delivery, blames_all=delivery.refusals.blames_all)


def _key(delivery: Delivery) -> tuple[int, Step | None]:
    return delivery.batch.batch_id, delivery.batch.step


def _name(delivery: Delivery) -> str:
    found = _IDENTIFIER.findall(delivery.batch.encoded)
    return found[0] if len(delivery.batch.offsets) == 1 and found else f"batch {delivery.batch.batch_id}"
