"""A server is looked at without a login: its certificate and its clock."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from socket import SHUT_RDWR, create_server, socket

import pytest
import trustme

from batchlic.carrier.probe import Probe, ProbeFailed, addresses, probe_carrier, probe_listener


@contextmanager
def server(*headers: str, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server on loopback that answers 404 with these headers; the host and port."""
    with create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    plain, _ = listening.accept()
                    with suppress(OSError), _secured(plain, context) as stream:
                        if stream.recv(4096):
                            head = ("HTTP/1.1 404 Words", "Content-Length: 0", *headers, "", "")
                            stream.sendall("\r\n".join(head).encode())

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(SHUT_RDWR)  # closing alone leaves the port open while a thread waits


def _secured(plain: socket, context: ssl.SSLContext | None) -> socket:
    """The connection; with a context, its handshake comes with the first byte that is read."""
    if context is None:
        return plain
    return context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


def context_of(authority: trustme.CA, *, days: float = 5, name: str = "127.0.0.1") -> ssl.SSLContext:
    """The context of a server whose certificate is valid for so many days from now."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    now = datetime.now(UTC)
    certificate = authority.issue_cert(
        name, not_before=now - timedelta(days=30), not_after=now + timedelta(days=days)
    )
    certificate.configure_cert(context)
    return context


@pytest.mark.parametrize("ahead", [-4000, -1, 0, 90, 86_400])
def test_the_clock_is_compared_with_the_date_of_an_answer(ahead: int) -> None:
    date = format_datetime(datetime.now(UTC) - timedelta(seconds=ahead), usegmt=True)
    with server(f"Date: {date}") as place:
        found = probe_carrier(f"http://{place}/api")
    assert found.clock_ahead_s == pytest.approx(ahead, abs=2)
    assert found.certificate_ends is None


@pytest.mark.parametrize("headers", [(), ("Date: yesterday",), ("Date: {now}", "Age: 300")])
def test_a_date_that_is_missing_odd_or_old_says_nothing(headers: tuple[str, ...]) -> None:
    now = format_datetime(datetime.now(UTC), usegmt=True)
    with server(*(header.format(now=now) for header in headers)) as place:
        assert probe_carrier(f"http://{place}/api").clock_ahead_s is None


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("probe", [probe_carrier, probe_listener])
def test_the_end_of_a_valid_certificate_is_known(
    probe: Callable[[str], Probe], authority: trustme.CA
) -> None:
    with server(context=context_of(authority, days=5)) as place:
        found = probe(f"https://{place}/")
    assert found.certificate_ends is not None
    assert timedelta(days=4) < found.certificate_ends - datetime.now(UTC) < timedelta(days=6)


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    ("changes", "reason"), [({"days": -1}, "has expired"), ({"name": "other.test"}, "mismatch")]
)
@pytest.mark.parametrize("probe", [probe_carrier, probe_listener])
def test_a_certificate_that_is_not_valid_is_the_reason(
    probe: Callable[[str], Probe], changes: dict[str, object], reason: str, authority: trustme.CA
) -> None:
    context = context_of(authority, **changes)  # type: ignore[arg-type]
    with server(context=context) as place, pytest.raises(ProbeFailed, match=f"certificate .*{reason}"):
        probe(f"https://{place}/")


def test_a_port_that_nobody_listens_on_is_named_as_such() -> None:
    for probe in (probe_carrier, probe_listener):
        with pytest.raises(ProbeFailed, match="refused"):
            probe("http://127.0.0.1:9/")


def test_a_proxy_is_the_host_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.2:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert addresses("https://carrier.test/api") == ("127.0.0.2", ["127.0.0.2"])
    assert addresses("http://127.0.0.1:1/api") == ("127.0.0.1", ["127.0.0.1"])
