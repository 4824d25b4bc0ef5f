"""The outcome of every kind of response, row by row, over a real socket (promise D)."""

import gzip
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
import msgspec
import pytest

from batchlic.carrier.answers import Answer, Blame, Outcome, TokenKind
from batchlic.carrier.catalog import Action
from batchlic.carrier.client import open_client
from batchlic.carrier.http_client import Timeouts
from batchlic.carrier.rate_limits import Quota
from tests.carrier.script import (
    GUID,
    IMEIS,
    TOKENS,
    Exchange,
    Script,
    client_of,
    response,
    scripted,
    submission,
)

pytestmark = pytest.mark.anyio

PAGE = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
SHORT = Timeouts(connect=0.2, exchange=0.2)


@dataclass(frozen=True)
class Row:
    """What the carrier does with a request, and what that means."""

    name: str
    script: Script
    outcome: Outcome
    blame: Blame | None = None
    rejected: TokenKind | None = None
    timeouts: Timeouts | None = None


def says(status: int, body: object = b"", *headers: str) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.say(status, body, *headers)

    return script


def sends(data: bytes) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.raw(data)
        await exchange.stream.aclose()

    return script


def hangs_after(data: bytes) -> Script:
    async def script(exchange: Exchange) -> None:
        if data:
            await exchange.raw(data)
        await anyio.sleep_forever()

    return script


async def resets(exchange: Exchange) -> None:
    await exchange.reset()


def cut(status: int, body: object) -> Script:
    return sends(response(status, body)[:-5])


def platform(code: str) -> dict[str, str]:
    return {"errorCode": f"UnifiedWebService.{code}", "errorMessage": "words that may change"}


def licenses(code: int) -> dict[str, str]:
    return {"errorCode": str(code), "errorMessage": "words", "errorUrl": "https://carrier.test/errors"}


def gateway(code: int) -> dict[str, object]:
    return {"fault": {"code": str(code), "message": "words", "description": "more words"}}


