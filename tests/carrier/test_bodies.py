"""Bodies in forms that gateways and old servers really send, and what is still read from them."""

import msgspec
import pytest

from batchlic.carrier.answers import Answer, Outcome, Reply, TokenKind
from batchlic.carrier.interpretation import answer_from_reply
from tests.carrier.script import GUID

EXPIRED = "UnifiedWebService.REQUEST_FAILED.SessionToken.Expired"
BOM = b"\xef\xbb\xbf"
ERROR = msgspec.json.encode({"errorCode": EXPIRED, "errorMessage": "words"})
TAKEN = msgspec.json.encode({"requestId": GUID})


def answer(status: int, body: bytes, kind: str = "application/json", *, complete: bool = True) -> Answer:
    return answer_from_reply(Reply(status, {"content-type": kind}, body, complete))


EXPIRED_SESSIONS = {
    "a byte order mark": BOM + ERROR,
    "UTF-16": ERROR.decode().encode("utf-16"),
    "UTF-16 without a mark": ERROR.decode().encode("utf-16-be"),
    "UTF-32": ERROR.decode().encode("utf-32"),
    "Latin-1": f'{{"errorCode":"{EXPIRED}","errorMessage":"La sesi\xf3n"}}'.encode("latin-1"),
    "a raw line feed": f'{{"errorCode":"{EXPIRED}","errorMessage":"two\nlines"}}'.encode(),
    "a tab and a NUL": f'{{"errorCode":"{EXPIRED}","errorMessage":"a\tb\0c"}}'.encode(),
    "quotes in the message": f'{{"errorCode":"{EXPIRED}","errorMessage":"session "abc" ended"}}'.encode(),
    "a lone surrogate": f'{{"errorCode":"{EXPIRED}","errorMessage":"\\ud83d"}}'.encode(),
    "NaN": f'{{"errorCode":"{EXPIRED}","value":NaN,"other":-Infinity}}'.encode(),
    "a trailing comma": f'{{"errorCode":"{EXPIRED}",}}'.encode(),
    "single quotes": f"{{'errorCode':'{EXPIRED}'}}".encode(),
    "text after it": ERROR + b"\n<!-- server 7 -->",
    "text before it": b"ERROR " + ERROR,
    "a prefix against hijacking": b")]}',\n" + ERROR,
    "itself again": ERROR * 2,
    "a list around it": b"[" + ERROR + b"]",
    "an object around it": b'{"error":' + ERROR + b"}",
    "a list of errors": b'{"errors":[' + ERROR + b"]}",
    "encoded twice": msgspec.json.encode(ERROR.decode()),
    "no end": ERROR[:-12],
    "XML": f"<fault><faultcode>{EXPIRED}</faultcode><faultstring>words</faultstring></fault>".encode(),
    "HTML": f"<html><body><pre>{EXPIRED}</pre></body></html>".encode(),
    "plain text": f"error: {EXPIRED}".encode(),
}


@pytest.mark.parametrize("body", EXPIRED_SESSIONS.values(), ids=EXPIRED_SESSIONS)
@pytest.mark.parametrize("status", [400, 401, 403])
def test_an_expired_session_is_read_in_any_form(body: bytes, status: int) -> None:
    found = answer(status, body)
    assert found.outcome is Outcome.UNAUTHORIZED
    assert found.rejected is not None
    assert found.rejected.kind is TokenKind.SESSION
    assert found.error_code == "REQUEST_FAILED.SessionToken.Expired"


@pytest.mark.parametrize(
    "body",
    [
        b'<am:fault xmlns:am="http://wso2.org/apimanager"><am:code>900901</am:code></am:fault>',
        b"<?xml version='1.0'?><fault>\n<code> 900902 </code></fault>",
        b'{"code":900903}',
        b'{"fault":{"code":"900901","message":"a "quoted" word"}}',
        b"900901 Invalid Credentials",
        b"Error code: 900901",
    ],
)
def test_a_gateway_code_is_read_in_any_form(body: bytes) -> None:
    found = answer(403, body)
    assert found.rejected is not None
    assert found.rejected.kind is TokenKind.ACCESS


@pytest.mark.parametrize(
    "body",
    [
        b'{"errorCode":"400","errorMessage":"device 900901900901900 unknown"}',
        b'{"errorCode":"400","errorMessage":"900901 devices"}',
        b'{"errorCode":"UnifiedWebService.REQUEST_FAILED.DeviceNotFoundAnywhere"}',
        b'{"errorCode":"UnifiedWebService.XREQUEST_FAILED.DeviceNotFound"}',
    ],
)
def test_text_that_only_resembles_a_code_is_no_code(body: bytes) -> None:
    found = answer(400, body)
    assert (found.outcome, found.is_known) == (Outcome.REFUSED, False)


