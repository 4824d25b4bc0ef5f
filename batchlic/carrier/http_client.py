"""Sends single HTTP requests to the carrier: no retries, no redirects, limits on size and time."""

import asyncio
import errno
import ipaddress
import socket
import ssl
import urllib.request
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import httpx

from batchlic.carrier.answers import Reply
from batchlic.carrier.time_limits import TimeLimits, Wait
from batchlic.errors import UsageError

if TYPE_CHECKING:
    from batchlic.carrier.connections import Exchange

MAX_BODY = 64 * 1024
"""Bytes kept of a response body; the carrier's bodies have a few hundred."""

MAX_READ = 16 * MAX_BODY
"""Bytes read of a response body before the connection is closed."""

KEEPALIVE_S = 4.0
"""Seconds that an idle connection is kept open, unless the server's `Keep-Alive: timeout=` is shorter.

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
    """Time limits in seconds.

    - `connect`: for opening a connection.
    - `exchange`: for silence, without a byte of the answer. See `carrier.time_limits` for how it is measured.
    - `total`: for a whole exchange, even if the answer arrives byte by byte.
    """

    connect: float = 10.0
    exchange: float = 60.0
    total: float = 600.0


class ProxyRefused(httpx.ProxyError):
    """A proxy does not connect to the carrier. `retry_after_s`: seconds that it asks to wait, if it does."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ProxyLoginRequired(httpx.ProxyError):
    """A proxy answered 407: it requires a login, or rejects the one in the setting. Nothing was sent on."""


class HttpClient:
    """Sends requests to one base URL; made by `open_http_client`.

    It calls the httpx transport directly, without `httpx.AsyncClient`. So there are no redirects, cookies or
    authentication flows, and an exchange takes a third less time.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        root: str,
        timeouts: Timeouts,
        limits: TimeLimits,
        proxy: "Proxy | None" = None,
    ) -> None:
        self._transport = transport
        self._root = root
        self._limits = limits
        self._proxy = proxy
        self._timeouts = httpx.Timeout(None, connect=timeouts.connect, pool=timeouts.connect).as_dict()

    def url(self, path: str) -> httpx.URL:
        """URL of an endpoint; `path` is already quoted."""
        return httpx.URL(self._root + path)

    async def exchange(
        self, method: str, url: httpx.URL, headers: Headers, content: bytes | None = None
    ) -> Reply:
        """Send one request and return the reply.

        Raises httpx.RequestError if no status arrived. If the request was not sent, the error is one of
        those that `rules.BY_ERROR` calls unavailable; ProxyLoginRequired is one of them.
        """
        response: httpx.Response | None = None
        body = _Body()
        with self._limits.waiting() as wait:
            request = httpx.Request(
                method,
                url,
                headers=headers,
                content=content,
                extensions={"timeout": self._timeouts, "received": wait.received},
            )
            try:
                response = await self._transport.handle_async_request(request)
            except httpx.ProxyError as error:
                raise self._proxy_error(error) from error
            except httpx.ConnectError as error:
                raise _explained(error) from error
            await body.read(response, wait)
        if response is None:
            raise httpx.ReadTimeout(f"no answer: {wait.reason}")
        if response.status_code == 407:
            raise ProxyLoginRequired(_requires_login(self._proxy))
        return body.reply(response)

    def _proxy_error(self, error: httpx.ProxyError) -> httpx.ProxyError:
        """Name the proxy that refused to connect. Error texts of both transports begin with its status."""
        if str(error).startswith("407"):
            return ProxyLoginRequired(_requires_login(self._proxy))
        retry_after_s = error.retry_after_s if isinstance(error, ProxyRefused) else None
        proxy = self._proxy or "the proxy"
        return ProxyRefused(f"{proxy} does not connect to the carrier: {error}", retry_after_s)


class _Body:
    """As much of a response's body as could be read; an error after the status does not raise."""

    def __init__(self) -> None:
        self._content = bytearray()
        self._is_whole = False

    async def read(self, response: httpx.Response, wait: Wait) -> None:
        """Read the body. Bytes beyond MAX_BODY are dropped; beyond MAX_READ, the wait is cancelled."""
        length = 0
        try:
            async for chunk in cast("httpx.AsyncByteStream", response.stream):
                wait.received()
                length += len(chunk)
                self._content += chunk[: MAX_BODY - len(self._content)]
                if length > MAX_READ:
                    wait.scope.cancel()  # unlike a break, this ends all generators of the stream
            self._is_whole = length <= MAX_BODY
        except Exception:  # noqa: BLE001 - transports do not wrap the errors of their parsers
            return
        finally:
            await response.aclose()

    def reply(self, response: httpx.Response) -> Reply:
        """The reply with this body."""
        exchange: Exchange | None = response.extensions.get("exchange")
        content = bytes(self._content)
        is_whole = self._is_whole and (exchange is None or exchange.is_complete)
        headers = _joined(response.headers.raw)
        if "content-encoding" in headers and content:
            try:
                content = _decompressed(headers["content-encoding"], content)
            except httpx.DecodingError:
                is_whole = is_whole and content.lstrip().startswith((b"{", b"["))
        if exchange is None:
            return Reply(response.status_code, headers, content, is_whole)
        return Reply(response.status_code, headers, content, is_whole, exchange.discard_connections)


