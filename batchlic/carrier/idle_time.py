"""How long connections may be idle before they are used again, as far as breaks of connections show it."""

import math
import time

_SAFE = 0.5
"""Share of the idle time after which the server closed a connection. Later, others are not used again."""
_SHORTEST_S = 0.1
"""If the idle time was shorter, each connection has one request: requests take as long to arrive."""
_FORGET_S = 600.0
"""Seconds for which these rules hold: the server may have closed the connection for another reason."""


class IdleTime:
    """The idle time of all connections of a client.

    A server that closes an idle connection while a request is on its way leaves the request in doubt. After
    that, connections that were idle for nearly as long are not used again.
    """

    def __init__(self) -> None:
        self._most_s = math.inf
        self._forget_at = -math.inf

    @property
    def most_s(self) -> float:
        """Seconds that a connection may be idle; infinite as long as none broke."""
        return self._most_s if time.monotonic() < self._forget_at else math.inf

    def was_too_long(self, idle_s: float) -> None:
        """Note that a server closed a connection when it was used after so many seconds."""
        safe_s = _SAFE * idle_s if idle_s >= _SHORTEST_S else 0.0
        self._most_s = min(self.most_s, safe_s)
        self._forget_at = time.monotonic() + _FORGET_S
