"""What transport errors, codes and statuses mean, and why. These tables make docs/reference/answers.md."""

import re
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import httpx

from batchlic.carrier.conclusions import (
    AMBIGUOUS,
    ANY_STATUS,
    BAD_ACCESS,
    BAD_DEVICE,
    BAD_SESSION,
    BAD_TOKEN,
    CLIENT_ERRORS,
    EXPIRED,
    FAILURES,
    NO_FAILURES,
    PERHAPS_BAD_ACCESS,
    PERHAPS_BAD_TOKEN,
    PERHAPS_THROTTLED,
    PERHAPS_UNAVAILABLE,
    REFUSED,
    REFUSED_ALL,
    SERVER_ERRORS,
    THROTTLED,
    TOO_LARGE,
    TOO_MANY,
    UNAVAILABLE,
    Conclusion,
)


class ErrorRule(NamedTuple):
    """What an exchange without a status means, by its error."""

    error: type[httpx.RequestError]
    conclusion: Conclusion
    why: str


BY_ERROR: Sequence[ErrorRule] = (
    ErrorRule(
        httpx.ConnectError,
        UNAVAILABLE,
        "No connection (refused, no such host, TLS, certificate): nothing was sent.",
    ),
    ErrorRule(httpx.ConnectTimeout, UNAVAILABLE, "No connection in time: nothing was sent."),
    ErrorRule(httpx.PoolTimeout, UNAVAILABLE, "All connections were busy for too long: nothing was sent."),
    ErrorRule(httpx.ProxyError, UNAVAILABLE, "The proxy did not connect to the carrier: nothing was sent."),
    ErrorRule(httpx.UnsupportedProtocol, UNAVAILABLE, "The URL has an unknown protocol: nothing was sent."),
    ErrorRule(
        httpx.RequestError,
        AMBIGUOUS,
        "After the request left, the connection broke, stayed silent or sent no HTTP: "
        "the carrier may have executed the request.",
    ),
)
"""The first row with the error's class applies."""


class CodeRule(NamedTuple):
    """Error codes, compared without the service name. The rule applies at `statuses`."""

    codes: tuple[str, ...]
    conclusion: Conclusion
    why: str
    statuses: Container[int] = CLIENT_ERRORS


PERMISSION = ("700700", "900907", "900908", "900910")
"""Codes of a gateway that does not let an application use an API."""

ACCOUNT = (
    "REQUEST_FAILED.AccountNotFound",
    "REQUEST_FAILED.AccountName",
    "REQUEST_FAILED.NoAccounts",
    "INPUT_INVALID.Account.NotDefined",
    "REQUEST_FAILED.MultipleAccounts",
)
"""Codes of a wrong or missing account."""

CODES: Sequence[CodeRule] = (
    CodeRule(
        (
            "REQUEST_FAILED.SessionToken.Expired",
            "INPUT_INVALID.SessionToken.Invalid",
            "REQUEST_FAILED.SessionToken.Format",
        ),
        BAD_SESSION,
        "The session token is checked before the request is executed.",
        ANY_STATUS,
    ),
    CodeRule(
        ("900901", "900902", "900903"),
        BAD_ACCESS,
        "The gateway checks the access token before it routes the request.",
        NO_FAILURES,
    ),
    CodeRule(
        ("900901", "900902", "900903"),
        PERHAPS_BAD_ACCESS,
        "The gateway sends this code with a 401. The service may pass on the error of a gateway behind it.",
        FAILURES,
    ),
    CodeRule(("401",), BAD_TOKEN, "A 401 in the body of an answer with another status.", NO_FAILURES),
    CodeRule(
        ("401",),
        PERHAPS_BAD_TOKEN,
        "The service failed, perhaps after it executed the request. The token is renewed all the same.",
        FAILURES,
    ),
    CodeRule(
        tuple(str(code) for code in range(900800, 900808)),
        THROTTLED,
        "The gateway throttles a request before it routes it.",
        ANY_STATUS,
    ),
    CodeRule(
        ("429", "TooManyRequests", "ThrottlingException", "LimitExceededException"),
        THROTTLED,
        "A 429 in the body of an answer with another status.",
        (*NO_FAILURES, 500, 503),
    ),
    CodeRule(
        ("429", "TooManyRequests", "ThrottlingException", "LimitExceededException"),
        PERHAPS_THROTTLED,
        "The status says that an answer was lost: the 429 may be that of a service behind the first one.",
        tuple(status for status in FAILURES if status not in {500, 503}),
    ),
    CodeRule(
        ("900906",),
        UNAVAILABLE,
        "No such resource: the gateway has lost its routes, so it did not pass the request on.",
    ),
    CodeRule(
        PERMISSION,
        REFUSED_ALL,
        "The gateway does not let this application use the API: blocked, not subscribed, or out of scope. "
        "The service did not judge the devices.",
    ),
    CodeRule(
        (
            "INPUT_INVALID.Device.Identifier.Invalid",
            "INPUT_INVALID.Device.Kind.Invalid",
            "INPUT_INVALID.Device.Account.Invalid",
            "INPUT_INVALID.DeviceState.Invalid",
            "REQUEST_FAILED.DeviceNotFound",
        ),
        BAD_DEVICE,
        "A device of the batch is malformed, not on the account, or not active.",
    ),
    CodeRule(
        ACCOUNT,
        REFUSED_ALL,
        "The account is wrong or missing: no part of the batch would be accepted.",
    ),
    CodeRule(
        ("INPUT_INVALID.Request.InvalidCharacter", "INPUT_INVALID.MaxRequestsExceeded"),
        REFUSED_ALL,
        "The request as a whole is wrong; no device is at fault.",
    ),
    CodeRule(
        ("INPUT_INVALID.NumberofDevices",),
        TOO_LARGE,
        "Too many devices in one request; no device is at fault. Smaller parts may be accepted.",
    ),
)
"""Codes of the service and of its gateway."""

