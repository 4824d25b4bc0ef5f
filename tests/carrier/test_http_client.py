"""Credentials are sent over verified TLS only, through the proxy and authorities of the environment."""

import os
import re
import resource
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import anyio.abc
import pytest
import trustme
from anyio.streams.tls import TLSListener

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.client import open_client
from batchlic.carrier.http_client import KEEPALIVE_S, Timeouts
from batchlic.errors import CredentialsRejected, UsageError
from tests.carrier.script import (
    KEYS,
    TOKENS,
    Exchange,
    ScriptedCarrier,
    client_of,
    submission,
    take,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


@asynccontextmanager
async def over_tls(authority: trustme.CA, name: str) -> AsyncIterator[tuple[ScriptedCarrier, int]]:
    """A scripted carrier with a certificate for `name`, and its port on 127.0.0.1."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    carrier = ScriptedCarrier(take)
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as plain,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(TLSListener(plain, context, standard_compatible=False).serve, carrier.serve)
        yield carrier, plain.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django
        tasks.cancel_scope.cancel()


class Proxy:
    """A CONNECT proxy that takes everything to one port of this machine, or answers `refusal`."""

    def __init__(self, target: int, refusal: bytes = b"") -> None:
        self.target, self.refusal = target, refusal
        self.heads: list[str] = []

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            self.heads.append((await stream.receive()).decode())
            if self.refusal:
                await stream.send(self.refusal)
                return
            await stream.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with (
                await anyio.connect_tcp("127.0.0.1", self.target) as onward,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(_pipe, stream, onward)
                await _pipe(onward, stream)
                tasks.cancel_scope.cancel()


async def _pipe(source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream) -> None:
    try:
        async for data in source:
            await sink.send(data)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return


@asynccontextmanager
async def proxied(proxy: Proxy) -> AsyncIterator[int]:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, proxy.serve)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django
        tasks.cancel_scope.cancel()


async def submit_to(url: str) -> Answer:
    async with open_client(url, TOKENS, timeouts=Timeouts(connect=5, exchange=5)) as client:
        return await client.submit(submission())


@pytest.mark.usefixtures("trusted")
async def test_the_authorities_of_the_environment_are_trusted(authority: trustme.CA) -> None:
    async with over_tls(authority, "127.0.0.1") as (_, port):
        assert (await submit_to(f"https://127.0.0.1:{port}")).outcome is Outcome.ACCEPTED


async def test_nothing_is_sent_to_a_server_with_an_untrusted_certificate(authority: trustme.CA) -> None:
    async with over_tls(authority, "127.0.0.1") as (carrier, port):
        answer = await submit_to(f"https://127.0.0.1:{port}")
    assert answer.outcome is Outcome.UNAVAILABLE
    assert carrier.requests == []


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})])
async def test_many_submissions_share_one_encrypted_connection(authority: trustme.CA) -> None:
    async with over_tls(authority, "127.0.0.1") as (carrier, port):
        async with open_client(f"https://127.0.0.1:{port}", TOKENS) as client:
            for _ in range(20):
                assert (await client.submit(submission())).outcome is Outcome.ACCEPTED
        assert carrier.connections == 1


@pytest.mark.usefixtures("trusted")
async def test_nothing_is_sent_to_a_server_with_a_wrong_name(authority: trustme.CA) -> None:
    async with over_tls(authority, "other.test") as (carrier, port):
        answer = await submit_to(f"https://127.0.0.1:{port}")
    assert answer.outcome is Outcome.UNAVAILABLE
    assert carrier.requests == []


async def test_a_missing_ca_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        await submit_to("https://carrier.test")


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_the_proxy_of_the_environment_is_used_and_sees_no_token(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    async with over_tls(authority, "carrier.test") as (carrier, port):
        proxy = Proxy(port)
        async with proxied(proxy) as proxy_port:
            monkeypatch.setenv(variable, f"http://robot:planted%40pass@127.0.0.1:{proxy_port}")
            answer = await submit_to("https://carrier.test")
    assert answer.outcome is Outcome.ACCEPTED
    assert len(carrier.requests) == 1
    (head,) = proxy.heads
    assert head.startswith("CONNECT carrier.test:443")
    assert f"basic {b64encode(b'robot:planted@pass').decode()}".lower() in head.lower()
    assert "planted-access" not in head


@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"502 Bad Gateway", b"200"])
async def test_a_proxy_that_does_not_connect_leaves_no_doubt(
    monkeypatch: pytest.MonkeyPatch, status: bytes
) -> None:
    proxy = Proxy(0, b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
    async with proxied(proxy) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://robot:planted@127.0.0.1:{port}")
        answer = await submit_to("https://carrier.test")
    assert answer.outcome is Outcome.UNAVAILABLE
    assert "planted" not in repr(answer)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # httpcore keeps no headers of such an answer
@pytest.mark.parametrize("status", [b"429 Too Many Requests", b"503 Busy"])
async def test_j_a_wait_that_a_proxy_asks_for_is_read(monkeypatch: pytest.MonkeyPatch, status: bytes) -> None:
    proxy = Proxy(0, b"HTTP/1.1 " + status + b"\r\nRetry-After: 6\r\nContent-Length: 0\r\n\r\n")
    async with proxied(proxy) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        answer = await submit_to("https://carrier.test")
    assert (answer.outcome, answer.retry_after_s) == (Outcome.UNAVAILABLE, 6)


@contextmanager
def through(
    port: int, login: str, monkeypatch: pytest.MonkeyPatch, variable: str = "HTTPS_PROXY"
) -> Iterator[str]:
    """Use the proxy at a port of this machine; what its setting is called in messages."""
    with monkeypatch.context() as patch:
        patch.setenv(variable, f"http://{login}127.0.0.1:{port}")
        yield f"the proxy 127.0.0.1:{port} ({variable})"


REQUIRES_LOGIN = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("login", ["", "robot:planted%40pass@"])
async def test_a_proxy_that_wants_another_login_is_named(
    monkeypatch: pytest.MonkeyPatch, login: str, variable: str
) -> None:
    async with proxied(Proxy(0, REQUIRES_LOGIN)) as port:
        with through(port, login, monkeypatch, variable) as name:
            answer = await submit_to("https://carrier.test")
    assert (answer.outcome, answer.http_status) == (Outcome.UNAVAILABLE, 407)
    assert answer.error_message is not None
    assert answer.error_message.startswith(f"{name} {'rejects' if login else 'requires'}")
    assert "planted" not in answer.error_message


async def test_a_login_through_a_proxy_that_rejects_it_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy(0, REQUIRES_LOGIN)
    async with proxied(proxy) as port:
        with through(port, "robot:planted@", monkeypatch) as name:
            async with open_client("https://carrier.test", KEYS) as client:
                for _ in range(3):
                    with pytest.raises(CredentialsRejected, match=re.escape(name)):
                        await client.login()
    assert len(proxy.heads) == 1


async def test_a_question_through_a_proxy_that_rejects_the_login_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with proxied(Proxy(0, REQUIRES_LOGIN)) as port:
        with through(port, "", monkeypatch):
            async with open_client("https://carrier.test", TOKENS) as client:
                with pytest.raises(CredentialsRejected, match="HTTPS_PROXY"):
                    await client.subscriptions("0000123456-00001")


async def test_a_407_that_comes_as_an_answer_names_the_setting() -> None:
    async def require_login(exchange: Exchange) -> None:
        await exchange.raw(REQUIRES_LOGIN)

    async with client_of(require_login) as (client, _):
        answer = await client.submit(submission())
    assert (answer.outcome, answer.http_status) == (Outcome.UNAVAILABLE, 407)
    assert "HTTPS_PROXY" in (answer.error_message or "")


async def test_a_proxy_that_does_not_reach_the_carrier_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxied(Proxy(0, b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")) as port:
        with through(port, "", monkeypatch) as name:
            answer = await submit_to("https://carrier.test")
    assert (answer.outcome, answer.http_status) == (Outcome.UNAVAILABLE, None)
    assert answer.error_message == f"{name} does not connect to the carrier: 502 Bad Gateway"


@contextmanager
def without_descriptors() -> Iterator[None]:
    """Leave no descriptor to this process."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, limits[0]), limits[1]))
    held: list[int] = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_too_many_open_files_are_named_and_leave_no_doubt(host: str) -> None:
    async with open_client(f"http://{host}:9", TOKENS) as client:
        with without_descriptors():
            answer = await client.submit(submission())
    assert answer.outcome is Outcome.UNAVAILABLE
    assert answer.error_message is not None
    assert answer.error_message.startswith("too many open files: raise the limit (ulimit -n)")


@pytest.mark.usefixtures("trusted")
async def test_loopback_addresses_are_reached_without_a_proxy(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with over_tls(authority, "127.0.0.1") as (_, port):
        assert (await submit_to(f"https://127.0.0.1:{port}")).outcome is Outcome.ACCEPTED


async def test_a_host_in_no_proxy_is_reached_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    proxy = Proxy(0)
    monkeypatch.setenv("NO_PROXY", "carrier.test")
    async with proxied(proxy) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(socket, "getaddrinfo", nobody)
        assert (await submit_to("https://carrier.test")).outcome is Outcome.UNAVAILABLE
    assert proxy.heads == []


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("http://carrier.test/api", "unencrypted"),
        ("http://localhost.carrier.test", "unencrypted"),
        ("ftp://127.0.0.1", "https://host/path"),
        ("carrier.test/api", "https://host/path"),
        ("", "https://host/path"),
        ("https://user:planted@carrier.test", "https://host/path"),
        ("https://carrier.test/api?x=1", "https://host/path"),
        ("https://carrier.test:port", "BATCHLIC_BASE_URL"),
    ],
)
async def test_a_base_url_that_would_expose_credentials_is_refused(url: str, match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        await submit_to(url)
    assert "planted" not in str(caught.value)


async def test_a_socks_proxy_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(UsageError, match="socks5"):
        await submit_to("https://carrier.test")


def test_an_idle_connection_is_dropped_before_common_servers_drop_it() -> None:
    assert KEEPALIVE_S < 5
