"""Single requests beyond a quota, each of which asks something."""

import math

from batchlic.pool.limiter.samples import Sample

_GROWTH = 4
"""Times as many probes leave after a group of them was let in."""


class Extras:
    """Probes ask whether the quota is more by now; questions ask whether a window has opened already."""

    def __init__(self, probe_at: float) -> None:
        self.probe_at = probe_at
        """When the next probe may leave."""
        self.probes: set[Sample] = set()
        """Probes in flight."""
        self.question: Sample | None = None
        """The question in flight."""
        self.size = 0
        """Probes of the latest group; 0 before the first one since a window opened or one was refused."""
        self.full = math.inf
        """The quota at which one more was refused, and what earlier refusals may have used up."""
        self.left = 0
        """Requests beyond the quota that are to leave next."""
        self.asks = False
        """Whether the next one is a question."""

    def plan_question(self) -> None:
        """Let a question leave next."""
        self.asks, self.left = True, 1

    def plan_probes(self, *, one: bool) -> None:
        """Let probes leave next: one, or more than last time."""
        self.size = self.left = 1 if one else max(1, _GROWTH * self.size)

    def asked(self, sample: Sample) -> None:
        """The question leaves."""
        self.question = sample
        self.drop()

    def probed(self, sample: Sample) -> None:
        """A probe leaves."""
        self.left -= 1
        self.probes.add(sample)

    def drop(self) -> None:
        """Send none of those that were to leave next."""
        self.left, self.asks = 0, False

    def lost(self, sample: Sample) -> None:
        """A request has ended, and says nothing."""
        self.probes.discard(sample)
        if sample is self.question:
            self.question = None
