"""What refusals mean: rules that distinguish bad devices from a carrier that refuses everything for a while.

An outage can look like refusals: a gateway that lost its routes, a service that lost its database. So:

1. A refusal with a documented code about a device fails the device at once. A refusal that blames the whole
   request (account, SKU, permission) never fails a device. Any other refusal needs evidence, and the request
   must be about the device alone: until then it is split.
2. Evidence: a refusal is *explained* when the carrier has accepted another request of its scope that was
   sent after it. A device fails at the refusal after `EXPLAINED` explained ones. The scope is the account,
   the SKU and the action.
3. Two kinds of requests are *bounded*, because devices must not stay between two steps of a migration: an
   undo step (clear, restore), and a second step that is undone if it is refused. They count after
   `MANY_REFUSALS` over 31 seconds, if one of them is explained. Refusals that blame the whole request count,
   too. There may be no other request for the same SKU, so their scope is wider: the account.
   - A refused clear counts as "nothing to clear". If that is wrong, the device gets a second license. So
     `EXPLAINED` refusals must be explained, the scope is the unassigns of the account, and a refusal that
     blames the whole request never counts.
   - A refused assign whose device has lost its old license counts at the latest after `MOST_REFUSALS` over
     two minutes, even without evidence: the device gets the old license back.
4. If the carrier has accepted a refused request of the scope unchanged since the first refusal, an outage has
   ended, or one of several servers is broken. Then refusals count only from `REFUSALS_BY_CHANCE` on.
5. Until there is evidence, the request is *parked* (see `parked`), and its devices are pending.
6. While nothing of a scope is accepted, the pool sends one batch at a time, after growing pauses. Then the
   run stops, and no device fails: after `PATIENCE_S`, or soon if this session had nothing of the scope
   accepted, and no device would stay between two steps. Bounded requests are not held back by this, and
   don't stop the run: they are sent until they end, so that a run does not stop between two steps.
7. A gateway may refuse single requests while it passes on others. A request that is answered with
   "unavailable" `MANY_UNAVAILABLE` times is parked if the carrier has accepted any other request meanwhile.
   Bounded requests, and those in doubt, are not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import anyio

from batchlic.carrier.answers import Answer, Blame, Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import Batch, Step
from batchlic.pool.breaker import growing_pause
from batchlic.pool.refusals import RefusedTooMuch, advice
from batchlic.pool.remaining import Delivery, Position, Refusals, Unavailable
from batchlic.pool.verdict import can_be_proven, is_definite

MANY_BATCHES = 5
"""If so many batches in a row are refused, the reason may not be in their devices."""
MANY_REQUESTS = 15
"""The same for refused requests in a row. Splitting one batch of 100 down to a device takes 8."""
EXPLAINED = 3
"""After so many explained refusals of a device, the next refusal counts against it."""
MANY_REFUSALS = 6
"""So many refusals of a bounded request, over 31 seconds, count if one of them is explained."""
REFUSALS_BY_CHANCE = 16
"""So many refusals count even if the carrier has accepted other refused requests unchanged."""
MOST_REFUSALS = 8
"""After so many refusals, over two minutes, nothing more is expected of a request in this session."""
MANY_UNAVAILABLE = 8
"""After so many answers that a request did not reach the service, over half a minute or more, others need not
wait for it."""
PATIENCE_S = 120.0
"""Seconds without an acceptance before the run stops, if this session had requests accepted before, or if
devices would stay between two steps of a migration."""

_Scope: TypeAlias = tuple[str, str | None, Action | None]
"""Account, SKU, and the action of a migration's step; None for any."""
_Prober: TypeAlias = tuple[int, Step | None]