_BY_CODE: Mapping[str, Sequence[CodeRule]] = {
    name: [rule for rule in CODES if name in map(str.lower, rule.codes)]
    for name in {code.lower() for rule in CODES for code in rule.codes}
}


def by_code(code: str, status: int) -> Conclusion | None:
    """What a code means at a status; None if it is not known there."""
    rules = _BY_CODE.get(code.lower(), ())
    return next((rule.conclusion for rule in rules if status in rule.statuses), None)


class CodePattern(NamedTuple):
    """Vague codes of the service, at a 4xx. The words of the error count more."""

    codes: str
    pattern: re.Pattern[str]
    conclusion: Conclusion
    why: str


CODE_PATTERNS: Sequence[CodePattern] = (
    CodePattern(
        "REQUEST_FAILED.UnexpectedError",
        re.compile(r"REQUEST_FAILED\.UnexpectedError$"),
        REFUSED,
        "The service failed and does not say why.",
    ),
    CodePattern(
        "REQUEST_ONHOLD.*",
        re.compile(r"REQUEST_ONHOLD\."),
        AMBIGUOUS,
        "A request on hold may be executed later.",
    ),
    CodePattern(
        "500 to 599",
        re.compile(r"5\d\d$"),
        AMBIGUOUS,
        "A server error in the body of a 4xx: the service may have executed the request before it failed.",
    ),
    CodePattern(
        "*.Sku…, *.Account…, *.License…NotAvailable, *.License…Insufficient",
        re.compile(
            r"(INPUT_INVALID|REQUEST_FAILED)\.(Sku|SKU|Account|Licen[cs]e.*(NotAvailable|Insufficient))"
        ),
        REFUSED_ALL,
        "The error is about something that all devices of a batch share.",
    ),
)


class StatusRule(NamedTuple):
    """What a status means if nothing else decides: `coded` with a code of the service, else `other`."""

    statuses: tuple[int, ...] | range
    coded: Conclusion
    other: Conclusion
    why: str


BY_STATUS: Sequence[StatusRule] = (
    StatusRule(
        range(100, 300),
        AMBIGUOUS,
        AMBIGUOUS,
        "Only a complete body with a readable requestId is an acceptance.",
    ),
    StatusRule(
        (301, 302, 307, 308),
        UNAVAILABLE,
        UNAVAILABLE,
        "The carrier's API does not redirect: something in front of it answered. Redirects are not followed.",
    ),
    StatusRule(
        range(300, 400),
        AMBIGUOUS,
        AMBIGUOUS,
        "A server may send 303 after it executed the request (RFC 9110, 15.4.4).",
    ),
    StatusRule(
        (401,),
        BAD_TOKEN,
        BAD_TOKEN,
        "This needs no body. If the body does not say which token is rejected, both may be renewed.",
    ),
    StatusRule(
        EXPIRED,
        BAD_TOKEN,
        BAD_TOKEN,
        "Statuses of some gateways for a session or token that has expired.",
    ),
    StatusRule(
        (406,),
        REFUSED_ALL,
        PERHAPS_UNAVAILABLE,
        "Some frameworks choose the form of the answer after they executed the request, and send 406 if "
        "none fits.",
    ),
    StatusRule(
        (402, 403, 405, 411, 412, 415),
        REFUSED_ALL,
        UNAVAILABLE,
        "The service refuses the request, whatever devices are in it. Without its code, a gateway answered.",
    ),
    StatusRule((407,), UNAVAILABLE, UNAVAILABLE, "A proxy requires a login: the request was not passed on."),
    StatusRule(
        (408,),
        AMBIGUOUS,
        PERHAPS_UNAVAILABLE,
        "The server gave up waiting for the request (RFC 9110, 15.5.9). Some frameworks send 408 when the "
        "service takes too long, and let it go on.",
    ),
    StatusRule(
        (409,),
        REFUSED,
        AMBIGUOUS,
        "Without a code of the service, the conflict may be with an earlier sending of this request.",
    ),
    StatusRule(
        (413,),
        REFUSED,
        REFUSED,
        "The request is too large for the service or a gateway: smaller parts may be accepted.",
    ),
    StatusRule(TOO_MANY, THROTTLED, THROTTLED, "Too many requests: not executed, whatever the body says."),
    StatusRule((421, 425), UNAVAILABLE, UNAVAILABLE, "The wrong server, or too early: not executed."),
    StatusRule((499,), AMBIGUOUS, AMBIGUOUS, "A gateway gave up on a request that it may have passed on."),
    StatusRule(
        CLIENT_ERRORS,
        REFUSED,
        UNAVAILABLE,
        "The service refuses the request. Without its code (404 without a route, 403 of a firewall, an empty "
        "400), a gateway answered instead: an outage, not a refusal.",
    ),
    StatusRule((509,), AMBIGUOUS, THROTTLED, "Bandwidth limit exceeded: not executed."),
    StatusRule(
        (511,),
        AMBIGUOUS,
        UNAVAILABLE,
        "The network requires a login (RFC 6585): the request did not get through.",
    ),
    StatusRule(
        SERVER_ERRORS,
        AMBIGUOUS,
        AMBIGUOUS,
        "The service or a gateway failed, perhaps after the service executed the request.",
    ),
)
"""The first row with the status applies."""

RETRY_LATER = (400, 402, 403, 422, 423, 430)
"""With `Retry-After` and no known code, these mean throttling: a refusal does not ask to try again."""
