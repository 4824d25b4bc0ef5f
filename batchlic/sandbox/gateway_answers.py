"""What answers look like under a fault, in forms that users of such gateways and proxies report.

`FORMS` has complete answers. `DAMAGES`, `LONG_HEADERS` and `ODD_COUNTS` change an answer, and the forms of
`odd_retry_after` depend on the time.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import NamedTuple

import msgspec
from starlette.responses import Response

from batchlic.carrier.messages import Subscriptions
from batchlic.sandbox.config import Fault
from batchlic.sandbox.refusals import SERVICE, license_refusal
from batchlic.sandbox.responses import AskToWait

JSON, TEXT, HTML, XML = "application/json", "text/plain", "text/html", "text/xml"

ODD_WAIT_S = 2
"""Seconds that every form of `Fault.ODD_RETRY_AFTER` asks to wait."""

Headers = list[tuple[str, str]]


class Form(NamedTuple):
    """One form of an answer. `wait_s`: seconds that it asks the caller to wait."""

    status: int
    body: bytes
    media_type: str | None = JSON
    headers: Mapping[str, str] = {}
    wait_s: float | None = None

    def response(self) -> Response:
        """The form as an HTTP response."""
        if self.wait_s is not None:
            return AskToWait(self.body, self.status, self.headers, self.media_type, self.wait_s)
        return Response(self.body, self.status, self.headers, self.media_type)


def _one(status: int, body: bytes, media_type: str | None = JSON) -> tuple[Form]:
    return (Form(status, body, media_type),)


def _json(**fields: object) -> bytes:
    return msgspec.json.encode(fields)


def _wso2(code: str, message: str, description: str) -> bytes:
    return _json(fault={"code": code, "message": message, "description": description})


def _page(title: str) -> bytes:
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{title}</body></html>".encode()


_BAD_GATEWAY = _page("502 Bad Gateway")
_RETRY_IN_1_S = {"retry-after": "1"}
_OVER_RATE = {"x-mashery-error-code": "ERR_403_DEVELOPER_OVER_RATE"}
_ENVOY = {"server": "envoy"}
_UPSTREAM = b"upstream connect error or disconnect/reset before headers. reset reason: "
_INVALID_TOKEN = {"www-authenticate": 'Bearer realm="api", error="invalid_token"'}
_SESSION_EXPIRED = f"{SERVICE}.REQUEST_FAILED.SessionToken.Expired"

EXPIRED_ACCESS = (
    Form(
        401,
        b'<am:fault xmlns:am="http://wso2.org/apimanager/security"><am:code>900903</am:code>'
        b"<am:message>Access Token Expired</am:message><am:description>Access failure for API"
        b"</am:description></am:fault>",
        XML,
    ),
    Form(401, b"Jwt is expired", TEXT, _INVALID_TOKEN),
    Form(401, _page("401 Authorization Required"), HTML, _INVALID_TOKEN),
)
"""The access token has expired."""

EXPIRED_SESSION = (
    Form(
        401,
        f"<fault><faultcode>{_SESSION_EXPIRED}</faultcode><faultstring>expired</faultstring></fault>".encode(),
        XML,
    ),
    Form(401, f'{{"errorCode":"{_SESSION_EXPIRED}","errorMessage":"The session\nhas expired"}}'.encode()),
    Form(401, b"\xef\xbb\xbf" + _json(errorCode=_SESSION_EXPIRED, errorMessage="The session has expired")),
)
"""The session has expired."""

FORMS: Mapping[Fault, tuple[Form, ...]] = {
    Fault.HTML_502_BEFORE: _one(502, _BAD_GATEWAY, HTML),
    Fault.HTML_502_AFTER: _one(502, _BAD_GATEWAY, HTML),
    Fault.EMPTY_503: _one(503, b"", None),
    Fault.ERROR_500_AFTER: _one(500, license_refusal(500, "The request failed.").body),
    Fault.ERROR_504_AFTER: _one(504, license_refusal(504, "The request failed.").body),
    Fault.AUTH_XML: (*EXPIRED_ACCESS, *EXPIRED_SESSION),
    Fault.DUPLICATE_REFUSED: (
        Form(409, _json(errorCode="409", errorMessage="This X-Request-ID was already processed.")),
        Form(409, _json(message="Conflict: duplicate request"), JSON, {"server": "kong/3.4"}),
        Form(422, _json(errorCode="DUPLICATE_REQUEST", errorMessage="The transaction exists.")),
        Form(
            400,
            _json(
                errorCode=f"{SERVICE}.REQUEST_FAILED.LicenseAlreadyAssigned",
                errorMessage="The device already has the license.",
            ),
        ),
        Form(400, _json(errorCode="400", errorMessage="Duplicate transaction id", errorUrl="")),
    ),
    Fault.GATEWAY_404: (
        Form(404, _json(message="no Route matched with those values"), JSON, {"server": "kong/3.4"}),
        Form(404, _wso2("900906", "No matching resource found", "No resource for the given API request")),
        Form(404, _wso2("404", "Not Found", "The requested resource is not available.")),
        Form(403, _json(message="Forbidden"), JSON, {"x-amzn-errortype": "ForbiddenException"}),
        Form(
            403,
            _json(message="Missing Authentication Token"),
            JSON,
            {"x-amzn-errortype": "MissingAuthenticationTokenException"},
        ),
        Form(404, b"404 page not found\n", TEXT),
    ),
    Fault.SESSION_FLAP: (
        Form(401, _wso2("900900", "Unclassified Authentication Failure", "The key manager is not available")),
        Form(401, _json(message="Invalid authentication credentials"), JSON, {"server": "kong/3.4"}),
        Form(401, _wso2("900901", "Invalid Credentials", "Access failure for API")),
    ),
    Fault.THROTTLED_403: (
        Form(
            403,
            _json(errorCode="403", errorMessage="Developer Over Rate"),
            JSON,
            {**_OVER_RATE, **_RETRY_IN_1_S},
            wait_s=1,
        ),
        Form(403, _json(message="You have exceeded a secondary rate limit. Please wait a few minutes.")),
        Form(
            403,
            _json(message="API rate limit exceeded"),
            JSON,
            {"x-ratelimit-limit": "5", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"},
        ),
        Form(400, _json(errorCode="429", errorMessage="TooManyRequests", errorUrl="")),
        Form(400, _json(__type="ThrottlingException", message="Rate exceeded")),
        Form(420, _json(message="Enhance your calm"), JSON, _RETRY_IN_1_S, wait_s=1),
    ),
    Fault.LOGIN_403: (
        Form(403, _json(errorMessage="Developer Over Rate"), JSON, {**_OVER_RATE, **_RETRY_IN_1_S}, wait_s=1),
        Form(403, b"<h1>Developer Over Rate</h1>", XML, {**_OVER_RATE, **_RETRY_IN_1_S}, wait_s=1),
        Form(403, b"Too many logins", TEXT, _RETRY_IN_1_S, wait_s=1),
    ),
    Fault.LOST_UPSTREAM_503: (
        Form(503, _UPSTREAM + b"connection termination", TEXT, _ENVOY),
        Form(503, _page("Application Error"), HTML, {"server": "Cowboy"}),
        Form(504, _json(message="Endpoint request timed out")),
        Form(504, _wso2("101504", "Runtime Error", "Send timeout")),
        Form(502, _json(message="An invalid response was received from the upstream server")),
    ),
    Fault.REFUSING_503: (
        Form(503, b"no healthy upstream", TEXT, _ENVOY),
        Form(503, _UPSTREAM + b"connection failure", TEXT, _ENVOY),
        Form(503, _wso2("101503", "Runtime Error", "Error connecting to the back end")),
    ),
}
"""The forms of a fault, of which each occurrence draws one."""


def odd_retry_after(seconds: int, clock: datetime) -> tuple[tuple[bytes, Headers], ...]:
    """All unusual forms of an answer that asks to wait so many seconds: body and headers.

    `clock` is the carrier's wall clock. A form with a date rounds the wait up, to the next full second.
    """
    retry_at = (clock + timedelta(seconds=seconds + 1)).replace(microsecond=0)
    epoch, date = int(retry_at.timestamp()), ("date", format_datetime(clock, usegmt=True))
    fault = {
        "code": "900802",
        "message": "Message throttled out",
        "description": "You have exceeded your quota",
    }
    plain = _json(fault=fault)
    beside = _json(fault=fault, nextAccessTime=retry_at.strftime("%Y-%b-%d %H:%M:%S%z UTC"))
    with_date = (f"{epoch}", f"{epoch}000", retry_at.strftime("%Y-%m-%dT%H:%M:%SZ"))
    without = (f"{seconds}s", f"+{seconds}", f'"{seconds}"', f"{seconds}, {seconds - 1}")
    return (
        *((plain, [date, ("retry-after", value)]) for value in with_date),
        *((plain, [("retry-after", value)]) for value in without),
        (plain, [("retry-after", f"{seconds}"), ("retry-after", f"{seconds - 1}")]),
        (plain, [("retry-after", f"{seconds - 1}"), ("retry-after", f"{seconds}")]),
        (beside, [date]),
    )


def _with_field(name: bytes, value: bytes) -> Callable[[bytes], bytes]:
    return lambda body: b"%s,%s:%s}" % (body[:-1], name, value)


DAMAGES: tuple[Callable[[bytes], bytes], ...] = (
    lambda body: b"\xef\xbb\xbf" + body,
    lambda body: body + b"\n<!-- served by gateway 7 -->",
    _with_field(b'"cost"', b"NaN"),
    _with_field(b'"note"', b'"two\nlines"'),
    _with_field(b'"note"', b'"sesi\xf3n"'),
)
"""What `Fault.DAMAGED_JSON` does to the JSON object of an answer."""

LONG_HEADERS: tuple[Headers, ...] = (
    [("content-security-policy", "x" * 9_000)],
    [("set-cookie", "session=" + "x" * 20_000)],
    [(f"x-trace-{number}", "x" * 100) for number in range(150)],
)
"""What `Fault.LONG_HEADER` adds to the headers of an answer."""


def _each_count(change: Callable[[int], object]) -> Callable[[Subscriptions], bytes]:
    """A change of each number of licenses."""

    def changed(counts: Subscriptions) -> bytes:
        rows = [
            {
                name: change(value) if isinstance(value, int) else value
                for name, value in msgspec.to_builtins(row).items()
            }
            for row in counts.subscription_list
        ]
        return _json(accountName=counts.account_name, subscriptionList=rows)

    return changed


ODD_COUNTS: tuple[Callable[[Subscriptions], bytes], ...] = (
    _each_count(str),
    _each_count(float),
    _each_count("{:,}".format),
    _each_count(" {}.0 ".format),
    _each_count(lambda _: None),
    _each_count(lambda _: "unlimited"),
    lambda counts: b"\xef\xbb\xbf" + _each_count(int)(counts) + b"\n",
    lambda counts: _json(accountName=counts.account_name, subscriptionList=[]),
    lambda counts: _json(accountName=counts.account_name, subscriptionList=None),
    lambda counts: _json(accountName=counts.account_name),
    lambda _: _page("Service Unavailable"),
)
"""What `Fault.ODD_COUNTS` makes of license counts. No form has other numbers than the books."""
