"""Processes that share one limit, with and without a store: `python -m tests.benchmarks.limiter.sharing`."""

from collections.abc import Callable
from dataclasses import replace

from batchlic.pool.limiter.limiter import Limiter, Permit
from batchlic.pool.limiter.time_slots import LEASE_S, Member, TimeSlots
from tests.benchmarks.limiter.engine import WORKERS, Clock, NewClient, measure, shared
from tests.benchmarks.limiter.hidden import Hidden, Hint, Part
from tests.benchmarks.limiter.peers import Batchlic

STORE_AHEAD_S = 1000.3
"""Seconds by which the store's clock is ahead of that of the processes."""
FROM_S, UNTIL_S = 45.0, 109.0
"""Between these, all processes are at work and deliver; that is eight slots for each of four."""
LIMITS = (
    Hidden((Part("bucket", 50.0, 50),), "50/s, burst 50", 4000),
    Hidden((Part("bucket", 50.0, 50),), "the same, doubled after 30 s", 4000, changes=((30.0, 2.0),)),
    Hidden((Part("bucket", 50.0, 50),), "the same, halved after 30 s", 4000, changes=((30.0, 0.5),)),
    Hidden((Part("bucket", 20.0, 20),), "20/s, burst 20", 2000),
    Hidden((Part("bucket", 200.0, 200),), "200/s, burst 200", 9000),
    Hidden((Part("bucket", 600.0, 100),), "600/s, burst 100", 20_000),
    Hidden((Part("bucket", 20.0, 1),), "20/s, burst 1", 4000),
    Hidden((Part("bucket", 50.0, 50),), "50/s, burst 50, Retry-After", 4000, hint=Hint.ROUNDED),
    Hidden((Part("fixed", 30.0, period_s=10.0),), "300 in fixed 10 s", 4000),
    Hidden((Part("sliding", 100.0, period_s=1.0),), "100 in sliding 1 s", 4000),
    Hidden((Part("calls", calls=8),), "8 at a time", 4000),
)


class InTimeSlots:
    """A limiter that tells the other processes of a store what it finds."""

    def __init__(self, clock: Clock, store: dict[str, tuple[float, Member]]) -> None:
        self._clock, self._store = clock, store
        self.time_slots = TimeSlots(str(len(store)), clock)
        self.limiter = Limiter(max_concurrency=WORKERS, clock=clock, time_slots=self.time_slots)
        self.start = self.limiter.take
        self.reaches_store = True
        self.exchange()

    def exchange(self) -> None:
        now = self._clock.now
        if self.reaches_store:
            self._store[self.time_slots.name] = now, self.limiter.tell(self.time_slots, is_idle=False)
            members = [member for at, member in self._store.values() if now - at < LEASE_S]
            self.limiter.agree(self.time_slots, members, store_now=now + STORE_AHEAD_S)
        self._next = now + self.time_slots.next_exchange_s()

    def delay(self) -> float:
        if self._clock.now >= self._next:
            self.exchange()
        return min(self.limiter.delay(), max(self._next - self._clock.now, 1e-5))

    def finish(self, started: Permit, *, throttled: bool, retry_after: float | None) -> None:
        if throttled:
            started.throttled(retry_after)
        else:
            started.success(retry_after)


def with_store() -> Callable[[Clock], InTimeSlots]:
    """Makes processes that share a new store."""
    store: dict[str, tuple[float, Member]] = {}
    return lambda clock: InTimeSlots(clock, store)


def fairness(hidden: Hidden, new_client: NewClient) -> float:
    """The most that a process delivers / the least, after the start."""
    counts = shared(hidden, new_client, since=FROM_S, until=UNTIL_S)
    return max(counts) / max(1, min(counts))


def main() -> None:
    """Print a table."""
    print("use of the limit, share of 429s after 5 s, largest share / smallest share")
    print(f"{'limit':32}{'processes':>10}{'without a store':>24}{'with a store':>24}")
    for hidden in LIMITS:
        for processes in (2, 4):
            of_all = replace(hidden, processes=processes)
            cells = ""
            for new in (lambda: Batchlic, with_store):
                measured, largest = measure(of_all, new()), fairness(of_all, new())
                cells += f"{measured.share:>10.3f}{measured.steady:>7.1%}{largest:>7.1f}"
            print(f"{hidden.name:32}{processes:>10}{cells}", flush=True)


if __name__ == "__main__":
    main()
