"""The URL under which a listener is registered with the carrier, and warnings about it."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from batchlic.errors import UsageError

PORTS = frozenset({80, 443, *range(9001, 9007), *range(50551, 50560), *range(28200, 28221)})
"""The ports that the carrier calls."""

_PORTS_TEXT = "80, 443, 9001-9006, 50551-50559, 28200-28220"


def registration_url(url: str, account: str) -> str:
    """Return the URL to register for an account: `url`/`account`, so that callbacks name their account.

    Raises UsageError if `url` is not a URL for callbacks.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # reading it validates it
    except ValueError as error:
        raise UsageError(f"--url {url}: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"--url {url}: give a URL like https://host/callbacks/CarrierService")
    if "@" in parts.netloc:
        raise UsageError("--url: leave out user and password; give them in the settings BATCHLIC_LISTENER_*")
    path = parts.path.rstrip("/")
    return parts._replace(path=path if path.endswith(f"/{account}") else f"{path}/{account}").geturl()


def url_warnings(url: str) -> Iterator[str]:
    """Yield warnings about a URL of `registration_url`."""
    parts = urlsplit(url)
    if parts.scheme != "https":
        yield f"{url} is not https: the credentials in each callback travel unencrypted"
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    if port not in PORTS:
        yield f"{url}: the carrier does not call port {port}, only {_PORTS_TEXT}"