TAKEN: dict[str, object] = {"requestId": GUID}
FINE: Sequence[dict[str, object]] = (
    {"errorCode": None, "errorMessage": None},
    {"errorCode": "0", "errorMessage": "Request accepted"},
    {"errors": [], "fault": {}},
    {"status": "Success", "code": 200},
    {"status": 202, "success": True},
    {"status": "Pending", "code": 0, "message": "queued"},
    {"accountName": "0000123456-00001", "eta": 3.5},
    {"fault": {"code": None, "message": None, "description": None}},
    {"error": {"code": 0, "message": ""}},
    {"errors": [None, {}], "faultResponse": {"faultcode": "0", "faultstring": "Success"}},
    {"errorCode": "0000", "errorMessage": "N/A"},
    {"errorCode": "SUCCESS", "errorMessage": "words"},
    {"errorMessage": "Request accepted successfully"},
    {"errorMessage": "No error"},
    {"failedDevices": [], "failedCount": 0, "failures": None, "status": "Accepted"},
    {"message": "Failed devices are reported by callback", "results": [{"status": "Accepted", "code": 0}]},
    {"results": [{"status": 200, "errorCode": None, "success": True}]},
    {"errors": "[]", "error": "{}"},
    {"message": "Failed: 0, accepted: 3"},
    {"message": "Rejected: 0; accepted: 3"},
    {"message": "Rejected: 0. See INPUT_INVALID.SessionToken.Invalid"},
    {"message": "Request rejected: 0, request accepted: 3"},
    {"message": "Failed (0), accepted (3)"},
    {"message": "Invalid: 0, valid: 3"},
    {"message": "Error: none"},
    {"message": "Not processed, queued"},
    {"message": "Rejected, failed and accepted devices are reported by callback"},
    {"message": "Partial failures are reported by callback"},
    {"message": "Partial success is reported by callback"},
    {"message": "Request accepted. Partially processed requests are reported by callback."},
    {"status": "No partial failures"},
    {"failed": 0.0, "rejected": "no", "failedDevices": "[]", "invalid": False},
    {"failedDevices": "{}", "failures": "No failures"},
    {"failedDevices": {"total": 3, "failed": 0}, "failures": [None, {}, []]},
    {"failureReason": "-", "failureMessage": "No error", "failureCode": "200"},
    {"failureReason": "Success"},
    {"retryPolicy": {"failureCount": 4}},
    {"_links": {"errors": {"href": "/x"}}, "links": {"failed": "/x"}},
    {"data": {"code": "123456", "order": {"status": "Failed"}}, "events": [{"status": "Failed"}]},
    {"history": [{"id": "earlier-request", "status": "Failed"}]},
    {"errorCode": None, "errorMessage": "Your request is being processed"},
)
PARTLY: Sequence[dict[str, object]] = (
    {"status": "PartialFailure"},
    {"status": "Partially accepted"},
    {"result": "PARTIAL_SUCCESS"},
    {"message": "Batch partially processed"},
    {"failedDevices": [{"id": IMEIS[0], "kind": "IMEI"}]},
    {"failed_device_ids": [IMEIS[0]]},
    {"failedCount": 200},
    {"numberOfFailedDevices": "3"},
    {"results": [{"id": IMEIS[0], "errorCode": "429"}]},
    {"results": [{"id": IMEIS[0], "errorCode": "INPUT_INVALID.DeviceState.Invalid"}, {"status": "Success"}]},
    {"devices": [{"id": IMEIS[0], "Status": "Rejected"}]},
    {"data": {"devices": [{"id": IMEIS[0], "success": False}]}},
    {"responses": [{"statusCode": 404}, {"statusCode": 200}]},
    {"devices": [{"id": IMEIS[0], "errorMessage": "Device not found"}]},
    {"lines": [{"deviceId": IMEIS[0], "accepted": False}, {"id": IMEIS[1], "accepted": True}]},
    {"lines": [{"id": IMEIS[0], "status": "Failed"}]},
    {"message": "Request partially accepted: 97 of 100"},
    {"data": {"status": "PartialFailure"}},
    {"failedDevices": {"total": 3, "failed": 1}},
    {"failureReason": "Device not active"},
)
FAILURES: Sequence[dict[str, object]] = (
    {"errorMessage": "could not queue"},
    {"errorMessage": "Request not processed"},
    {"error": "internal"},
    {"errors": [{"errorMessage": "words"}]},
    {"Fault": {"code": "101504"}},
    {"faultResponse": {"faultcode": "REQUEST_FAILED.X"}},
    {"success": False},
    {"status": "FAILED"},
    {"Status": "Rejected"},
    {"result": "error"},
    {"statusCode": 502},
    {"code": "500"},
    {"status": "Unsuccessful"},
    {"status": "NotAccepted"},
    {"state": "INVALID"},
    {"status": "Throttled"},
    {"message": "Request rejected"},
    {"message": "The request was not accepted: try later"},
    {"fault": {"code": "0", "message": "Device not active"}},
    {"errorMessage": "Not accepted"},
    {"errorCode": None, "errorMessage": "Device not active"},
    {"errorMessage": "Successfully processed 40 of 100 devices"},
    {"message": "Request rejected: no license is left"},
    {"message": "Your request could not be processed"},
    {"message": "Rejected."},
    {"data": {"success": False, "message": "words"}},
    {"result": {"status": "FAILED"}},
    {"response": {"status": 500}},
)
NESTED = b"[" * 60_000
HUGE = b'{"requestId":"' + GUID.encode() + b'","x":"' + b"y" * 100_000 + b'"}'

