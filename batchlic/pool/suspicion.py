"""Distinguishes refusals of single devices from a carrier that refuses everything.

A refusal with an unknown error code may be about a device, or the carrier refuses everything for a while. It
counts against the device if the device is refused again and again while the carrier accepts later requests of
the same kind. If the carrier also accepts requests unchanged that it refused a moment ago, many more refusals
are needed: one of several servers may be broken. While the carrier accepts none, the pool sends one batch at
a time, after growing pauses. Then the run stops.
"""

import math
from dataclasses import dataclass, field
from typing import TypeAlias

import anyio

from batchlic.carrier.answers import Answer, Blame, Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import Batch, Step
from batchlic.errors import StoppedEarly
from batchlic.pool.breaker import growing_pause
from batchlic.pool.refusals import advice
from batchlic.pool.remaining import Delivery, Position, Refusals
from batchlic.pool.verdict import is_definite

MANY_BATCHES = 5
"""If so many batches in a row are refused, the reason may not be in their devices."""
MANY_REQUESTS = 15
"""The same for refused requests in a row. Splitting one batch of 100 down to a device takes 8."""
EXPLAINED = 3
"""So often must others be accepted after a device was refused alone. The next refusal counts against it."""
MANY_REFUSALS = 6
"""Refusals of one delivery, over 31 seconds, that count even if the plan has no other requests left."""
REFUSALS_BY_CHANCE = 16
"""So many refusals of one delivery count even while the carrier accepts other refused requests unchanged."""
CHANCE_S = 120.0
"""Seconds for which a refused request that is accepted unchanged makes other refusals doubtful."""
PATIENCE_S = 120.0
"""Seconds without an acceptance before the run stops, if this session had requests accepted before."""

_Kind: TypeAlias = tuple[str, str, Action | None]
"""Account, SKU, and the action of a migration's step: what requests of one kind have in common."""
_Prober: TypeAlias = tuple[int, Step | None]


