"""Opens files on web servers, through fsspec. Imported only if an address is read."""

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
from fsspec.implementations.http import HTTPFileSystem  # type: ignore[import-untyped]

from batchlic.errors import InventoryError
from batchlic.reader.inputs.addresses import AGAIN, SILENT, Address

MAX_REDIRECTS = 10
_REDIRECTS = {301, 302, 303, 307, 308}
_PLAIN_ENCODINGS = {"", "identity", "gzip", "x-gzip", "zstd"}
"""Content-Encoding of bodies that the reader recognizes by their first bytes."""


class _Answered(Exception):
    """The server does not send the file."""

    def __init__(self, status: int, location: str | None, encoding: str) -> None:
        super().__init__(status)
        self.status = status
        self.location = location
        self.encoding = encoding


class _HttpFile:
    """The body of an answer, as it is transferred."""

    def __init__(self, name: str, timeout: float, stream: Any) -> None:  # noqa: ANN401 - fsspec has no types
        self._name = name
        self._timeout = timeout
        self._stream = stream
        answer: aiohttp.ClientResponse = stream.r
        self.size = answer.content_length
        self.notes: Sequence[str] = ()
        if self.size is None and "chunked" not in answer.headers.get("Transfer-Encoding", "").lower():
            self.notes = [
                f"{name}: the server announced no size, so batchlic can't know whether the file is complete"
            ]

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end. Raises InventoryError."""
        with _explained(self._name, self._timeout):
            chunk: bytes = self._stream.read(size)
            return chunk


@contextmanager
def opened(address: Address, timeout: float) -> Iterator[_HttpFile]:
    """Open the file at an http or https address. Raises InventoryError."""
    time_limits = aiohttp.ClientTimeout(total=None, connect=timeout, sock_read=timeout)
    files = HTTPFileSystem(get_client=partial(_session, time_limits), encoded=True, skip_instance_cache=True)
    try:
        with _explained(address.shown, timeout):
            stream = _stream(files, address)
        try:
            file = _HttpFile(address.shown, timeout, stream)
            if address.parts.scheme == "http":
                note = f"{address}: read without TLS: anyone on the way can see and change it"
                file.notes = [note, *file.notes]
            yield file
        finally:
            stream.close()
    finally:
        if files._session is not None:  # noqa: SLF001 - fsspec closes it only with the process
            files.close_session(files.loop, files._session)  # noqa: SLF001


async def _session(time_limits: aiohttp.ClientTimeout, **_: object) -> aiohttp.ClientSession:
    """A session that gets bodies as they are stored: the reader decompresses, and notices a cut-off file."""
    return aiohttp.ClientSession(
        timeout=time_limits,
        connector=aiohttp.TCPConnector(ssl=ssl.create_default_context()),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        raise_for_status=_require_file,
        trust_env=True,
    )


async def _require_file(answer: aiohttp.ClientResponse) -> None:
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    if answer.status != 200 or encoding not in _PLAIN_ENCODINGS:
        answer.close()
        raise _Answered(answer.status, answer.headers.get("Location"), encoding)


def _stream(files: HTTPFileSystem, address: Address) -> Any:  # noqa: ANN401
    """The open body, after redirects. aiohttp would also follow them from https to http."""
    url = _encoded(address.url)
    for _ in range(MAX_REDIRECTS + 1):
        try:
            # With a size, whatever it is, fsspec does not ask for it by a request of its own.
            return files.open(url, "rb", block_size=0, size=1, allow_redirects=False)
        except _Answered as answer:
            if answer.status not in _REDIRECTS or not answer.location:
                raise
            url = _redirected(address, url, answer.location)
    raise InventoryError(f"{address}: more than {MAX_REDIRECTS} redirects: give the address of the file")


def _redirected(address: Address, url: str, location: str) -> str:
    """The address that a redirect names, with the login of the first one if the server is the same."""
    old, new = urlsplit(url), urlsplit(urljoin(url, _encoded(location)))
    if new.scheme not in {"http", "https"} or (old.scheme, new.scheme) == ("https", "http"):
        raise InventoryError(
            f"{address}: the server redirects from {old.scheme} to {new.scheme}, which batchlic does not "
            "follow: give the address of the file"
        )
    if (old.scheme, old.hostname, old.port) == (new.scheme, new.hostname, new.port):
        new = new._replace(netloc=old.netloc)
    return new._replace(fragment="").geturl()


def _encoded(url: str) -> str:
    """The address with only those characters encoded that no address may have: signatures stay as given."""
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    if not host.isascii():
        host = host.encode("idna").decode()
    encoded = parts._replace(netloc=f"{login}{at}{host}").geturl()
    return quote(encoded, safe="!#$%&'()*+,/:;=?@[]~")


@contextmanager
def _explained(name: str, timeout: float) -> Iterator[None]:
    """Raise InventoryError for an error of the server or the network. Their own texts may show the URL."""
    try:
        yield
    except _Answered as answer:
        raise InventoryError(f"{name}: {_advice(answer)}") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        advice = next(advice for kinds, advice in _ADVICE.items() if isinstance(error, kinds))
        reason = _reason(error)
        raise InventoryError(f"{name}: {advice.format(timeout=timeout, reason=reason)}") from None


_ADVICE: dict[type[Exception], str] = {
    TimeoutError: SILENT,
    aiohttp.ClientConnectorDNSError: "there is no such host: check the address and the network",
    aiohttp.ClientSSLError: (
        "the server's TLS certificate or connection can't be trusted ({reason}): check the address; "
        "SSL_CERT_FILE can name the certificate of your company's authority"
    ),
    aiohttp.ClientProxyConnectionError: "the proxy can't be reached: check HTTPS_PROXY and NO_PROXY",
    aiohttp.ClientHttpProxyError: "the proxy does not connect to the server ({reason}): check HTTPS_PROXY",
    aiohttp.ClientConnectorError: f"the server can't be reached ({{reason}}): {AGAIN}",
    aiohttp.ClientPayloadError: f"cut off: the connection ended too early. Nothing was planned: {AGAIN}",
    ValueError: "not a valid address: check host and port",
    Exception: f"the connection broke ({{reason}}): {AGAIN}",
}
"""What to do, by the first kind of error that fits."""


def _reason(error: Exception) -> str:
    """What an error says, without any part of the address."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return str(getattr(error.certificate_error, "verify_message", "certificate"))
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return str(error.status)
    text = error.strerror if isinstance(error, OSError) else None
    return text or type(error).__name__


def _advice(answer: _Answered) -> str:
    status = answer.status
    if status == 200:
        return f"the server sends it with Content-Encoding {answer.encoding!r}: download the file first"
    if status in {401, 403}:
        return (
            f"the server refuses access ({status}): check the login (user and password in ~/.netrc); a "
            "signed address may have expired"
        )
    if status in {404, 410}:
        return f"there is no such file on the server ({status}): check the address"
    if status in {408, 425, 429} or status >= 500:
        return f"the server is overloaded or down ({status}): {AGAIN}"
    return f"the server answered {status} instead of the file: check the address"