ACCEPTED = [
    Row("200 with a requestId", says(200, TAKEN), Outcome.ACCEPTED),
    Row("202 with a requestId", says(202, TAKEN), Outcome.ACCEPTED),
    *(Row(f"200 with a requestId and {more}", says(200, TAKEN | more), Outcome.ACCEPTED) for more in FINE),
    Row("200 with fields of a later release", says(200, TAKEN | {"new": [1]}), Outcome.ACCEPTED),
    Row(
        "200 compressed unasked",
        says(200, gzip.compress(msgspec.json.encode(TAKEN)), "Content-Encoding: gzip"),
        Outcome.ACCEPTED,
    ),
    Row(
        "200 in chunks",
        sends(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b'5\r\n{"req\r\n32\r\nuestId":"' + GUID.encode() + b'"   }\r\n0\r\n\r\n'
        ),
        Outcome.ACCEPTED,
    ),
]
IN_DOUBT = [
    Row("200 with nothing", says(200), Outcome.AMBIGUOUS),
    Row("204", sends(b"HTTP/1.1 204 No Content\r\n\r\n"), Outcome.AMBIGUOUS),
    Row("200 with a page", says(200, PAGE), Outcome.AMBIGUOUS),
    Row("200 without a requestId", says(200, {"accountName": "1"}), Outcome.AMBIGUOUS),
    Row("200 with a number for a requestId", says(200, {"requestId": 7}), Outcome.AMBIGUOUS),
    Row("200 with an empty requestId", says(200, {"requestId": ""}), Outcome.AMBIGUOUS),
    Row("200 with a requestId of many lines", says(200, {"requestId": "a\nb"}), Outcome.AMBIGUOUS),
    Row("200 with a device's error", says(200, platform("REQUEST_FAILED.DeviceNotFound")), Outcome.AMBIGUOUS),
    Row("200 that is not UTF-8", says(200, b'{"requestId":"\xff"}'), Outcome.AMBIGUOUS),
    Row("200 nested too deep", says(200, NESTED), Outcome.AMBIGUOUS),
    Row("200 too long to read", says(200, HUGE), Outcome.AMBIGUOUS),
    Row(
        "200 followed by more than is read",
        says(200, msgspec.json.encode(TAKEN) + b" " * 100_000),
        Outcome.AMBIGUOUS,
    ),
    Row("200 cut short", cut(200, TAKEN), Outcome.AMBIGUOUS),
    Row(
        "200 with a broken chunk",
        sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        Outcome.AMBIGUOUS,
    ),
    Row(
        "200 whose compression is broken",
        says(200, b"no gzip at all", "Content-Encoding: gzip"),
        Outcome.AMBIGUOUS,
    ),
    Row(
        "200 that hangs in its body",
        hangs_after(response(200, TAKEN)[:-5]),
        Outcome.AMBIGUOUS,
        timeouts=SHORT,
    ),
    Row("a reset after the request", resets, Outcome.AMBIGUOUS),
    Row("a close after the request", sends(b""), Outcome.AMBIGUOUS),
    Row("a close within the status line", sends(b"HTTP/1.1 20"), Outcome.AMBIGUOUS),
    Row("a close within the headers", sends(b"HTTP/1.1 200 OK\r\nContent-Le"), Outcome.AMBIGUOUS),
    Row("words that are no HTTP", sends(b"220 smtp.carrier.test ESMTP\r\n"), Outcome.AMBIGUOUS),
    Row("silence after the request", hangs_after(b""), Outcome.AMBIGUOUS, timeouts=SHORT),
    *(
        Row(f"{status} with a page", says(status, PAGE), Outcome.AMBIGUOUS)
        for status in (500, 502, 503, 504, 599)
    ),
    Row("503 with nothing", says(503), Outcome.AMBIGUOUS),
    Row("503 cut short", cut(503, PAGE), Outcome.AMBIGUOUS),
    Row("503 of the licenses", says(503, licenses(503)), Outcome.AMBIGUOUS),
    Row("409 that does not say of what", says(409, {"message": "Conflict"}), Outcome.AMBIGUOUS),
    Row("400 with a server error in it", says(400, licenses(500)), Outcome.AMBIGUOUS),
    Row("400 on hold", says(400, platform("REQUEST_ONHOLD.Pending")), Outcome.AMBIGUOUS),
    Row(
        "200 with a requestId and an error",
        says(200, TAKEN | {"errorCode": "400", "errorMessage": "words"}),
        Outcome.AMBIGUOUS,
    ),
    *(
        Row(f"200 with a requestId and {error}", says(200, TAKEN | error), Outcome.AMBIGUOUS)
        for error in FAILURES
    ),
    Row(
        "500 with the carrier's error",
        says(500, platform("REQUEST_FAILED.UnexpectedError")),
        Outcome.AMBIGUOUS,
    ),
    Row("500 with a device's error", says(500, platform("REQUEST_FAILED.DeviceNotFound")), Outcome.AMBIGUOUS),
    Row("303 after the execution", says(303, b"", "Location: /done"), Outcome.AMBIGUOUS),
    Row("304", sends(b"HTTP/1.1 304 Not Modified\r\n\r\n"), Outcome.AMBIGUOUS),
]
NOT_EXECUTED = [
    Row("503 of a gateway without a service", says(503, b"no healthy upstream"), Outcome.UNAVAILABLE),
    Row("503 with nothing but a wait", says(503, b"", "Retry-After: 2"), Outcome.UNAVAILABLE),
    Row("511 of a network's login page", says(511, PAGE), Outcome.UNAVAILABLE),
    *(
        Row(f"{status}, not followed", says(status, b"", "Location: /"), Outcome.UNAVAILABLE)
        for status in (301, 302, 307, 308)
    ),
    Row("407", says(407, PAGE), Outcome.UNAVAILABLE),
    Row("408", says(408), Outcome.UNAVAILABLE),
    *(
        Row(f"{status} with a proxy's page", says(status, PAGE), Outcome.UNAVAILABLE)
        for status in (400, 402, 403, 404, 405, 415, 422)
    ),
    *(Row(f"{status} with nothing", says(status), Outcome.UNAVAILABLE) for status in (400, 403, 404, 422)),
    Row("403 with a page cut short", cut(403, PAGE), Outcome.UNAVAILABLE),
    Row("404 with a load balancer's words", says(404, b"default backend - 404"), Outcome.UNAVAILABLE),
    Row(
        "404 without a route",
        says(404, {"message": "no Route matched with those values"}),
        Outcome.UNAVAILABLE,
    ),
    Row("404 of a gateway's server", says(404, gateway(404)), Outcome.UNAVAILABLE),
    *(
        Row(f"gateway 900906 at {status}", says(status, gateway(900906)), Outcome.UNAVAILABLE)
        for status in (400, 403, 404)
    ),
    Row(
        "403 of a gateway without a route",
        says(
            403,
            {"message": "Missing Authentication Token"},
            "x-amzn-ErrorType: MissingAuthenticationTokenException",
        ),
        Outcome.UNAVAILABLE,
    ),
    Row(
        "403 as XML", says(403, b"<fault><code>403</code><message>no</message></fault>"), Outcome.UNAVAILABLE
    ),
    Row("400 with a list", says(400, [1, 2]), Outcome.UNAVAILABLE),
    Row(
        "400 with wrong types",
        says(400, {"errorCode": {"a": 1}, "errorMessage": 7, "fault": []}),
        Outcome.UNAVAILABLE,
    ),
    Row(
        "400 too long to read, without a code",
        says(400, b'{"errorMessage":"' + b"y" * 100_000 + b'"}'),
        Outcome.UNAVAILABLE,
    ),
]
THROTTLED = [
    Row("429 with the carrier's error", says(429, licenses(429)), Outcome.THROTTLED),
    Row("429 with nothing", says(429), Outcome.THROTTLED),
    Row("420", says(420, {"message": "words"}), Outcome.THROTTLED),
    *(
        Row(f"429 in the body of a {status}", says(status, licenses(429)), Outcome.THROTTLED)
        for status in (200, 400, 403, 500, 503)
    ),
    Row("429 in the body as a number", says(400, {"errorCode": 429}), Outcome.THROTTLED),
    Row("429 with a page", says(429, PAGE), Outcome.THROTTLED),
    Row("429 cut short", cut(429, licenses(429)), Outcome.THROTTLED),
    Row(
        "429 that hangs in its body",
        hangs_after(response(429, licenses(429))[:-5]),
        Outcome.THROTTLED,
        timeouts=SHORT,
    ),
    *(
        Row(f"gateway {code} at {status}", says(status, gateway(code)), Outcome.THROTTLED)
        for code, status in (
            (900800, 429),
            (900801, 503),
            (900802, 400),
            (900803, 401),
            (900804, 403),
            (900805, 500),
            (900806, 200),
            (900807, 429),
        )
    ),
]
UNAUTHORIZED = [
    *(
        Row(
            f"{code} at {status}",
            says(status, platform(code)),
            Outcome.UNAUTHORIZED,
            rejected=TokenKind.SESSION,
        )
        for code in (
            "REQUEST_FAILED.SessionToken.Expired",
            "INPUT_INVALID.SessionToken.Invalid",
            "REQUEST_FAILED.SessionToken.Format",
        )
        for status in (400, 401, 403)
    ),
    *(
        Row(f"gateway {code}", says(401, gateway(code)), Outcome.UNAUTHORIZED, rejected=TokenKind.ACCESS)
        for code in (900901, 900902, 900903)
    ),
    Row(
        "gateway 900901 without the fault around it",
        says(401, gateway(900901)["fault"]),
        Outcome.UNAUTHORIZED,
        rejected=TokenKind.ACCESS,
    ),
    Row(
        "gateway 900901 as a number",
        says(401, {"fault": {"code": 900901}}),
        Outcome.UNAUTHORIZED,
        rejected=TokenKind.ACCESS,
    ),
    Row(
        "401 that does not say which token",
        says(401, licenses(401)),
        Outcome.UNAUTHORIZED,
        rejected=TokenKind.EITHER,
    ),
    Row("401 with nothing", says(401), Outcome.UNAUTHORIZED, rejected=TokenKind.EITHER),
    *(
        Row(f"{status} with nothing", says(status), Outcome.UNAUTHORIZED, rejected=TokenKind.EITHER)
        for status in (419, 440, 498)
    ),
    Row("401 with a proxy's page", says(401, PAGE), Outcome.UNAUTHORIZED, rejected=TokenKind.EITHER),
    Row(
        "401 with plain words", says(401, b"Jwt is expired"), Outcome.UNAUTHORIZED, rejected=TokenKind.ACCESS
    ),
    Row(
        "401 that names the token in a header",
        says(401, b"", 'WWW-Authenticate: Bearer error="invalid_token"'),
        Outcome.UNAUTHORIZED,
        rejected=TokenKind.ACCESS,
    ),
    *(
        Row(
            f"401 in the body of a {status}",
            says(status, licenses(401)),
            Outcome.UNAUTHORIZED,
            rejected=TokenKind.EITHER,
        )
        for status in (200, 400, 403)
    ),
    Row(
        "403 that says that the session expired",
        says(403, licenses(403) | {"errorMessage": "Session has expired"}),
        Outcome.UNAUTHORIZED,
        rejected=TokenKind.SESSION,
    ),
]
REFUSED = [
    *(
        Row(f"{code} at {status}", says(status, platform(code)), Outcome.REFUSED, blame)
        for status in (400, 404)
        for blame, codes in {
            Blame.DEVICE: (
                "INPUT_INVALID.Device.Identifier.Invalid",
                "INPUT_INVALID.Device.Kind.Invalid",
                "INPUT_INVALID.Device.Account.Invalid",
                "REQUEST_FAILED.DeviceNotFound",
                "INPUT_INVALID.DeviceState.Invalid",
            ),
            Blame.ACCOUNT: (
                "REQUEST_FAILED.AccountNotFound",
                "REQUEST_FAILED.AccountName",
                "INPUT_INVALID.Account.NotDefined",
                "REQUEST_FAILED.MultipleAccounts",
                "REQUEST_FAILED.NoAccounts",
                "INPUT_INVALID.Request.InvalidCharacter",
                "INPUT_INVALID.MaxRequestsExceeded",
                "INPUT_INVALID.SkuNumber.Invalid",
                "REQUEST_FAILED.LicenseNotAvailable",
            ),
            Blame.UNKNOWN: (
                "REQUEST_FAILED.UnexpectedError",
                "REQUEST_FAILED.SomethingNew",
                "INPUT_INVALID.NumberofDevices",
            ),
        }.items()
        for code in codes
    ),
    Row(
        "a code without a service name",
        says(400, {"errorCode": "REQUEST_FAILED.DeviceNotFound"}),
        Outcome.REFUSED,
        Blame.DEVICE,
    ),
    *(
        Row(f"{status} of the licenses", says(status, licenses(status)), Outcome.REFUSED, Blame.UNKNOWN)
        for status in (400, 404, 422)
    ),
    *(
        Row(f"{status} of the licenses", says(status, licenses(status)), Outcome.REFUSED, Blame.ACCOUNT)
        for status in (403, 405, 406)
    ),
    *(
        Row(f"gateway {code}", says(403, gateway(code)), Outcome.REFUSED, Blame.ACCOUNT)
        for code in (900907, 900908, 900910)
    ),
    *(
        Row(f"413 with {name}", says(413, body), Outcome.REFUSED, Blame.UNKNOWN)
        for name, body in {
            "a page": PAGE,
            "nothing": b"",
            "a gateway's words": {"message": "Request size limit exceeded"},
            "the licenses' error": licenses(413),
        }.items()
    ),
    Row("400 cut short", cut(400, licenses(400)), Outcome.REFUSED, Blame.UNKNOWN),
    Row(
        "400 too long to read",
        says(400, b'{"errorCode":"400","errorMessage":"' + b"y" * 100_000 + b'"}'),
        Outcome.REFUSED,
        Blame.UNKNOWN,
    ),
]
ROWS = [*ACCEPTED, *IN_DOUBT, *NOT_EXECUTED, *THROTTLED, *UNAUTHORIZED, *REFUSED]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_an_answer_has_the_outcome_in_the_table(row: Row) -> None:
    async with client_of(row.script, timeouts=row.timeouts) as (client, carrier):
        answer = await client.submit(submission())
    rejected = answer.rejected.kind if answer.rejected else None
    assert (answer.outcome, answer.blame, rejected) == (row.outcome, row.blame, row.rejected)
    assert len(carrier.requests) == 1


