"""Looks at a server without a login: its name, its certificate, and its clock. Nothing can be executed."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx

from batchlic.carrier.http_client import COMMON_HEADERS, proxy_for, tls_context

TIMEOUT_S = 10.0
"""Seconds to wait for a connection, and for an answer."""

_PORTS = {"http": 80, "https": 443}


class ProbeFailed(Exception):
    """The server can't be reached, or its certificate is not valid. The text is the reason."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a server showed.

    `certificate_ends`: when its certificate expires; None without TLS. `clock_ahead_s`: seconds by which the
    clock of this machine is ahead of the server's; None if the answer has no usable `Date`.
    """

    certificate_ends: datetime | None
    clock_ahead_s: float | None


def addresses(url: str) -> tuple[str, list[str]]:
    """The host that this machine has to find for requests to `url`, and its addresses.

    If a proxy is set, that is the proxy: the proxy finds the server. Raises ProbeFailed.
    """
    proxy = proxy_for(httpx.URL(url))
    host, port = _host_and_port(str(proxy.address.url) if proxy else url)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ProbeFailed(f"{host}: {error.strerror}") from None
    return host, sorted({str(address[4][0]) for address in found})


def probe_carrier(base_url: str) -> Probe:
    """Send one GET to the root of the API, without credentials, and look at the answer. Raises ProbeFailed.

    The status does not matter: a server of any kind sends its certificate and, by RFC 9110, its time.
    """
    url = httpx.URL(base_url)
    proxy = proxy_for(url)
    context = tls_context() if url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    via = proxy.address if proxy else None
    timeout = httpx.Timeout(TIMEOUT_S).as_dict()
    request = httpx.Request("GET", url, headers=COMMON_HEADERS, extensions={"timeout": timeout})
    with httpx.HTTPTransport(verify=context, proxy=via, trust_env=False) as transport:
        sent_at = time.time()
        try:
            response = transport.handle_request(request)
        except httpx.RequestError as error:
            raise ProbeFailed(_reason(error)) from None
        with closing(response):
            now = (sent_at + time.time()) / 2
            connection = response.extensions["network_stream"].get_extra_info("ssl_object")
            return Probe(_end_of(connection), _clock_ahead(response.headers, now))


def probe_listener(url: str) -> Probe:
    """Connect to a listener directly, as the carrier would, and send nothing. Raises ProbeFailed."""
    host, port = _host_and_port(url)
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as plain:
            if urlsplit(url).scheme != "https":
                return Probe(None, None)
            with tls_context().wrap_socket(plain, server_hostname=host) as secure:
                return Probe(_end_of(secure), None)
    except OSError as error:
        raise ProbeFailed(_reason(error)) from None


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _PORTS[parts.scheme]


def _end_of(connection: ssl.SSLSocket | ssl.SSLObject | None) -> datetime | None:
    certificate = connection.getpeercert() if connection is not None else None
    end = certificate.get("notAfter") if certificate else None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(end), UTC) if isinstance(end, str) else None


def _clock_ahead(headers: httpx.Headers, now: float) -> float | None:
    """A time in an answer has whole seconds, so it is half a second early on average."""
    try:
        date = parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        return None
    age = headers.get("age", "0")
    if not age.isdecimal() or int(age):
        return None  # a cache has kept the answer
    return now - date.timestamp() - 0.5


def _reason(error: BaseException) -> str:
    """What the certificate's check or the system says; the outermost text if there is no other."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not valid: {cause.verify_message}"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
