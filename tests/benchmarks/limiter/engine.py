"""Runs a limiter against a hidden limit, in virtual time: an event loop of its own, without tasks."""

import heapq
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.benchmarks.limiter.hidden import LATER_S, Counter, Gate, Hidden, Latency, ideal_seconds

WORKERS = 64
"""Requests that a process has in flight, at most."""
NOW_S = 1e-6
"""Seconds that are as good as now."""
LONGEST = 12.0
"""Times the ideal after which a limiter is stopped."""
STEADY_AFTER_S = 5.0


class Clock:
    """Virtual time, in seconds."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Client(Protocol):
    """A limiter as the engine drives it."""

    def delay(self) -> float:
        """Seconds until one more request may start; infinite if an answer has to come first."""

    def start(self) -> Any:  # noqa: ANN401 - whatever the client wants to have back
        """Start one request; returns what `finish` is given."""

    def finish(self, started: Any, *, throttled: bool, retry_after: float | None) -> None:  # noqa: ANN401
        """Learn how a request ended."""


NewClient = Callable[[Clock], Client]


@dataclass(slots=True)
class Measured:
    """How a limiter did under a hidden limit."""

    share: float
    """Share of the ideal: least time / time taken."""
    refused: float
    """Share of requests that were refused."""
    steady: float
    """The same after the first seconds."""
    fairness: float
    """Most requests that a process delivered / least."""
    cpu_s: float
    clients: list[Client]
    admitted: list[float] = field(default_factory=list)
    """When each admitted request arrived."""
    refusals: list[float] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Process:
    client: Client
    in_flight: int = 0
    delivered: int = 0
    late: int = 0
    wakes_at: float = math.inf


def measure(hidden: Hidden, new_client: NewClient, *, start: float = 0.3) -> Measured:
    """Let one client per process do the work of `hidden` together, from the moment `start` on."""
    began = time.process_time()
    ideal = ideal_seconds(hidden, workers=WORKERS, start=start)
    simulation = Simulation(hidden, new_client, start)
    simulation.run(until=start + LONGEST * ideal)
    took = (simulation.ended_at if simulation.done == hidden.requests else LONGEST * ideal + start) - start
    counts = [process.delivered for process in simulation.processes]
    return Measured(
        share=simulation.done / hidden.requests * ideal / took,
        refused=_refused(simulation, -math.inf),
        steady=_refused(simulation, start + STEADY_AFTER_S),
        fairness=max(counts) / max(1, min(counts)),
        cpu_s=time.process_time() - began,
        clients=[process.client for process in simulation.processes],
        admitted=simulation.admitted,
        refusals=simulation.refusals,
    )


def shared(hidden: Hidden, new_client: NewClient, *, since: float, until: float) -> list[int]:
    """How much each process of `hidden` delivers between two moments, where all have endless work."""
    simulation = Simulation(hidden, new_client, 0.0, count_from=since)
    simulation.run(until=until)
    return [process.late for process in simulation.processes]


def _refused(simulation: "Simulation", since: float) -> float:
    refused, admitted = (
        sum(at > since for at in moments) for moments in (simulation.refusals, simulation.admitted)
    )
    return refused / max(1, refused + admitted)


class Simulation:
    """Events in the order of their moments: arrivals at the carrier, answers at the client, wake-ups."""

    def __init__(
        self, hidden: Hidden, new_client: NewClient, start: float, *, count_from: float = math.inf
    ) -> None:
        self._hidden, self._clock, self._gate = hidden, Clock(start), Gate(hidden, start)
        self._latency = Latency(hidden)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self._left = hidden.requests
        self._count_from = count_from
        self.processes: list[_Process] = []
        self.admitted: list[float] = []
        self.refusals: list[float] = []
        self.done, self.ended_at = 0, start
        for later in range(hidden.processes):
            self._at(start + later * LATER_S, self._begin, new_client)

    def run(self, *, until: float) -> None:
        """Go on until the work is done, or a moment has come."""
        is_endless = self._count_from < math.inf
        while self._events and (is_endless or self.done < self._hidden.requests):
            at, _, happens, arguments = heapq.heappop(self._events)
            if at > until:
                return
            self._clock.now = at
            happens(*arguments)
            if is_endless:
                self._left = self._hidden.requests

    def _at(self, moment: float, happens: Callable[..., None], *arguments: object) -> None:
        self._number += 1
        heapq.heappush(self._events, (moment, self._number, happens, arguments))

    def _begin(self, new_client: NewClient) -> None:
        self.processes.append(_Process(new_client(self._clock)))
        self._send(self.processes[-1])

    def _send(self, process: _Process) -> None:
        """Start as many requests as the client lets start now."""
        now = self._clock.now
        while self._left > 0 and process.in_flight < WORKERS:
            if (delay := process.client.delay()) > NOW_S:
                if delay < math.inf and not now < process.wakes_at <= now + delay:
                    process.wakes_at = now + delay
                    self._at(process.wakes_at, self._wakes, process)
                return
            self._left -= 1
            process.in_flight += 1
            self._at(now + self._hidden.network_s / 2, self._arrives, process, process.client.start())

    def _wakes(self, process: _Process) -> None:
        if self._clock.now >= process.wakes_at:
            process.wakes_at = math.inf
        self._send(process)

    def _arrives(self, process: _Process, started: object) -> None:
        now, hidden = self._clock.now, self._hidden
        wait, counters = self._gate.admit(now)
        answered_at = now + hidden.network_s / 2
        if wait > 0:
            self.refusals.append(now)
            self._at(answered_at, self._refused, process, started, hidden.hint.seconds(wait, now))
            return
        self.admitted.append(now)
        took = self._latency.draw(self._gate.inside)
        self._at(now + took, self._leaves, counters)
        self._at(answered_at + took, self._delivered, process, started)

    def _leaves(self, counters: Sequence[Counter]) -> None:
        self._gate.finish(counters)

    def _refused(self, process: _Process, started: object, retry_after: float | None) -> None:
        process.in_flight -= 1
        self._left += 1
        process.client.finish(started, throttled=True, retry_after=retry_after)
        for each in [process, *self.processes] if self._left == 1 else [process]:
            self._send(each)

    def _delivered(self, process: _Process, started: object) -> None:
        process.in_flight -= 1
        process.delivered += 1
        process.late += self._clock.now >= self._count_from
        self.done, self.ended_at = self.done + 1, self._clock.now
        process.client.finish(started, throttled=False, retry_after=None)
        self._send(process)