@pytest.mark.parametrize("status", [200, 202, 207])
@pytest.mark.parametrize("said", PARTLY, ids=str)
async def test_d_an_answer_that_leaves_out_devices_is_in_doubt(said: dict[str, object], status: int) -> None:
    answer = await answer_to(says(status, TAKEN | said))
    assert (answer.outcome, answer.is_partial, answer.request_id) == (Outcome.AMBIGUOUS, True, GUID)
    assert "not all devices were accepted" in answer.summary


@pytest.mark.parametrize("word", ["fail", "partial", "success ", "accepted", "request ", "with-"])
async def test_a_long_status_is_read_at_once(word: str) -> None:
    """With a pattern that is worse than linear, this test does not end."""
    said = {"status": f"partial{word * 2000}!", "message": f"{word * 2000}!"}
    assert (await answer_to(says(200, TAKEN | said))).request_id == GUID


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ({"code": "429"}, Outcome.THROTTLED),
        ({"status": "Throttled", "nextAccessTime": "2026-Nov-30 18:00:00+0000"}, Outcome.THROTTLED),
        ({"errorCode": "INPUT_INVALID.SessionToken.Invalid"}, Outcome.UNAUTHORIZED),
    ],
    ids=str,
)
async def test_d_beside_a_request_id_nothing_proves_that_no_license_is_taken(
    said: dict[str, object], outcome: Outcome
) -> None:
    answer = await answer_to(says(200, TAKEN | said))
    assert (answer.outcome, answer.is_inferred) == (outcome, True)


