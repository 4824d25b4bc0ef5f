"""The address of a listener: what the carrier is told to call, and what may be wrong with it."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from batchlic.errors import UsageError

PORTS = frozenset({80, 443, *range(9001, 9007), *range(50551, 50560), *range(28200, 28221)})
"""The ports that the carrier calls."""

_PORTS_TEXT = "80, 443, 9001-9006, 50551-50559, 28200-28220"


def address(url: str, account: str) -> str:
    """The address to register for an account: `url`/`account`, so that callbacks name their account.

    Raises UsageError where `url` is no address for callbacks.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # checked when it is read
    except ValueError as error:
        raise UsageError(f"--url {url}: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"--url {url}: give an address like https://host/callbacks/CarrierService")
    if "@" in parts.netloc:
        raise UsageError("--url: leave user and password out; they are the settings BATCHLIC_LISTENER_*")
    path = parts.path.rstrip("/")
    return parts._replace(path=path if path.endswith(f"/{account}") else f"{path}/{account}").geturl()


def warnings(url: str) -> Iterator[str]:
    """What may be wrong with an address that `address` made."""
    parts = urlsplit(url)
    if parts.scheme != "https":
        yield f"{url} is not https: the credentials in each callback travel unencrypted"
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    if port not in PORTS:
        yield f"{url}: the carrier does not call port {port}, only {_PORTS_TEXT}"
