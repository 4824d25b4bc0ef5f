"""Who may see the pages: the token, sessions, and a limit for wrong tokens."""

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

MIN_TOKEN = 16
"""Characters of a token, at least."""
SESSION_S = 12 * 3600
"""Seconds after a login until the next one."""

_MAX_SESSIONS = 1000
_MAX_ADDRESSES = 10_000

Clock = Callable[[], float]


class Token:
    """What a login asks for. Only its digest is kept, and comparing takes the same time for any text."""

    def __init__(self, text: str) -> None:
        self._digest = _digest(text)

    def is_same(self, text: str) -> bool:
        """Whether a text is the token."""
        return hmac.compare_digest(self._digest, _digest(text))


class Sessions:
    """The browsers that are logged in. A restart of the server ends all sessions."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    def begin(self) -> str:
        """A new session: a random value that says nothing about the token."""
        value = secrets.token_urlsafe(32)
        self._ends[_digest(value)] = self._clock() + SESSION_S
        while len(self._ends) > _MAX_SESSIONS:
            self._ends.popitem(last=False)
        return value

    def is_open(self, value: str) -> bool:
        """Whether a session was begun, and neither ended nor expired."""
        ends_at = self._ends.get(_digest(value))
        return ends_at is not None and self._clock() < ends_at

    def end(self, value: str) -> None:
        """End a session, if there is one."""
        self._ends.pop(_digest(value), None)


class _Bucket:
    """A token bucket (https://en.wikipedia.org/wiki/Token_bucket) of wrong answers."""

    def __init__(self, size: int, refill_s: float, now: float) -> None:
        self._size, self._refill_s = size, refill_s
        self._left, self._at = float(size), now

    def take(self, now: float) -> None:
        self._left = max(0.0, self._filled(now) - 1)
        self._at = now

    def wait_s(self, now: float) -> float:
        """Seconds until the next answer may be given; 0 if it may now."""
        return max(0.0, (1 - self._filled(now)) * self._refill_s)

    def _filled(self, now: float) -> float:
        return min(self._size, self._left + (now - self._at) / self._refill_s)


class FailureLimit:
    """Limits wrong tokens: 5 from one address, then one a minute; 50 from all, then one every 2 seconds."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._all = _Bucket(50, 2.0, clock())
        self._by_address: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Seconds until this address may try again; 0 if it may now."""
        now = self._clock()
        own = self._by_address.get(_network(address))
        return max(self._all.wait_s(now), own.wait_s(now) if own else 0.0)

    def fail(self, address: str) -> None:
        """Count a wrong token."""
        now, network = self._clock(), _network(address)
        own = self._by_address.pop(network, None) or _Bucket(5, 60.0, now)
        own.take(now)
        self._all.take(now)
        self._by_address[network] = own
        while len(self._by_address) > _MAX_ADDRESSES:
            self._by_address.popitem(last=False)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to listen on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Hosts:
    """The names under which the pages may be asked for.

    A page of another site can let its own name point to 127.0.0.1 (DNS rebinding). So on loopback, a request
    must name this machine or one of `public`. Otherwise the token protects the pages, and any name is
    accepted unless `public` has names.
    """

    def __init__(self, listens_on: str, public: Iterable[str]) -> None:
        self._public = frozenset(name.lower() for name in public)
        self._accepts_any = not is_loopback(listens_on) and not self._public

    def accepts(self, header: str) -> bool:
        """Whether a Host header is one of the names, with any port."""
        name = _without_port(header)
        return self._accepts_any or name in self._public or is_loopback(name)


def _without_port(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _network(address: str) -> str:
    """The address, or the /64 of an IPv6 address, which one caller has to itself."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()