@pytest.mark.parametrize("row", IN_DOUBT, ids=lambda row: row.name)
async def test_an_unassign_in_doubt_reaches_the_carrier_once(row: Row) -> None:
    async with client_of(row.script, timeouts=row.timeouts) as (client, carrier):
        answer = await client.submit(submission(Action.UNASSIGN))
    assert answer.outcome is Outcome.AMBIGUOUS
    assert len(carrier.requests) == 1


async def submit_to(url: str, timeouts: Timeouts | None = None) -> Answer:
    async with open_client(url, TOKENS, timeouts=timeouts) as client:
        return await client.submit(submission())


async def test_a_refused_connection_leaves_no_doubt() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    answer = await submit_to(f"http://127.0.0.1:{port}")
    assert answer.outcome is Outcome.UNAVAILABLE
    assert answer.error_message


async def test_an_unknown_host_leaves_no_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    assert (await submit_to("https://carrier.test")).outcome is Outcome.UNAVAILABLE


async def test_a_server_without_tls_leaves_no_doubt() -> None:
    async def say_hello(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"220 no TLS here\r\n")

    await with_listener(say_hello, lambda port: expect_unavailable(f"https://127.0.0.1:{port}"))


async def test_a_tls_handshake_that_hangs_leaves_no_doubt() -> None:
    async def stay_silent(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    await with_listener(stay_silent, lambda port: expect_unavailable(f"https://127.0.0.1:{port}"))


async def expect_unavailable(url: str) -> None:
    assert (await submit_to(url, Timeouts(connect=0.2, exchange=30))).outcome is Outcome.UNAVAILABLE


async def with_listener(
    serve: Callable[[anyio.abc.SocketStream], Awaitable[None]], use: Callable[[int], Awaitable[None]]
) -> None:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, serve)
        await use(listener.extra(anyio.abc.SocketAttribute.local_port))  # noqa: S610 - not Django
        tasks.cancel_scope.cancel()


