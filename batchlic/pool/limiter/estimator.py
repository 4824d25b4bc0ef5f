"""What an estimator is: one hypothesis about the carrier's limit.

An estimator bounds the rate, the requests in flight, or the next moment. The limiter takes the least of the
bounds.
"""

import math
from typing import Protocol

from batchlic.pool.limiter.findings import Finding, NoLimit, Rate
from batchlic.pool.limiter.samples import Ending, Sample, Samples


class Estimator(Protocol):
    """One hypothesis about the carrier's limit."""

    def rate(self) -> float:
        """Requests/s that may start; may be infinite."""

    def calls(self) -> int:
        """Requests that may be in flight."""

    def wait(self) -> float:
        """Seconds until the next request may start, whatever rate and calls allow."""

    def shut(self) -> float:
        """Seconds for which the carrier lets nothing in; the rest of `wait` only spreads the requests."""

    def on_sent(self, sample: Sample) -> None:
        """Learn that a request leaves."""

    def on_sample(self, sample: Sample) -> Finding | None:
        """Learn how a request ended; returns a finding if it calls for another estimator."""

    def found(self) -> Finding:
        """The limit, as far as it is known."""


class Hypothesis:
    """An estimator that bounds nothing and learns nothing: what the others have in common."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def rate(self) -> float:
        """See Estimator."""
        return math.inf

    def calls(self) -> int:
        """See Estimator."""
        return self._samples.max_in_flight

    def wait(self) -> float:
        """See Estimator."""
        return 0.0

    def shut(self) -> float:
        """See Estimator."""
        return self.wait()

    def on_sent(self, sample: Sample) -> None:
        """See Estimator."""

    def on_sample(self, sample: Sample) -> Finding | None:
        """See Estimator."""
        match sample.ending:
            case Ending.ADMITTED:
                return self._on_admitted(sample)
            case Ending.REFUSED:
                return self._on_refused(sample)
        return self._on_lost(sample)

    def found(self) -> Finding:
        """See Estimator."""
        return NoLimit()

    def _as_spaced(self) -> Rate | None:
        """A limit without a burst, if the first requests let in show one."""
        distance = self._samples.first_distance
        return None if distance is None else Rate(1 / distance, is_spaced=True)

    def _on_admitted(self, sample: Sample) -> Finding | None:  # noqa: ARG002 - for those that learn
        return None

    def _on_refused(self, sample: Sample) -> Finding | None:  # noqa: ARG002
        return None

    def _on_lost(self, sample: Sample) -> Finding | None:  # noqa: ARG002
        return None
