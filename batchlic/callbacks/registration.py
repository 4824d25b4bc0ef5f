"""Listeners at the carrier: what to say of an address before the carrier is told to call it."""

from collections.abc import Iterator

import httpx

from batchlic.errors import UsageError

PORTS = frozenset({80, 443, *range(9001, 9007), *range(50551, 50560), *range(28200, 28221)})
"""The ports that the carrier will call."""

_PORTS_IN_WORDS = "80, 443, 9001-9006, 50551-50559, 28200-28220"


def address(url: str, account: str) -> str:
    """The address to register for an account: `url`/`account`, so that its callbacks say whose they are.

    Raises UsageError where `url` is none.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UsageError(f"--url: {error}") from None
    if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.query or parsed.fragment:
        raise UsageError("--url: give an address like https://host/callbacks/CarrierService")
    if parsed.userinfo:
        raise UsageError("--url: credentials do not belong into an address; they are settings")
    path = parsed.path.rstrip("/")
    return str(parsed.copy_with(path=path if path.endswith(f"/{account}") else f"{path}/{account}"))


def warnings(url: str) -> Iterator[str]:
    """What is to be said against an address, in words."""
    parsed = httpx.URL(url)
    if parsed.scheme != "https":
        yield f"{url} is not https: the credentials in each callback travel in the clear"
    port = parsed.port or {"http": 80, "https": 443}[parsed.scheme]
    if port not in PORTS:
        yield f"{url}: the carrier will not call port {port}, only {_PORTS_IN_WORDS}"
