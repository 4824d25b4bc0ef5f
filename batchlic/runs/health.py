"""Whether the carrier answers the requests of a session."""

import math

import anyio

from batchlic.carrier.answers import Answer, Outcome
from batchlic.pool.limiter.limiters import Limiters
from batchlic.runs.outage import PERHAPS_EXECUTED, SILENCE_S, TRYING_AGAIN, Outage

GRACE_S = 2.0
"""Seconds without a good answer before failures are reported; none if there was no good answer yet."""
LONG_WAIT_S = 5.0
"""A wait of this many seconds or more, asked for by the carrier, is reported."""


class Health:
    """Reports outages from answers and their absence; times are those of the event loop's clock."""

    def __init__(self, outage: Outage, limiters: Limiters) -> None:
        self._outage = outage
        self._limiters = limiters
        self._is_known = False
        self._heard_at = anyio.current_time()
        self._well_at = -math.inf
        self._failing: Answer | None = None

    def learn(self, answer: Answer) -> None:
        """Learn from an answer to a request."""
        self._is_known, self._heard_at = True, anyio.current_time()
        if answer.outcome in {Outcome.UNAVAILABLE, Outcome.AMBIGUOUS}:
            self._failing = answer
            self._report_failure()
        else:
            self._well_at, self._failing = self._heard_at, None
        if (answer.retry_after_s or 0) >= LONG_WAIT_S:
            self._outage.asks_to_wait(answer.retry_after_s or 0, answer.summary)

    def missed(self, reason: str) -> None:
        """Learn that a login was not answered."""
        self._is_known, self._heard_at = True, anyio.current_time()
        self._outage.unreachable(reason)

    def check(self) -> None:
        """Report an answer that is overdue, and an outage that lasts."""
        self._report_failure()
        silence = self._limiters.seconds_since(self._heard_at)
        is_due = self._limiters.in_flight > 0 or not self._is_known
        if silence >= SILENCE_S and is_due and not self._limiters.is_paused:
            self._outage.silent(silence)

    def _report_failure(self) -> None:
        """Report a failure if no good answer came for a while: a single failure is not reported."""
        if self._failing is None or anyio.current_time() - self._well_at < GRACE_S:
            return
        then = PERHAPS_EXECUTED if self._failing.outcome is Outcome.AMBIGUOUS else TRYING_AGAIN
        if self._failing.http_status is None:
            self._outage.unreachable(self._failing.summary, then)
        else:
            self._outage.failing(self._failing.summary, then)