@asynccontextmanager
async def open_http_client(
    base_url: str, *, transport: httpx.AsyncBaseTransport | None, timeouts: Timeouts, max_connections: int
) -> AsyncIterator[HttpClient]:
    """Open a client of `base_url`. Raises UsageError as `check_base_url`."""
    url = check_base_url(base_url)
    proxy = None if transport else proxy_for(url)
    limits = TimeLimits(timeouts.exchange, timeouts.total)
    async with transport or _transport(url, proxy, max_connections) as opened, limits.running():
        yield HttpClient(opened, str(url).rstrip("/"), timeouts, limits, proxy)


def _decompressed(coding: str, content: bytes) -> bytes:
    """Decompress a body: a gateway may compress it although the client did not ask for that."""
    return httpx.Response(200, headers={"Content-Encoding": coding}, content=content).content[:MAX_BODY]


def _joined(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by lower-case name. Those with the same name are merged into a list (RFC 9110, 5.2)."""
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _explained(error: httpx.ConnectError) -> httpx.ConnectError:
    """Explain the error if no connection could be opened because too many files are open."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    try:
        socket.socket().close()  # a failed name lookup does not give its reason
    except OSError as failure:
        causes.append(failure)
    if any(isinstance(cause, OSError) and cause.errno in {errno.EMFILE, errno.ENFILE} for cause in causes):
        return httpx.ConnectError(
            "too many open files: raise the limit (ulimit -n) or lower --max-concurrency"
        )
    return error


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


def refuse_unencrypted(setting: str, secret_url: str) -> None:
    """Raise UsageError if a URL that is itself a secret is malformed or would be sent unencrypted."""
    try:
        url = httpx.URL(secret_url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    is_encrypted = url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host))
    if not is_encrypted or not url.host or any(map(str.isspace, secret_url)):
        raise UsageError(f"{setting}: give one URL that begins with https://: the URL is a secret")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _transport(url: httpx.URL, proxy: "Proxy | None", max_connections: int) -> httpx.AsyncBaseTransport:
    context = tls_context() if url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    via = proxy.address if proxy is not None else None
    if _on_asyncio():
        from batchlic.carrier.connections import pooled_transport

        return pooled_transport(context, via, max_connections=max_connections, keepalive_s=KEEPALIVE_S)
    # httpcore keeps bytes that arrive after an answer, and takes them for the next answer on the connection.
    limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=0)
    return httpx.AsyncHTTPTransport(verify=context, proxy=via, trust_env=False, limits=limits)


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def tls_context() -> ssl.SSLContext:
    """Trust the authorities in SSL_CERT_FILE or SSL_CERT_DIR, or else those of certifi."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise UsageError(f"SSL_CERT_FILE or SSL_CERT_DIR: {error}") from None


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and the name of its setting."""

    address: httpx.Proxy
    setting: str

    def __str__(self) -> str:
        url = self.address.url
        return f"the proxy {url.host}:{url.port or {'http': 80, 'https': 443}[url.scheme]} ({self.setting})"


def _requires_login(proxy: Proxy | None) -> str:
    if proxy is None:
        return (
            "a proxy in front of the carrier requires a login (HTTP 407): "
            "set HTTPS_PROXY to the proxy's URL with its login"
        )
    login = "rejects the login" if "proxy-authorization" in proxy.address.headers else "requires a login"
    return f"{proxy} {login} (HTTP 407): check the login in {proxy.setting}"


def proxy_for(url: httpx.URL) -> Proxy | None:
    """The proxy that HTTPS_PROXY, ALL_PROXY and NO_PROXY name; None for loopback addresses."""
    proxies = urllib.request.getproxies()
    kind = url.scheme if proxies.get(url.scheme) else "all"
    address, setting = proxies.get(kind), f"{kind.upper()}_PROXY"
    if not address or _is_loopback(url.host) or urllib.request.proxy_bypass(url.host):
        return None
    try:
        proxy = httpx.URL(address if "://" in address else f"http://{address}")
    except httpx.InvalidURL as error:
        raise UsageError(f"{setting}: {error}") from None
    if proxy.scheme not in {"http", "https"}:
        raise UsageError(f"{setting}: {proxy.scheme} proxies are not supported; use an http(s) proxy")
    login = b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
    headers = {"Proxy-Authorization": f"Basic {login}"} if proxy.userinfo else None
    return Proxy(httpx.Proxy(proxy.copy_with(username=None, password=None), headers=headers), setting)
