"""Who may tell us outcomes: the source address and the credentials in the body are the only proof."""

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from batchlic.carrier.auth import Secret
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
"""The addresses that the carrier publishes as sources of its callbacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The credentials given at registration, the sources to believe, and the proxies in front of us."""

    username: Secret
    password: Secret
    sources: tuple[Network, ...]
    proxies: tuple[Network, ...] = ()

    def knows(self, username: str | None, password: str | None) -> bool:
        """Whether these are the credentials, in a time that tells nothing of them."""
        is_user = _same(username or "", self.username)
        is_password = _same(password or "", self.password)
        return is_user & is_password

    def source_of(self, peer: str | None, forwarded_for: str) -> str | None:
        """The address that a call came from: the peer's, or the last one that a trusted proxy vouches for.

        `forwarded_for` is what X-Forwarded-For holds; each proxy appended the address that called it, so it
        is read from its end, and no further than the first address that is not a proxy of ours.
        """
        source = peer
        hops = [hop.strip() for hop in forwarded_for.split(",") if hop.strip()]
        while hops and _is_in(source, self.proxies):
            source = hops.pop()
        return source

    def allows(self, source: str | None) -> bool:
        """Whether an address is among the sources to believe."""
        return _is_in(source, self.sources)


def networks(texts: Iterable[str], *, where: str) -> tuple[Network, ...]:
    """Addresses and networks (`10.0.0.0/8`) as people write them. Raises UsageError that names `where`."""
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text.strip()))
        except ValueError:
            raise UsageError(f"{where}: {text.strip()!r} is no IP address or network") from None
    return tuple(found)


def _same(given: str, secret: Secret) -> bool:
    """Digests are compared, so that not even the length shows."""
    mine, theirs = (
        hashlib.sha256(text.encode(errors="replace")).digest() for text in (secret.reveal(), given)
    )
    return hmac.compare_digest(mine, theirs)


def _is_in(address: str | None, allowed: tuple[Network, ...]) -> bool:
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return any(ip in network for network in allowed)