async def test_waiting_in_vain_for_a_free_connection_leaves_no_doubt() -> None:
    arrived = anyio.Event()

    async def hang(_: Exchange) -> None:
        arrived.set()
        await anyio.sleep_forever()

    timeouts = Timeouts(connect=0.2, exchange=30)
    async with (
        scripted(hang) as carrier,
        open_client(carrier.url, TOKENS, timeouts=timeouts, max_connections=1) as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(client.submit, submission())
        await arrived.wait()
        answer = await client.submit(submission())
        tasks.cancel_scope.cancel()
    assert answer.outcome is Outcome.UNAVAILABLE
    assert len(carrier.requests) == 1


async def test_cancelling_passes_through_and_leaves_the_client_usable() -> None:
    async def hang_first(exchange: Exchange) -> None:
        if len(carrier.requests) == 1:
            await anyio.sleep_forever()
        await exchange.say(200, TAKEN)

    async with client_of(hang_first) as (client, carrier):
        with anyio.move_on_after(0.1) as scope:
            await client.submit(submission())
        assert scope.cancelled_caught
        assert (await client.submit(submission())).outcome is Outcome.ACCEPTED


async def answer_to(script: Script) -> Answer:
    async with client_of(script) as (client, _):
        return await client.submit(submission())


async def test_an_incomplete_answer_keeps_its_readable_request_id() -> None:
    whole = msgspec.json.encode(TAKEN)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(whole) + 9}\r\n\r\n".encode()
    answer = await answer_to(sends(head + whole))
    assert (answer.outcome, answer.request_id) == (Outcome.AMBIGUOUS, GUID)