@dataclass(slots=True)
class _Suspicion:
    """What was refused since the last acceptance. Times are seconds of the event loop's clock."""

    since: float
    batches: int = 0
    requests: int = 0
    blaming_account: int = 0
    """Batches refused with an error about the account or SKU."""
    is_persistent: bool = False
    """Whether one delivery was refused `MANY_REFUSALS` times."""
    probes: int = 0
    """Requests refused since the suspicion is strong."""
    pauses: int = 0
    prober: _Prober | None = None
    """The batch that is sent while all others wait."""
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def is_strong(self) -> bool:
        return self.batches >= MANY_BATCHES or self.requests >= MANY_REQUESTS or self.is_persistent

    def add(self, delivery: Delivery, answer: Answer) -> None:
        self.probes += self.is_strong
        if delivery.refusals.count:  # it is counted already
            self.is_persistent |= delivery.refusals.count + 1 >= MANY_REFUSALS
            return
        self.requests += 1
        if not delivery.is_new_part:
            self.batches += 1
            self.blaming_account += answer.blame is Blame.ACCOUNT

    async def pause(self) -> None:
        """Wait longer before each probe, until something is accepted."""
        self.pauses += 1
        with anyio.move_on_after(growing_pause(self.pauses)):
            await self.changed.wait()

    def wake_waiting(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()


class Suspicions:
    """What is suspected of the carrier, by account, SKU and action; shared by all workers."""

    def __init__(self) -> None:
        self._accepted_at: dict[_Kind, float] = {}
        """When the newest request that this session got accepted was sent."""
        self._reversed_at: dict[_Kind, float] = {}
        """When a refused request was last accepted unchanged."""
        self._suspicions: dict[_Kind, _Suspicion] = {}

    def refused(self, delivery: Delivery, *, sent_at: float) -> Refusals:
        """The refusals of a delivery after one more, of a request sent at `sent_at`."""
        before = delivery.refusals
        return Refusals(before.count + 1, before.explained + self._is_explained(delivery), sent_at)

    def is_proven(self, delivery: Delivery) -> bool:
        """Whether one more refusal of the delivery is about its devices.

        Others were accepted after several refusals of it. At the end of a plan there may be none. Then it is
        enough if some were accepted since it or its batch was refused, and it was refused for long. While
        refusals seem to be chance, only very many count. If devices stand between two steps of a migration,
        being refused for long is always enough.
        """
        refusals = delivery.refusals.count + 1
        is_refused_for_long = refusals >= MANY_REFUSALS
        if delivery.is_between_steps and is_refused_for_long:
            return True
        reversed_at = self._reversed_at.get(_kind(delivery.batch), -math.inf)
        if anyio.current_time() - reversed_at < CHANCE_S and refusals < REFUSALS_BY_CHANCE:
            return False
        explained = delivery.refusals.explained + self._is_explained(delivery)
        was_explained = explained > 0 or self._is_batch_explained(delivery)
        return explained >= EXPLAINED or (is_refused_for_long and was_explained)

    def is_due(self, delivery: Delivery, *, now: float) -> bool:
        """Whether a postponed delivery can be sent again before other requests."""
        return self._is_explained(delivery) and now >= due_at(delivery)

    def _is_explained(self, delivery: Delivery) -> bool:
        """Whether the carrier accepts requests of this kind that were sent after the last refusal."""
        return self._newest_accepted(delivery) > delivery.refusals.last_at

    def _is_batch_explained(self, delivery: Delivery) -> bool:
        refused_at = delivery.batch_refused_at
        return refused_at is not None and self._newest_accepted(delivery) > refused_at

    def _newest_accepted(self, delivery: Delivery) -> float:
        return self._accepted_at.get(_kind(delivery.batch), -math.inf)

    async def admit(self, delivery: Delivery) -> None:
        """Wait until the delivery may be sent: while nothing is accepted, one at a time, after pauses."""
        kind, prober = _kind(delivery.batch), _prober(delivery)
        while (suspicion := self._suspicions.get(kind)) is not None and suspicion.is_strong:
            if suspicion.prober in {None, prober}:
                is_next_probe = suspicion.prober is None or not delivery.is_new_part
                suspicion.prober = prober
                if is_next_probe or suspicion.probes % MANY_REQUESTS == 0:
                    await suspicion.pause()
                return
            await suspicion.changed.wait()

    def end(self, delivery: Delivery) -> None:
        """Note that nothing more is sent for this delivery now. Another one may be sent."""
        suspicion = self._suspicions.get(_kind(delivery.batch))
        if suspicion is not None and suspicion.prober == _prober(delivery):
            suspicion.prober = None
            suspicion.wake_waiting()

    def learn(self, delivery: Delivery, answer: Answer, *, sent_at: float) -> None:
        """Learn from the carrier's own answer, before it is judged, to a request sent at `sent_at`."""
        kind = _kind(delivery.batch)
        if answer.outcome is Outcome.ACCEPTED:
            self._accepted_at[kind] = max(sent_at, self._accepted_at.get(kind, sent_at))
            if delivery.refusals.count:
                self._reversed_at[kind] = sent_at
            if (suspicion := self._suspicions.pop(kind, None)) is not None:
                suspicion.wake_waiting()
        elif self.is_suspect(delivery, answer):
            self._suspicions.setdefault(kind, _Suspicion(sent_at)).add(delivery, answer)

    def is_suspect(self, delivery: Delivery, answer: Answer) -> bool:
        """Whether an answer is a refusal that neither its code nor other answers explain."""
        return (
            answer.outcome is Outcome.REFUSED
            and not is_definite(delivery, answer)
            and delivery.position is not Position.UNDO
            and not delivery.is_between_steps
            and not self._is_explained(delivery)
            and not self._is_batch_explained(delivery)
        )

    def stop_if_nothing_is_accepted(self, delivery: Delivery, answer: Answer, *, now: float) -> None:
        """Raise StoppedEarly once it is clear that the carrier refuses every request of this kind."""
        batch, kind = delivery.batch, _kind(delivery.batch)
        suspicion = self._suspicions.get(kind)
        if suspicion is None or not suspicion.is_strong:
            return
        was_accepted = kind in self._accepted_at
        if was_accepted and now - suspicion.since <= PATIENCE_S:
            return
        is_hopeless = (
            suspicion.probes >= MANY_REQUESTS
            or suspicion.blaming_account >= MANY_BATCHES
            or suspicion.is_persistent
        )
        if was_accepted or is_hopeless:
            since = f" for {now - suspicion.since:.0f} s" if was_accepted else ""
            raise StoppedEarly(
                f"the carrier refuses all requests for account {batch.account_name}, SKU {batch.sku_number}"
                f"{since}; last answer: {answer.summary}. No device counts as failed for this reason. "
                f"Check account and SKU, then resume the run{advice(batch, delivery.position)}"
            )


def due_at(delivery: Delivery) -> float:
    """When a postponed delivery may be sent again, in seconds of the event loop's clock."""
    return delivery.refusals.last_at + growing_pause(delivery.refusals.count)


def _kind(batch: Batch) -> _Kind:
    return batch.account_name, batch.sku_number, batch.action


def _prober(delivery: Delivery) -> _Prober:
    return delivery.batch.batch_id, delivery.batch.step
