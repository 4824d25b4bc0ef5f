"""Leaves a share of the carrier's limit to others who use the same login.

The limit can be measured only by using all of it. So a search that does so comes first, then a long hold
below what was found, then a short search again: limits change.
"""

import math

from batchlic.pool.limiter.estimator import Hypothesis
from batchlic.pool.limiter.evidence import Evidence
from batchlic.pool.limiter.findings import Calls, Finding, Limit, Rate, Window, size
from batchlic.pool.limiter.samples import Samples

_HOLDS_S = 300.0
"""Seconds between two searches, each of which takes seconds. A window is not searched again: what is left of
one quota and all of the next would pass for one larger quota."""
_FALLEN = 0.9
"""Share of what is used of a window's quota below which the quota has certainly fallen."""


class Headroom(Hypothesis):
    """Bounds requests by a share of the limit that was found; by nothing during a search."""

    def __init__(self, samples: Samples, share: float, known: Limit | None) -> None:
        super().__init__(samples)
        self.limit: Limit | None = None
        """The limit below which requests are held; None during a search."""
        self.measured: Limit | None = None
        """The latest limit that a search has found."""
        self.set_share(share)
        if share and known is not None:
            self._hold(known)

    def set_share(self, share: float) -> None:
        """Change the share that is left to others, 0 to 1."""
        self._used = 1.0 - share
        if not share:
            self.limit = None

    def rate(self) -> float:
        """See Estimator. A quota is spread over its window."""
        match self.limit:
            case Rate(per_s):
                return self._used * per_s
            case Window(quota, period):
                return self._used * quota / period
        return math.inf

    def calls(self) -> int:
        """See Estimator."""
        most = super().calls()
        return (
            min(most, max(1, int(self._used * self.limit.calls))) if isinstance(self.limit, Calls) else most
        )

    def search_from(self, found: Finding, evidence: Evidence) -> Rate | Calls | None:
        """Hold below a limit once there is evidence of one. Returns it when it is to be searched again."""
        now, held = self._samples.now, self.limit
        if self._used == 1.0:
            return None
        if held is None:
            if (limit := evidence.limit) is not None:
                self.measured = limit
                self._hold(limit)
        elif isinstance(held, Window):
            if isinstance(found, Window) and size(found) < _FALLEN * self._used * size(held):
                self.limit = self.measured = found
        elif now >= self._until:
            self.limit = None
            evidence.begin(None, now)
            return held
        return None

    def _hold(self, limit: Limit) -> None:
        self.limit, self._until = limit, self._samples.now + _HOLDS_S