async def test_a_refusal_names_devices_of_the_request_and_no_others() -> None:
    words = f"Device {IMEIS[1]} is not active; neither is 355555050301009; see 1{IMEIS[0]}."
    answer = await answer_to(
        says(400, platform("INPUT_INVALID.DeviceState.Invalid") | {"errorMessage": words})
    )
    assert answer.named_devices == (IMEIS[1],)


async def test_a_refusal_names_devices_beyond_the_kept_part_of_its_text() -> None:
    body = licenses(400) | {"errorMessage": "x" * 600 + IMEIS[0]}
    answer = await answer_to(says(400, body))
    assert answer.named_devices == (IMEIS[0],)
    assert len(answer.error_message or "") == 500


async def test_an_error_code_has_no_service_name() -> None:
    answer = await answer_to(says(404, platform("REQUEST_FAILED.DeviceNotFound")))
    assert answer.error_code == "REQUEST_FAILED.DeviceNotFound"


async def test_an_error_message_has_no_control_characters() -> None:
    answer = await answer_to(says(400, {"errorMessage": "one\r\n\x1b[31mtwo\u202e\x00three"}))
    assert answer.error_message == "one [31mtwo three"


async def test_a_proxy_page_is_reported_by_its_title() -> None:
    answer = await answer_to(says(502, PAGE, "Content-Type: text/html"))
    assert answer.error_message == "HTTP 502, not an answer of the carrier's API (text/html): 502 Bad Gateway"