@dataclass(slots=True)
class _Suspicion:
    """What was refused since the last acceptance. Times are seconds of the event loop's clock."""

    since: float
    batches: int = 0
    requests: int = 0
    blaming_account: int = 0
    """Batches refused with an error about the account or SKU."""
    probes: int = 0
    """Requests refused since the suspicion is strong."""
    pauses: int = 0
    prober: _Prober | None = None
    """The batch that is sent while all others wait."""
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def is_strong(self) -> bool:
        return self.batches >= MANY_BATCHES or self.requests >= MANY_REQUESTS

    def add(self, delivery: Delivery, answer: Answer) -> None:
        self.probes += self.is_strong
        if delivery.refusals.count:  # it is counted already
            return
        self.requests += 1
        if not delivery.is_part:
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
        self._accepted_at: dict[_Scope, float] = {}
        """When the newest request that this session got accepted was sent."""
        self._any_accepted_at = -math.inf
        """The same, whatever its scope."""
        self._reversed_at: dict[_Scope, float] = {}
        """When the newest request was sent that had been refused before, and was accepted unchanged."""
        self._suspicions: dict[_Scope, _Suspicion] = {}
        self.stopped: RefusedTooMuch | None = None
        """Why only bounded deliveries are admitted any more."""

    def stop(self, reason: RefusedTooMuch) -> None:
        """Admit only bounded deliveries from now on, for the first reason given."""
        self.stopped = self.stopped or reason
        for suspicion in self._suspicions.values():
            suspicion.wake_waiting()

    def refused(self, delivery: Delivery, answer: Answer, *, sent_at: float) -> Refusals:
        """The refusals of a delivery after one more, of a request sent at `sent_at`."""
        before = delivery.refusals
        return Refusals(
            count=before.count + 1,
            explained=before.explained + self.is_explained(delivery),
            first_at=min(before.first_at, sent_at),
            last_at=sent_at,
            blames_all=answer.blame is Blame.ACCOUNT,
            last=answer.summary,
        )

    def unavailable(self, delivery: Delivery, answer: Answer, *, sent_at: float) -> Unavailable:
        """The "unavailable" answers to a delivery after one more, to a request sent at `sent_at`."""
        before = delivery.unavailable
        return replace(
            before,
            count=before.count + 1,
            first_at=min(before.first_at, sent_at),
            last_at=sent_at,
            last=answer.summary,
        )

    def is_out_of_reach(self, delivery: Delivery) -> bool:
        """Whether the request of a delivery does not reach the service, while others do."""
        do_others = self._any_accepted_at > delivery.unavailable.first_at
        is_often = delivery.unavailable.count >= MANY_UNAVAILABLE
        return is_often and do_others and not (delivery.is_bounded or delivery.is_in_doubt)

    def is_proven(self, delivery: Delivery) -> bool:
        """Whether one more refusal of the delivery is about its devices."""
        explained = delivery.refusals.explained + self.is_explained(delivery)
        if delivery.is_bounded:
            count = delivery.refusals.count + 1
            is_urgent = delivery.position is Position.SECOND_RESTORABLE and delivery.batch.step is Step.ASSIGN
            if is_urgent and count >= MOST_REFUSALS:
                return True
            is_clearing = delivery.batch.step is Step.CLEAR
            is_enough = count >= MANY_REFUSALS and explained >= (EXPLAINED if is_clearing else 1)
        else:
            is_enough = explained >= EXPLAINED
        return is_enough and not self.may_be_chance(delivery)

    def may_be_chance(self, delivery: Delivery) -> bool:
        """Whether the delivery may be accepted unchanged like another one, and was not refused very often."""
        reversed_at = self._reversed_at.get(_scope_of_evidence(delivery), -math.inf)
        is_reversed = reversed_at > delivery.refusals.first_at
        return is_reversed and delivery.refusals.count + 1 < REFUSALS_BY_CHANCE

    def is_given_up(self, delivery: Delivery) -> bool:
        """Whether sending a parked delivery once more in this session is useless.

        If a refusal can't count, one that is repeated after others were accepted is enough. A request that
        did not reach the service is sent once more.
        """
        if delivery.unavailable.count:
            return delivery.unavailable.parked > 1
        refusals = delivery.refusals
        if not can_be_proven(delivery, blames_all=refusals.blames_all) and refusals.explained:
            return True
        return refusals.count >= MOST_REFUSALS

    def is_explained(self, delivery: Delivery) -> bool:
        """Whether the carrier accepted another request of its scope that was sent after its last refusal."""
        return self._accepted_at.get(_scope_of_evidence(delivery), -math.inf) > delivery.refusals.last_at

    def holds_back(self, delivery: Delivery) -> bool:
        """Whether `admit` would make the delivery wait, or raise."""
        suspicion = self._suspicions.get(_scope(delivery.batch))
        is_suspected = suspicion is not None and suspicion.is_strong
        return not delivery.is_bounded and (is_suspected or self.stopped is not None)

    async def admit(self, delivery: Delivery) -> None:
        """Wait until the delivery may be sent: while nothing is accepted, one at a time, after pauses.

        Raises what was passed to `stop`, unless the delivery is bounded.
        """
        if not delivery.is_bounded:
            await self._wait_for_turn(delivery)
            if self.stopped is not None:
                raise self.stopped

    async def _wait_for_turn(self, delivery: Delivery) -> None:
        scope, prober = _scope(delivery.batch), _prober(delivery)
        while (suspicion := self._suspicions.get(scope)) is not None and suspicion.is_strong:
            if self.stopped is not None:
                return
            if suspicion.prober in {None, prober}:
                is_next_probe = suspicion.prober is None or not delivery.is_new_part
                suspicion.prober = prober
                if is_next_probe or suspicion.probes % MANY_REQUESTS == 0:
                    await suspicion.pause()
                return
            await suspicion.changed.wait()

    def end(self, delivery: Delivery) -> None:
        """Note that nothing more is sent for this delivery now. Another one may be sent."""
        suspicion = self._suspicions.get(_scope(delivery.batch))
        if suspicion is not None and suspicion.prober == _prober(delivery):
            suspicion.prober = None
            suspicion.wake_waiting()

    def learn(self, delivery: Delivery, answer: Answer, *, sent_at: float) -> None:
        """Learn from the carrier's own answer, before it is judged, to a request sent at `sent_at`."""
        account, _, action = scope = _scope(delivery.batch)
        if answer.outcome is Outcome.ACCEPTED:
            for wider in (scope, (account, None, action), (account, None, None)):
                self._accepted_at[wider] = max(sent_at, self._accepted_at.get(wider, sent_at))
                if delivery.refusals.count:
                    self._reversed_at[wider] = sent_at
            self._any_accepted_at = max(sent_at, self._any_accepted_at)
            if (suspicion := self._suspicions.pop(scope, None)) is not None:
                suspicion.wake_waiting()
        elif self.is_suspect(delivery, answer):
            self._suspicions.setdefault(scope, _Suspicion(sent_at)).add(delivery, answer)

    def is_suspect(self, delivery: Delivery, answer: Answer) -> bool:
        """Whether an answer is a refusal that neither its code nor other answers explain."""
        return (
            answer.outcome is Outcome.REFUSED
            and not is_definite(delivery, answer)
            and delivery.position is not Position.UNDO
            and not self.is_explained(delivery)
        )

    def stop_if_nothing_is_accepted(
        self, delivery: Delivery, answer: Answer, *, seconds_since: Callable[[float], float]
    ) -> None:
        """Stop once it is clear that the carrier refuses every request of this scope.

        `seconds_since` gives the seconds since a moment in which requests could be sent.
        """
        batch, scope = delivery.batch, _scope(delivery.batch)
        suspicion = self._suspicions.get(scope)
        if suspicion is None or not suspicion.is_strong or delivery.is_bounded:
            return
        may_be_outage = scope in self._accepted_at or delivery.position is Position.SECOND
        lasts = seconds_since(suspicion.since)
        is_over = lasts > PATIENCE_S
        is_hopeless = suspicion.probes >= MANY_REQUESTS or suspicion.blaming_account >= MANY_BATCHES
        if is_over or (is_hopeless and not may_be_outage):
            since = f" for {lasts:.0f} s" if may_be_outage else ""
            reason = (
                f"the carrier refuses all requests for account {batch.account_name}, SKU {batch.sku_number}"
                f"{since}; last answer: {answer.summary}. No device counts as failed for this reason. "
                f"Check account and SKU, then resume the run{advice(batch, delivery.position)}"
            )
            self.stop(RefusedTooMuch(reason))


def due_at(delivery: Delivery) -> float:
    """When a parked delivery may be sent again, in seconds of the event loop's clock."""
    return delivery.setbacks.last_at + growing_pause(delivery.setbacks.count)


def _scope(batch: Batch) -> _Scope:
    return batch.account_name, batch.sku_number, batch.action


def _scope_of_evidence(delivery: Delivery) -> _Scope:
    """The requests whose acceptance explains a refusal of this delivery."""
    account, _, action = scope = _scope(delivery.batch)
    if not delivery.is_bounded:
        return scope
    return account, None, action if delivery.batch.step is Step.CLEAR else None


def _prober(delivery: Delivery) -> _Prober:
    return delivery.batch.batch_id, delivery.batch.step
