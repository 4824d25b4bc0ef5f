"""Sends single HTTP requests to the carrier: no retries, no redirects, limits on size and time."""

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
"""Bytes kept of a response body; the carrier's bodies have a few hundred."""

KEEPALIVE_S = 4.0
"""Seconds that an idle connection is kept open.

A server that closes a connection while a request is on its way leaves the request in doubt. Common servers
close idle connections after 5 seconds or more, so the client closes them earlier.
"""

Headers = list[tuple[bytes, bytes]]

COMMON_HEADERS: Headers = [
    (b"Accept", b"application/json"),
    (b"Accept-Encoding", b"identity"),  # bodies are short, and a compressed body could expand without limit
    (b"User-Agent", b"batchlic"),
]
"""Headers of every request."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits in seconds: for opening a connection, and for a whole exchange."""

    connect: float = 10.0
    exchange: float = 60.0


class HttpClient:
    """Sends requests to one base URL; made by `open_http_client`.

    It calls the httpx transport directly, without `httpx.AsyncClient`. So there are no redirects, cookies or
    authentication flows, and an exchange takes a third less time.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, root: str, timeouts: Timeouts) -> None:
        self._transport = transport
        self._root = root
        self._timeout_s = timeouts.exchange
        timeout = httpx.Timeout(timeouts.exchange, connect=timeouts.connect, pool=timeouts.connect)
        self._extensions = {"timeout": timeout.as_dict()}

    def url(self, path: str) -> httpx.URL:
        """URL of an endpoint; `path` is already quoted."""
        return httpx.URL(self._root + path)

    async def exchange(
        self, method: str, url: httpx.URL, headers: Headers, content: bytes | None = None
    ) -> Reply:
        """Send one request and return the reply.

        Raises httpx.RequestError if no status arrived. If the request was not sent, the error is one of
        `interpretation.NOT_SENT_ERRORS`.
        """
        request = httpx.Request(method, url, headers=headers, content=content, extensions=self._extensions)
        reply: Reply | None = None
        with anyio.move_on_after(self._timeout_s):
            response = await self._transport.handle_async_request(request)
            reply = Reply(response.status_code, _lower_case(response.headers.raw), b"", complete=False)
            body, complete = await _read_body(response)
            reply = Reply(reply.status, reply.headers, body, complete)
        if reply is None:
            raise httpx.ReadTimeout(f"no answer within {self._timeout_s:g} s")
        return reply


@asynccontextmanager
async def open_http_client(
    base_url: str, *, transport: httpx.AsyncBaseTransport | None, timeouts: Timeouts, max_connections: int
) -> AsyncIterator[HttpClient]:
    """Open a client of `base_url`. Raises UsageError as `check_base_url`."""
    url = check_base_url(base_url)
    async with transport or _transport(url, max_connections) as opened:
        yield HttpClient(opened, str(url).rstrip("/"), timeouts)


async def _read_body(response: httpx.Response) -> tuple[bytes, bool]:
    """Return the body and whether it is complete. Bytes beyond MAX_BODY are read and dropped.

    An error after the status arrived does not raise: the status still counts.
    """
    content, length = bytearray(), 0
    try:
        async for chunk in cast("httpx.AsyncByteStream", response.stream):
            length += len(chunk)
            content += chunk[: MAX_BODY - len(content)]
        return _decompressed(response.headers, bytes(content)), length <= MAX_BODY
    except Exception:  # noqa: BLE001 - transports do not wrap the errors of their parsers
        return bytes(content), False
    finally:
        await response.aclose()


def _decompressed(headers: httpx.Headers, content: bytes) -> bytes:
    """The body, decompressed if a gateway compressed it although the client did not ask for that."""
    if "content-encoding" not in headers:
        return content
    return httpx.Response(200, headers=headers, content=content).content[:MAX_BODY]


def _lower_case(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def check_base_url(base_url: str) -> httpx.URL:
    """Return the base URL. Raises UsageError if it is malformed or would send credentials unencrypted."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise UsageError(f"BATCHLIC_BASE_URL: {error}") from None
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.query or url.fragment:
        raise UsageError(
            "BATCHLIC_BASE_URL: give a URL like https://host/path, without user, query or fragment"
        )
    if url.scheme == "http" and not _is_loopback(url.host):
        raise UsageError(
            f"BATCHLIC_BASE_URL: http://{url.host} would send credentials unencrypted; use https"
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
        from batchlic.carrier.connections import pooled_transport

        return pooled_transport(context, proxy, max_connections=max_connections, keepalive_s=KEEPALIVE_S)
    limits = httpx.Limits(
        max_connections=max_connections,
        max_keepalive_connections=max_connections,
        keepalive_expiry=KEEPALIVE_S,
    )
    return httpx.AsyncHTTPTransport(verify=context, proxy=proxy, trust_env=False, limits=limits)


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _tls() -> ssl.SSLContext:
    """Trust the authorities in SSL_CERT_FILE or SSL_CERT_DIR, or else those of certifi."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise UsageError(f"SSL_CERT_FILE or SSL_CERT_DIR: {error}") from None


def _proxy(url: httpx.URL) -> httpx.Proxy | None:
    """The proxy that HTTPS_PROXY, ALL_PROXY and NO_PROXY name; None for loopback addresses."""
    proxies = urllib.request.getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    if not address or _is_loopback(url.host) or urllib.request.proxy_bypass(url.host):
        return None
    proxy = httpx.URL(address if "://" in address else f"http://{address}")
    if proxy.scheme not in {"http", "https"}:
        raise UsageError(
            f"{url.scheme.upper()}_PROXY: {proxy.scheme} proxies are not supported; use an http(s) proxy"
        )
    login = b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
    headers = {"Proxy-Authorization": f"Basic {login}"} if proxy.userinfo else None
    return httpx.Proxy(proxy.copy_with(username=None, password=None), headers=headers)
