"""Access control of the listener: the source address, and the credentials in each callback."""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from batchlic.carrier.credentials import Secret
from batchlic.errors import UsageError

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

CARRIER_SOURCES = (
    "3.87.163.45",
    "3.91.119.203",
    "54.197.62.209",
    "35.165.205.14",
    "54.200.43.232",
    "34.216.81.234",
    "137.117.33.109",
    "168.62.173.153",
)
"""The source addresses of callbacks that the carrier publishes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The credentials given at registration, the allowed source networks, and the trusted proxies."""

    username: Secret
    password: Secret
    sources: tuple[Network, ...]
    proxies: tuple[Network, ...] = ()

    def accepts(self, username: str | None, password: str | None) -> bool:
        """Compare credentials in constant time; return whether they match."""
        is_user = _same(username or "", self.username)
        is_password = _same(password or "", self.password)
        return is_user & is_password

    def source_address(self, peer: str | None, forwarded_for: str) -> str | None:
        """Return the source address of a request, also behind trusted proxies.

        `peer` is the address of the connection, `forwarded_for` the X-Forwarded-For header. Each proxy
        appends the address that called it, some with quotes or a port. So the header is read from its end,
        until the first address that is not a trusted proxy.
        """
        source = peer
        hops = [hop for hop in map(_address, forwarded_for.split(",")) if hop]
        while hops and _is_in(source, self.proxies):
            source = hops.pop()
        return source

    def allows(self, source: str | None) -> bool:
        """Return whether an address is in the allowed source networks."""
        return _is_in(source, self.sources)


def parse_networks(texts: Iterable[str], *, where: str) -> tuple[Network, ...]:
    """Parse addresses and networks like `10.0.0.0/8`. Raises UsageError that begins with `where`."""
    networks = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text.strip()))
        except ValueError:
            raise UsageError(f"{where}: {text.strip()!r} is not an IP address or network") from None
    return tuple(networks)


_HOP = re.compile(r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<ipv4>[0-9.]+))(?::[0-9]{1,5})?")
"""An address in brackets or an IPv4 address, either with a port. A bare IPv6 address has no port."""


def _address(hop: str) -> str:
    """Return the address in an entry of X-Forwarded-For, without quotes, brackets and port."""
    text = hop.strip().strip('"').strip()
    found = _HOP.fullmatch(text)
    return (found["ipv6"] or found["ipv4"]) if found else text


def _same(given: str, secret: Secret) -> bool:
    """Compare digests, so that the time does not depend on the length of the secret."""
    expected, actual = (
        hashlib.sha256(text.encode(errors="replace")).digest() for text in (secret.reveal(), given)
    )
    return hmac.compare_digest(expected, actual)


def is_private(address: str | None) -> bool:
    """Return whether an address is one of this machine or of a private network."""
    ip = _parsed(address)
    return ip is not None and ip.is_private


def _is_in(address: str | None, allowed: tuple[Network, ...]) -> bool:
    ip = _parsed(address)
    return ip is not None and any(ip in network for network in allowed)


def _parsed(address: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address, as IPv4 if it is one inside IPv6; None for other texts."""
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return None
    return (isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped) or ip
