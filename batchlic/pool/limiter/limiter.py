"""Lets the next request start: one limiter for a login or an account, shared by all workers (promise J)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import anyio

from batchlic.carrier.rate_limits import Quota
from batchlic.pool.limiter.estimator import Estimator
from batchlic.pool.limiter.evidence import Evidence, Learned
from batchlic.pool.limiter.findings import (
    Calls,
    Finding,
    Limit,
    NoLimit,
    Rate,
    Shut,
    ToldToWait,
    Window,
    size,
)
from batchlic.pool.limiter.fixed import Fixed
from batchlic.pool.limiter.headroom import Headroom
from batchlic.pool.limiter.latency import Latency
from batchlic.pool.limiter.pauses import Pauses
from batchlic.pool.limiter.recalled import Recalled
from batchlic.pool.limiter.retry_after import RetryAfter
from batchlic.pool.limiter.samples import Ending, Sample, Samples
from batchlic.pool.limiter.spacing import Spacing
from batchlic.pool.limiter.time_slots import Member, TimeSlots
from batchlic.pool.limiter.transitions import estimator_for
from batchlic.pool.limiter.windows.told import ToldWindow

_CLOCK_S = 1e-6
"""Seconds that are as good as now: less than a clock tells apart."""
_NOTABLE = 0.1
"""Share by which a limit must differ from the one reported last to be worth a line of log."""

TOLD_TO_WAIT = "all workers wait"
"""What a change begins with that is no limit, but a wait that the carrier asks for."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something about the limit that a person wants to read in the log.

    `flow` is in requests/s let in of late (None before there were any).
    """

    flow: float | None
    concurrency: int
    found: str
    """The limit in words, or how long the carrier asks everyone to wait."""


class Permit:
    """The right to send one request. Exactly one of `success`, `throttled` and `dropped` ends it."""

    __slots__ = ("_is_held", "_limiter", "sample")

    def __init__(self, limiter: "Limiter", sample: Sample) -> None:
        self._limiter = limiter
        self._is_held = True
        self.sample = sample

    def started(self) -> bool:
        """Mark the moment at which the request really leaves; without it that of the permit counts.

        False if it may not leave any more, since all workers have to wait meanwhile.
        """
        self.sample.sent_at = self._limiter.time()
        self.sample.was_sent = not (self._limiter.is_paused or self._limiter.is_stopped)
        return self.sample.was_sent

    def success(self, retry_after: float | None = None, *, quota: Quota | None = None) -> None:
        """The request got a definite answer, whatever it says, but not a 429."""
        self._end(Ending.ADMITTED, retry_after, quota)

    def throttled(self, retry_after: float | None = None, *, quota: Quota | None = None) -> None:
        """The request was refused (429); all workers wait for `retry_after` seconds from now."""
        self._end(Ending.REFUSED, retry_after, quota)

    def dropped(self, retry_after: float | None = None, *, quota: Quota | None = None) -> None:
        """Nothing is known about the limit: never sent, never answered, or the carrier was not well.

        Does nothing where the permit has ended already.
        """
        self._end(Ending.LOST, retry_after, quota)

    def _end(self, ending: Ending, retry_after: float | None, quota: Quota | None) -> None:
        if not self._is_held:
            return
        self._is_held = False
        self.sample.ending, self.sample.quota = ending, quota
        self.sample.told_s = self.sample.retry_after_s = retry_after or 0.0
        self._limiter.ended(self.sample)


class Limiter:
    """Finds the carrier's limit by itself and keeps all workers at it together.

    At most `max_concurrency` requests are in flight and at most `max_rate` start a second; `fixed_rate` pins
    the rate instead of finding it. `headroom` is the share of the limit, 0 to 1, that is left to others.
    `start_from` is what an earlier run has found. `on_change` is called at each change that a person would
    want to read about. `slots` bounds the requests in flight of several limiters together. `clock` gives
    seconds. `time_slots` are those with other processes under the same limit.
    """

    def __init__(
        self,
        *,
        max_concurrency: int,
        max_rate: float | None = None,
        fixed_rate: float | None = None,
        headroom: float = 0.0,
        start_from: Learned | None = None,
        on_change: Callable[[Change], None] | None = None,
        slots: anyio.CapacityLimiter | None = None,
        clock: Callable[[], float] = anyio.current_time,
        time_slots: TimeSlots | None = None,
    ) -> None:
        self.now = clock
        self.time_slots = time_slots
        self.time = clock if time_slots is None else time_slots.time
        """The moment as the estimators see it: it stands still in the time slots of other processes."""
        self._is_bounded = max_rate is not None or fixed_rate is not None or headroom > 0
        self._on_change = on_change
        self._slots = slots
        self._samples = samples = Samples(self.time(), max_concurrency)
        self._retry_after = RetryAfter(samples)
        self._told_window = ToldWindow(samples)
        self._latency = Latency(samples, max_concurrency)
        self._hypothesis: Estimator = (
            estimator_for(NoLimit(), samples) if fixed_rate is None else Fixed(samples)
        )
        self._evidence = Evidence(samples, start_from.limit if start_from else None)
        self._headroom = Headroom(samples, headroom, start_from.limit if start_from else None)
        self._pauses = Pauses()
        if start_from is not None and fixed_rate is None:
            self._recall(start_from)
        self._fixed_rate = fixed_rate or math.inf
        self._max_rate = min(max_rate or math.inf, self._fixed_rate)
        self._spacing = Spacing(self._max_rate)
        self._held_until = self.time()
        self._reported = self._hypothesis.found()
        self._slot_of: dict[Sample, object] = {}
        self._head_of_line = anyio.Lock(fast_acquire=True)
        self._changed = anyio.Event()

    @property
    def rate(self) -> float:
        """Requests/s now allowed; infinite where only the concurrency binds."""
        return min(self._hypothesis.rate(), self._max_rate, self._headroom.rate())

    @property
    def concurrency(self) -> int:
        """Requests now allowed in flight."""
        return min(self._hypothesis.calls(), self._latency.calls(), self._headroom.calls())

    @property
    def flow(self) -> float | None:
        """Requests/s that the carrier let in of late; None before it let any in."""
        return self._samples.flow

    @property
    def found(self) -> Finding:
        """The carrier's limit, as far as it is known."""
        return self._headroom.limit or self._hypothesis.found()

    @property
    def learned(self) -> Learned | None:
        """What to leave to the next run; None where this one has shown too little about a limit."""
        limit, is_noise = (
            self._evidence.limit or self._headroom.measured,
            self._evidence.is_noise(self.time()),
        )
        found = self._hypothesis.found()
        if is_noise and limit is None and isinstance(found, Calls | Rate | Window):
            limit = found
        if limit is None:
            return None
        refusal_s = self._retry_after.learned_s or self._samples.pause
        return Learned(limit=self._with_silence(limit), refusal_s=refusal_s, is_noise=is_noise)

    @property
    def in_flight(self) -> int:
        """Requests that have started and not ended."""
        return self._samples.in_flight

    @property
    def is_paused(self) -> bool:
        """Whether all workers wait because the carrier asks for it."""
        return self._retry_after.resume_at - self.time() > _CLOCK_S

    @property
    def wait_s(self) -> float:
        """Seconds until the carrier lets requests start again; 0 if it does now, or if nobody knows when."""
        opens = self._hypothesis.shut()
        return max(self.held_s, opens if math.isfinite(opens) else 0.0)

    @property
    def held_s(self) -> float:
        """Seconds for which the carrier still asks everyone to wait; 0 if it does not."""
        return max(0.0, self._retry_after.resume_at - self.time())

    def hold(self, seconds: float) -> None:
        """Let nobody start for so long: the carrier has told an earlier session of the run to wait."""
        self._retry_after.hold(self.time() + seconds)

    @property
    def is_stopped(self) -> bool:
        """Whether a person has stopped everyone for now."""
        return self._pauses.is_on

    def stop(self) -> None:
        """Let nobody start until `go_on`, because a person says so."""
        self._pauses.begin(self.now())

    def go_on(self) -> None:
        """Let requests start again."""
        self._pauses.end(self.now())
        self._changed.set()

    def seconds_since(self, moment: float) -> float:
        """Seconds since a moment, without those for which a person has stopped everyone."""
        now = self.now()
        return now - moment - self._pauses.between(moment, now)

    def set_bounds(self, *, max_rate: float | None, max_concurrency: int, headroom: float) -> None:
        """Change the bounds that a person has set; holds for the next request."""
        self._max_rate = min(max_rate or math.inf, self._fixed_rate)
        self._is_bounded = self._max_rate < math.inf or headroom > 0
        self._headroom.set_share(headroom)
        self._latency.set_most(max_concurrency)
        self._samples.max_in_flight = self._latency.calls()
        self._changed.set()

    async def acquire(self) -> Permit:
        """Wait until one more request may start, first come first served; its slot is then taken."""
        async with self._head_of_line:
            await self._wait()
            if self._slots is None:
                return self.take()
            while True:  # a slot is taken only when it can be used: others may need it
                slot = object()
                await self._slots.acquire_on_behalf_of(slot)
                if self.delay() <= _CLOCK_S:
                    permit = self.take()
                    self._slot_of[permit.sample] = slot
                    return permit
                self._slots.release_on_behalf_of(slot)
                await self._wait()

    async def _wait(self) -> None:
        """Wait until one more request may start, as far as this limiter knows."""
        while (delay := self.delay()) > _CLOCK_S:
            self._changed = anyio.Event()
            with anyio.move_on_after(delay):
                await self._changed.wait()

    def delay(self) -> float:
        """Seconds until one more request may start; infinite if an answer has to come first."""
        if self.time_slots is None:
            return self._delay()
        wait = self.time_slots.wait()
        return wait if wait > _CLOCK_S else min(self._delay(), self.time_slots.left())

    def _delay(self) -> float:
        """The same in a time slot of this process."""
        now = self._samples.now = self.time()
        if (pause := self._retry_after.wait()) > _CLOCK_S:
            self._held_until = now + pause
            return pause
        if self._pauses.is_on or self._samples.in_flight >= self.concurrency:
            return math.inf
        wait = self._hypothesis.wait()
        self._spacing.rate = self.rate
        self._held_until = now + wait if wait > _CLOCK_S else min(self._held_until, now)
        return max(wait, self._spacing.delay(now))

    def tell(self, time_slots: TimeSlots, *, is_idle: bool | None = None) -> Member:
        """What other processes under the same limit are to know. `is_idle` None: as far as workers wait."""
        found, samples = self._hypothesis.found(), self._samples
        if is_idle is None:
            is_idle = self.is_stopped or not (self._head_of_line.locked() or samples.in_flight)
        return time_slots.tell(
            found,
            burst=self._evidence.burst_beyond(found.per_s) if isinstance(found, Rate) else 0,
            most=samples.max_in_flight / samples.round_trip / 2 if samples.round_trip else 1e9,
            is_bounded=self._is_bounded,
            is_costly=samples.refusals_are_costly,
            is_idle=is_idle,
        )

    def agree(self, time_slots: TimeSlots, members: Sequence[Member], *, store_now: float) -> None:
        """Share the limit by time slots, or no more, as its processes agree; see TimeSlots."""
        found = time_slots.agree(members, store_now=store_now)
        if found is not None:
            self._samples.now = self.time()
            self._hypothesis = estimator_for(found, self._samples)
        self._changed.set()

    def take(self) -> Permit:
        """Start one request now, whatever the delay."""
        self._samples.now = self.time()
        sample = self._samples.sent()
        self._spacing.take(sample.sent_at, self._held_until)
        self._hypothesis.on_sent(sample)
        return Permit(self, sample)

    def ended(self, sample: Sample) -> None:
        """Free the slot of a request and learn from how it ended; its permit calls this."""
        samples = self._samples
        samples.now = self.time()
        self._changed.set()
        if self._slots is not None:
            self._slots.release_on_behalf_of(self._slot_of.pop(sample))
        was_paused = self.is_paused
        self._retry_after.on_sample(sample)
        if sample.retry_after_s and self.is_paused and not was_paused:
            self._report(f"{TOLD_TO_WAIT} {sample.retry_after_s:.3g} s: the carrier asks for it")
        samples.ended(sample)
        self._latency.on_sample(sample)
        samples.max_in_flight = self._latency.calls()
        finding = self._hypothesis.on_sample(sample)
        finding = self._told_window.on_sample(sample) or finding
        if finding is not None:
            if isinstance(self._hypothesis.found(), Shut) and sample.ending is Ending.ADMITTED:
                samples.reopened(sample.sent_at)
            self._retry_after.learn(finding.pause_s if isinstance(finding, Rate) else 0.0)
            samples.pause = self._retry_after.learned_s or samples.pause
            self._hypothesis = estimator_for(finding, samples)
        found = self._hypothesis.found()
        self._consider(found, sample)
        if isinstance(found, ToldToWait):
            return  # the wait itself is reported already
        if type(found) is not type(self._reported) or abs(size(found) / size(self._reported) - 1) > _NOTABLE:
            self._reported = found
            self._report(str(found))

    def _recall(self, learned: Learned) -> None:
        """Start from what is known, instead of nothing."""
        self._samples.pause = learned.refusal_s
        self._retry_after.learn(learned.limit.pause_s if isinstance(learned.limit, Rate) else 0.0)
        self._hypothesis = Recalled(self._samples, learned.limit)

    def _with_silence(self, limit: Limit) -> Limit:
        return replace(limit, pause_s=self._retry_after.learned_s) if isinstance(limit, Rate) else limit

    def _consider(self, found: Finding, sample: Sample) -> None:
        """Collect evidence of a limit, unless requests are held so far below it that they can't show it."""
        if self._headroom.limit is None:
            self._evidence.add(found, sample, self._samples.now)
        if (known := self._headroom.search_from(found, self._evidence)) is not None:
            self._hypothesis = estimator_for(self._with_silence(known), self._samples)

    def _report(self, found: str) -> None:
        if self._on_change is not None:
            self._on_change(Change(self.flow, self.concurrency, found))
