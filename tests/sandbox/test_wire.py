"""Faults over TCP: the bytes on the wire."""

import json
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from batchlic.sandbox.config import Fault, LatencyConfig, SandboxConfig
from batchlic.sandbox.gateway_answers import DAMAGES, FORMS, LONG_HEADERS, Form
from tests.forking import serving
from tests.sandbox.caller import GRANT, IMEI, KEYS, LICENSES, OAUTH, device, request_body
from tests.sandbox.test_faults import SEEN
from tests.sandbox.test_server import log_in

ONE = request_body(device(IMEI))
MANY = 60
"""Requests that meet every form of a fault."""


class Connection:
    """A kept-alive connection that shows the bytes of each answer."""

    def __init__(self, http: httpx.Client, headers: dict[str, str]) -> None:
        self._socket = socket.create_connection((http.base_url.host, http.base_url.port or 0), timeout=10)
        self.headers = headers
        self._received = b""

    def close(self) -> None:
        self._socket.close()

    def assign(self, transaction: str = "1-0001") -> bytes:
        """Assign once; return the answer: empty if the server closes or resets the connection."""
        body = json.dumps(ONE).encode()
        headers = self.headers | {
            "Host": "127.0.0.1",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "X-Request-ID": transaction,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._socket.sendall(f"POST /api{LICENSES} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        return self.answer()

    def answer(self) -> bytes:
        """The next answer on the connection."""
        while (length := self._length_of_answer()) is None:
            try:
                received = self._socket.recv(65536)
            except ConnectionResetError:
                return b""
            if not received:
                return b""
            self._received += received
        answer, self._received = self._received[:length], self._received[length:]
        return answer

    def wait_for_bytes(self) -> None:
        """Wait until bytes have arrived, and leave them unread."""
        assert select.select([self._socket], [], [], 10)[0]

    def _length_of_answer(self) -> int | None:
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return None
        lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
        length = int(lengths[0])
        return None if len(body) < length else len(head) + 4 + length


def status_of(answer: bytes) -> int:
    return int(answer.split()[1])


def headers_of(answer: bytes) -> list[tuple[bytes, bytes]]:
    lines = answer.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]


def body_of(answer: bytes) -> bytes:
    return answer.split(b"\r\n\r\n", 1)[1]


@contextmanager
def faulty(faults: dict[Fault, float], *, outage_s: float = 2.0) -> Iterator[tuple[httpx.Client, Connection]]:
    """A client and a connection to a sandbox with faults; both are logged in."""
    config = SandboxConfig(faults=faults, latency=LatencyConfig(outage_s=outage_s))
    with serving(config) as url, httpx.Client(base_url=url, trust_env=False) as http:
        connection = Connection(http, log_in(http))
        try:
            yield http, connection
        finally:
            connection.close()


def totals(http: httpx.Client) -> dict[str, object]:
    return dict(http.get(http.base_url.join("/sandbox/totals")).json())


def is_form(form: Form) -> Callable[[bytes], bool]:
    """Whether an answer has exactly the status, the body and the headers of a form."""
    expected = {(name.encode(), value.encode()) for name, value in form.headers.items()}
    return lambda answer: (
        (status_of(answer), body_of(answer)) == (form.status, form.body)
        and expected <= set(headers_of(answer))
        and f"content-type: {form.media_type}".encode() in answer
    )


REFUSING = [
    Fault.GATEWAY_404,
    Fault.THROTTLED_403,
    Fault.REFUSING_503,
    Fault.SESSION_FLAP,
    Fault.LOST_UPSTREAM_503,
]


@pytest.mark.parametrize("fault", REFUSING)
def test_every_form_of_a_gateway_is_on_the_wire(fault: Fault) -> None:
    with faulty({fault: 1.0}, outage_s=0) as (http, connection):
        answers = [connection.assign() for _ in range(MANY)]
        seen = totals(http)
    for form in FORMS[fault]:
        assert any(map(is_form(form), answers)), form
    assert seen["requests"] == {fault: MANY}
    assert seen["executions"] == (MANY if SEEN[fault][0] else 0)


def test_a_stale_answer_is_the_same_bytes_once_more_on_the_connection() -> None:
    with faulty({Fault.STALE_ANSWER: 1.0}) as (http, connection):
        first = connection.assign()
        assert connection.answer() == first
        assert connection.assign() != first
        assert totals(http)["executions"] == 2


def test_a_caller_that_ignores_unread_bytes_is_one_answer_behind() -> None:
    with faulty({Fault.STALE_ANSWER: 1.0}) as (http, connection):
        first = connection.assign()
        connection.wait_for_bytes()
        assert connection.assign() == first
        assert totals(http)["executions"] == 2
        assert connection.answer() != first


def test_a_cached_answer_is_the_first_one_with_age_and_x_cache() -> None:
    with faulty({Fault.CACHED_ANSWER: 1.0}) as (http, connection):
        first, cached = connection.assign("1-0001"), connection.assign("1-0002")
        assert totals(http)["executions"] == 1
    assert body_of(cached) == body_of(first)
    assert {(b"age", b"1"), (b"x-cache", b"HIT")} <= set(headers_of(cached))


def test_a_lost_request_is_refused_as_a_duplicate_on_other_connections() -> None:
    with faulty({Fault.DUPLICATE_REFUSED: 1.0}) as (http, connection):
        assert connection.assign() == b""
        again = Connection(http, log_in(http))
        refused = again.assign()
        again.close()
        assert totals(http)["executions"] == 1
    assert any(is_form(form)(refused) for form in FORMS[Fault.DUPLICATE_REFUSED])


def test_long_headers_are_sent_whole() -> None:
    with faulty({Fault.LONG_HEADER: 1.0}) as (http, connection):
        answers = [connection.assign() for _ in range(MANY)]
        assert totals(http)["executions"] == MANY
    for headers in LONG_HEADERS:
        expected = {(name.encode(), value.encode()) for name, value in headers}
        assert any(expected <= set(headers_of(answer)) for answer in answers)


def test_damaged_json_is_sent_with_its_length() -> None:
    with faulty({Fault.DAMAGED_JSON: 1.0}) as (http, connection):
        bodies = {body_of(connection.assign()) for _ in range(MANY)}
        assert totals(http)["executions"] == MANY
    ids = {body: body.split(b'"requestId":"')[1].split(b'"')[0] for body in bodies}
    damaged = {body.replace(request_id, b"ID") for body, request_id in ids.items()}
    assert damaged == {damage(b'{"requestId":"ID"}') for damage in DAMAGES}


def test_odd_waits_are_asked_for_in_headers_as_they_are() -> None:
    with faulty({Fault.ODD_RETRY_AFTER: 1.0}) as (http, connection):
        answers = [connection.assign() for _ in range(2 * MANY)]
        assert totals(http)["executions"] == 0
    assert {status_of(answer) for answer in answers} == {429}
    waits = {tuple(v for n, v in headers_of(answer) if n == b"retry-after") for answer in answers}
    assert {(b"2s",), (b"+2",), (b'"2"',), (b"2, 1",), (b"2", b"1"), (b"1", b"2"), ()} <= waits
    assert len(waits) >= 10


@pytest.mark.slow
def test_an_expired_token_is_reported_in_xml_html_and_text() -> None:
    with faulty({Fault.AUTH_XML: 1.0}) as (http, connection):
        answers = []
        for _ in range(MANY):
            answers.append(connection.assign())
            connection.headers = log_in(http)
    for form in FORMS[Fault.AUTH_XML]:
        assert any(map(is_form(form), answers)), form


def test_a_login_is_throttled_with_403_and_retry_after() -> None:
    with serving(SandboxConfig(faults={Fault.LOGIN_403: 1.0})) as url:
        login = httpx.post(url + OAUTH, data=GRANT, auth=KEYS, trust_env=False)
    assert (login.status_code, login.headers["retry-after"]) == (403, "1")
