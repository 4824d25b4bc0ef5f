"""Refusals within the quota, which are judged once all is answered that left before they were known."""

from batchlic.pool.limiter.samples import Sample

_MOST_MISFITS = 12
"""Times that a window may let next to nothing in before it is taken for none."""


class Unexpected:
    """The refusal that is to be judged, and how the earlier ones were."""

    def __init__(self, now: float) -> None:
        self.refused_at: float | None = None
        """When the refused request left; None if nothing is to be judged."""
        self.held_until = self.settled_at = now
        """Until when nothing is sent, and when the latest refusal was judged."""
        self._misfits = 0

    def is_new(self, sample: Sample) -> bool:
        """Whether a refused request is the first to be judged: not one that left before the last judgment."""
        return self.refused_at is None and sample.sent_at >= self.settled_at

    def hold(self, sample: Sample, until: float) -> None:
        """Send nothing until what left before is answered, at most until then."""
        self.refused_at, self.held_until = sample.sent_at, until

    def settle(self, now: float) -> None:
        """The refusal is judged now."""
        self.refused_at, self.held_until, self.settled_at = None, now, now

    def is_one_too_many(self) -> bool:
        """Count a refusal that does not fit a window. Returns whether there were too many."""
        self._misfits += 1
        return self._misfits > _MOST_MISFITS

    def fits(self) -> None:
        """A window let its quota in."""
        self._misfits = 0