async def test_a_throttled_answer_has_the_wait_and_the_quota() -> None:
    headers = ("Retry-After: 7", "X-RateLimit-Limit: 200", "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 7")
    answer = await answer_to(says(429, licenses(429), *headers))
    assert answer.retry_after_s == 7
    assert answer.quota is not None
    assert (answer.quota.limit, answer.quota.remaining, answer.quota.reset_s) == (200, 0, 7)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({"retryAfterMs": 8000}, 8),
        ({"retry_after_ms": "8000"}, 8),
        ({"retry_after_seconds": 8}, 8),
        ({"retryAfterInSeconds": "8"}, 8),
        ({"details": {"retryAfterMillis": 8000}}, 8),
        ({"waitTime": "8s"}, 8),
        ({"waitTime": "8000 ms"}, 8),
        ({"waitTime": 8000}, None),
        ({"waitTime": "8000"}, None),
        ({"retryAfterMs": "soon"}, None),
        ({"errorMessage": "Rate limit exceeded. Please wait 8 seconds before retrying."}, 8),
    ],
    ids=str,
)
async def test_a_wait_in_the_body_is_read(said: dict[str, object], seconds: float | None) -> None:
    assert (await answer_to(says(429, {"errorCode": "429"} | said))).retry_after_s == seconds


async def test_an_accepted_answer_contradicts_a_limit_of_0() -> None:
    headers = ("X-RateLimit-Limit: 0", "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 86400")
    assert (await answer_to(says(200, TAKEN, *headers))).quota is None
    assert (await answer_to(says(429, TAKEN, *headers))).quota == Quota(0, 0, 86400)


async def test_an_accepted_answer_has_the_quota() -> None:
    answer = await answer_to(says(200, TAKEN, "RateLimit: limit=100, remaining=50, reset=5"))
    assert answer.quota is not None
    assert answer.quota.remaining == 50


@pytest.mark.parametrize(
    ("status", "body", "headers", "summary"),
    [
        (503, b"", (), "HTTP 503 with an empty body"),
        (404, b" \r\n", (), "HTTP 404 with an empty body"),
        (
            301,
            b"",
            ("Location: https://u:planted@new.test/api?key=planted#planted",),
            "HTTP 301, redirected to new.test/api",
        ),
        (308, b"", ("Location: /other/path",), "HTTP 308, redirected to /other/path"),
        (
            302,
            PAGE,
            ("Location: http://[broken",),
            "HTTP 302, not an answer of the carrier's API (no content type): 502 Bad Gateway",
        ),
        (500, {"errorCode": "X"}, (), "HTTP 500 without an error text (X)"),
        (400, licenses(400), (), "HTTP 400: 400 words"),
        (
            403,
            b"RBAC: access denied",
            (),
            "HTTP 403, not an answer of the carrier's API (no content type): RBAC: access denied",
        ),
    ],
)
async def test_a_summary_names_status_and_what_came(
    status: int, body: object, headers: tuple[str, ...], summary: str
) -> None:
    answer = await answer_to(says(status, body, *headers))
    assert answer.summary == summary


async def test_a_cut_body_is_described_but_not_quoted() -> None:
    answer = await answer_to(cut(500, b"planted words of a page"))
    assert answer.error_message == "HTTP 500, broken off after 18 bytes"
