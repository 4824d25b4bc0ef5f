"""One HTTP exchange: a request goes out at most once, and what comes back is bounded in size and time."""

import asyncio
import ipaddress
import ssl
import urllib.request
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import anyio
import httpx

from batchlic.carrier.answers import Reply
from batchlic.errors import UsageError

MAX_BODY = 64 * 1024
"""Bytes read of an answer; an answer of the carrier has a few hundred."""

KEEPALIVE = 4.0
"""Seconds that an idle connection is kept. A server that closes one while a request is on its way leaves that
request in doubt, so ours must be the shorter patience: common servers wait 5 seconds or more."""

Headers = list[tuple[bytes, bytes]]

COMMON: Headers = [
    (b"Accept", b"application/json"),
    (b"Accept-Encoding", b"identity"),  # answers are short: nothing to gain, a bomb to lose
    (b"User-Agent", b"batchlic"),
]
"""Headers of every request."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Patience in seconds: for a connection, and for a whole exchange."""

    connect: float = 10.0
    exchange: float = 60.0


class Wire:
    """Exchanges with one carrier; `open_wire` makes it.

    It speaks to the httpx transport itself: redirects, cookies and logins on the way are then not switched
    off but absent, and an exchange costs a third less time.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, root: str, timeouts: Timeouts) -> None:
        self._transport = transport
        self._root = root
        self._patience = timeouts.exchange
        within = httpx.Timeout(timeouts.exchange, connect=timeouts.connect, pool=timeouts.connect)
        self._extensions = {"timeout": within.as_dict()}

    def url(self, path: str) -> httpx.URL:
        """Address of an endpoint; `path` is already quoted."""
        return httpx.URL(self._root + path)

    async def exchange(
        self, method: str, url: httpx.URL, headers: Headers, body: bytes | None = None
    ) -> Reply:
        """Send once and read the answer.

        Raises httpx.RequestError if no status came: one of `answers.UNSENT` where nothing was sent.
        """
        request = httpx.Request(method, url, headers=headers, content=body, extensions=self._extensions)
        reply: Reply | None = None
        with anyio.move_on_after(self._patience):
            response = await self._transport.handle_async_request(request)
            reply = Reply(response.status_code, _lower(response.headers.raw), b"", whole=False)
            content, whole = await _read(response)
            reply = Reply(reply.status, reply.headers, content, whole)
        if reply is None:
            raise httpx.ReadTimeout(f"no answer within {self._patience:g} s")
        return reply


@asynccontextmanager
async def open_wire(
    base_url: str, *, transport: httpx.AsyncBaseTransport | None, timeouts: Timeouts, max_connections: int
) -> AsyncIterator[Wire]:
    """Open a wire to `base_url`; raises UsageError if that is no address for credentials."""
    url = check_address(base_url)
    async with transport or _transport(url, max_connections) as opened:
        yield Wire(opened, str(url).rstrip("/"), timeouts)


async def _read(response: httpx.Response) -> tuple[bytes, bool]:
    """Body, and whether it is all there; what exceeds the bound is read and dropped.

    Whatever breaks after the status came, the status stands.
    """
    content, length = bytearray(), 0
    try:
        async for chunk in cast("httpx.AsyncByteStream", response.stream):
            length += len(chunk)
            content += chunk[: MAX_BODY - len(content)]
        return _decompressed(response.headers, bytes(content)), length <= MAX_BODY
    except Exception:  # noqa: BLE001 - transports let pass what their parsers raise
        return bytes(content), False
    finally:
        await response.aclose()


def _decompressed(headers: httpx.Headers, content: bytes) -> bytes:
    """Body as the carrier wrote it, should a gateway have compressed it unasked."""
    if "content-encoding" not in headers:
        return content
    return httpx.Response(200, headers=headers, content=content).content[:MAX_BODY]


def _lower(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def check_address(base_url: str) -> httpx.URL:
    """The carrier's address; raises UsageError if that is none, or no place for credentials."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise UsageError(f"BATCHLIC_BASE_URL: {error}") from None
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.query or url.fragment:
        raise UsageError("BATCHLIC_BASE_URL: must be like https://host/path, without user, query or fragment")
    if url.scheme == "http" and not _is_loopback(url.host):
        raise UsageError(
            f"BATCHLIC_BASE_URL: http://{url.host} would send credentials in the clear; use https"
        )
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _transport(url: httpx.URL, max_connections: int) -> httpx.AsyncBaseTransport:
    context = _tls() if url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    proxy = _proxy(url)
    if _on_asyncio():
        from batchlic.carrier.connections import pooled

        return pooled(context, proxy, max_connections=max_connections, keepalive=KEEPALIVE)
    limits = httpx.Limits(
        max_connections=max_connections, max_keepalive_connections=max_connections, keepalive_expiry=KEEPALIVE
    )
    return httpx.AsyncHTTPTransport(verify=context, proxy=proxy, trust_env=False, limits=limits)


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _tls() -> ssl.SSLContext:
    """Verify with SSL_CERT_FILE or SSL_CERT_DIR of the environment, or else with certifi's authorities."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise UsageError(f"SSL_CERT_FILE or SSL_CERT_DIR: {error}") from None


def _proxy(url: httpx.URL) -> httpx.Proxy | None:
    """Proxy that the environment (HTTPS_PROXY, ALL_PROXY, NO_PROXY) names; never for this machine itself."""
    proxies = urllib.request.getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    if not address or _is_loopback(url.host) or urllib.request.proxy_bypass(url.host):
        return None
    proxy = httpx.URL(address if "://" in address else f"http://{address}")
    if proxy.scheme not in {"http", "https"}:
        raise UsageError(
            f"{url.scheme.upper()}_PROXY: {proxy.scheme} proxies are not supported, http and https are"
        )
    login = b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
    headers = {"Proxy-Authorization": f"Basic {login}"} if proxy.userinfo else None
    return httpx.Proxy(proxy.copy_with(username=None, password=None), headers=headers)