def test_a_code_that_was_cut_off_is_not_taken_for_another() -> None:
    cut = answer(400, b'{"errorCode":"X.REQUEST_FAILED.DeviceNotFound', complete=False)
    assert not cut.is_known
    assert answer(400, b'{"errorCode":"X.REQUEST_FAILED.DeviceNotFound"', complete=False).is_known


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"errorCode":"X","errorMessage":"La sesi\xf3n"}'.encode("latin-1"), "La sesión"),
        ('{"errorCode":"X","errorMessage":"一"}'.encode(), "一"),
        (b'{"errorCode":"X","errorMessage":"a\nb"}', "a b"),
        (b'{"errorCode":"X","errorMessage":"a \\ud83d b"}', "a   b"),
        (b"<f><faultcode>X</faultcode><faultstring>words</faultstring></f>", "words"),
        (b'{"fault":{"code":"1","message":"one","description":"two"}}', "one: two"),
        (b'{"error":"There was a problem proxying the request"}', "There was a problem proxying the request"),
    ],
)
def test_the_text_of_an_error_is_read_in_any_form(body: bytes, message: str) -> None:
    assert answer(500, body).error_message == message


def test_a_declared_charset_is_used_for_what_is_no_utf_8() -> None:
    found = answer(400, "Zařízení".encode("windows-1250"), "text/plain; charset=windows-1250")
    assert (found.error_message or "").endswith("Zařízení")


def test_a_secret_in_another_encoding_is_hidden() -> None:
    body = b'{"errorCode":"X","errorMessage":"\xff ' + "plänted".encode() + b'"}'
    found = answer_from_reply(Reply(400, {}, body), secrets=("plänted",))
    assert found.error_message == "\xff [hidden]"


ACCEPTANCES = {
    "a byte order mark": BOM + TAKEN,
    "UTF-16": TAKEN.decode().encode("utf-16"),
    "NaN": b'{"requestId":"' + GUID.encode() + b'","took":NaN}',
    "a raw line feed": b'{"requestId":"' + GUID.encode() + b'","note":"two\nlines"}',
    "Latin-1": b'{"requestId":"' + GUID.encode() + b'","note":"\xf3"}',
    "space after it": TAKEN + b" \r\n\r\n",
    "text after it": TAKEN + b"\n-- end of answer",
    "a null error": b'{"requestId":"' + GUID.encode() + b'","errorCode":null,"fault":null}',
    "an error code of success": b'{"requestId":"' + GUID.encode() + b'","errorCode":"0"}',
    "JSON in a JSON string": msgspec.json.encode(TAKEN.decode()),
    "another case": b'{"RequestID":"' + GUID.encode() + b'"}',
    "space around the id": b'{"requestId":" ' + GUID.encode() + b' "}',
}


@pytest.mark.parametrize("body", ACCEPTANCES.values(), ids=ACCEPTANCES)
def test_a_readable_request_id_is_an_acceptance(body: bytes) -> None:
    found = answer(200, body)
    assert (found.outcome, found.request_id) == (Outcome.ACCEPTED, GUID)


@pytest.mark.parametrize("body", ACCEPTANCES.values(), ids=ACCEPTANCES)
def test_a_part_of_an_acceptance_is_no_acceptance(body: bytes) -> None:
    assert answer(200, body, complete=False).outcome is Outcome.AMBIGUOUS


@pytest.mark.parametrize(
    "body",
    [
        TAKEN[:-1],
        TAKEN[:-3],
        TAKEN + b'{"requestId":"another"}',
        BOM + b'{"requestId":"' + GUID.encode() + b'","RequestID":"another"}',
        TAKEN + b'{"errorCode":"500"}',
        b'{"requestId":"' + GUID.encode() + b'","errorCode":"500"}',
        b'{"requestId":"' + GUID.encode() + b'","fault":{"code":"101504"}}',
        b'{"requestId":{"id":"' + GUID.encode() + b'"}}',
        b'{"data":{"requestId":"' + GUID.encode() + b'"}}',
        b"[" + TAKEN + b"]",
        b"<r><requestId>" + GUID.encode() + b"</requestId></r>",
        b"requestId: " + GUID.encode(),
    ],
)
def test_a_request_id_that_is_not_sure_is_no_acceptance(body: bytes) -> None:
    assert answer(200, body).outcome is Outcome.AMBIGUOUS


def test_a_throttled_200_with_a_request_id_is_no_acceptance() -> None:
    body = msgspec.json.encode({"requestId": GUID, "errorCode": "429"})
    assert answer(200, body).outcome is Outcome.THROTTLED


@pytest.mark.parametrize(
    "field",
    [
        *("errorMessage", "message", "description", "error_description", "faultstring", "detail", "title"),
        *("reason", "msg", "ErrorMessage"),
    ],
)
def test_the_text_of_an_error_can_have_many_names(field: str) -> None:
    found = answer_from_reply(Reply(400, {}, f'{{"code":"1","{field}":"Not today"}}'.encode()))
    assert found.error_message == "Not today"


@pytest.mark.parametrize("body", [b"", b"{}", b"<html></html>", b"words"])
def test_an_error_without_a_code_has_none(body: bytes) -> None:
    assert answer_from_reply(Reply(400, {}, body)).error_code is None
