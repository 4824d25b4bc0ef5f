"""Faults: how they are drawn, what they remember, and the HTTP responses that simulate them."""

import random
from collections.abc import Mapping
from http import HTTPStatus
from itertools import accumulate
from typing import NamedTuple, TypeAlias

import anyio
from starlette.responses import Response

from batchlic.carrier.messages import Subscriptions
from batchlic.sandbox.clock import WallClock
from batchlic.sandbox.config import Fault, SandboxConfig
from batchlic.sandbox.exchange import Headers as RequestHeaders
from batchlic.sandbox.gateway_answers import (
    DAMAGES,
    EXPIRED_ACCESS,
    FORMS,
    JSON,
    LONG_HEADERS,
    ODD_COUNTS,
    ODD_WAIT_S,
    Form,
    Headers,
    odd_retry_after,
)
from batchlic.sandbox.responses import AskToWait, CutBody, Hang, Reset, SlowBody, StaleAnswer

Transaction: TypeAlias = tuple[str, bool, bytes]
"""What the repetitions of a request have in common: method, whether it has a body, X-Request-ID."""

_OF_OTHER_REQUESTS = frozenset({Fault.LOGIN_403, Fault.ODD_COUNTS})
"""Faults that license requests do not meet."""

_OUTAGES = frozenset({Fault.GATEWAY_404, Fault.SESSION_FLAP})
_REFUSING = _OUTAGES | {
    Fault.HTML_502_BEFORE,
    Fault.EMPTY_503,
    Fault.THROTTLED_403,
    Fault.REFUSING_503,
}
"""Faults that answer instead of the carrier, which does not execute the request."""

_SILENT_BEFORE: Mapping[Fault, type[Response]] = {Fault.RESET_BEFORE: Reset, Fault.HANG_BEFORE: Hang}
_SILENT_AFTER: Mapping[Fault, type[Response]] = {
    Fault.RESET_AFTER: Reset,
    Fault.HANG_AFTER: Hang,
    Fault.DUPLICATE_REFUSED: Reset,
}


class RandomFaults:
    """Draws at most one fault for each request, at the configured rates."""

    def __init__(self, rates: Mapping[Fault, float], seed: int | str) -> None:
        self._thresholds = list(zip(rates, accumulate(rates.values()), strict=True))
        self._random = random.Random(f"{seed}/faults")  # noqa: S311 - reproducible, guards nothing

    def draw(self) -> Fault | None:
        """Return the fault of the next request, or None."""
        drawn = self._random.random()
        return next((fault for fault, threshold in self._thresholds if drawn < threshold), None)


class _Outage(NamedTuple):
    """All requests meet this fault in the same form until `until`, a time of anyio's clock."""

    fault: Fault
    form: Form
    until: float


class Faults:
    """The faults of one sandbox: draws them and makes their answers.

    It remembers the outage that is going on, the requests whose repetitions are refused, and the body of the
    latest 200 that reached its caller, with the time of it.
    """

    def __init__(self, config: SandboxConfig) -> None:
        self._latency = config.latency
        self._clock = WallClock()
        of_requests: dict[Fault, float] = {
            fault: rate for fault, rate in config.faults.items() if fault not in _OF_OTHER_REQUESTS
        }
        of_logins = {Fault.LOGIN_403: config.faults.get(Fault.LOGIN_403, 0.0)}
        self._of_requests = RandomFaults(of_requests, config.seed)
        self._of_logins = RandomFaults(of_logins, f"{config.seed}/logins")
        of_counts = {Fault.ODD_COUNTS: config.faults.get(Fault.ODD_COUNTS, 0.0)}
        self._of_counts = RandomFaults(of_counts, f"{config.seed}/counts")
        self._random = random.Random(f"{config.seed}/forms")  # noqa: S311 - reproducible, guards nothing
        self._has_cache = Fault.CACHED_ANSWER in of_requests
        self._outage: _Outage | None = None
        self._refused_if_repeated: set[Transaction] = set()
        self._cached: tuple[bytes, float] | None = None

    def draw(self, method: str, headers: RequestHeaders) -> Fault | None:
        """Return the fault of the next license request, or None."""
        fault = self._of_requests.draw()
        if self._is_duplicate(method, headers):
            return Fault.DUPLICATE_REFUSED
        return None if fault is Fault.CACHED_ANSWER and self._cached is None else fault

    def outage(self, now: float) -> tuple[Fault, Response] | None:
        """Return the outage that is going on, and its answer to a license request."""
        if self._outage is None or self._outage.until <= now:
            return None
        return self._outage.fault, self._outage.form.response()

    def of_login(self, now: float) -> tuple[Fault, Response] | None:
        """Return the fault of a login, and its answer; None if the login is handled."""
        outage = self.outage(now)
        if outage is not None and outage[0] is Fault.GATEWAY_404:
            return outage
        fault = self._of_logins.draw()
        return None if fault is None else (fault, self._form(fault).response())

    def of_counts(self, counts: Subscriptions) -> Response | None:
        """Return the answer with license counts in an odd form, if the request meets that fault."""
        if self._of_counts.draw() is None:
            return None
        return Response(self._random.choice(ODD_COUNTS)(counts), media_type=JSON)

    def expired_token(self) -> tuple[bool, Response]:
        """Return whether the access token expires, rather than the session, and the answer that says so."""
        form = self._form(Fault.AUTH_XML)
        return form in EXPIRED_ACCESS, form.response()

    def before_execution(self, fault: Fault, method: str, headers: RequestHeaders) -> Response | None:
        """Return the answer for a fault that prevents the execution; None for other faults."""
        if fault in _SILENT_BEFORE:
            return _SILENT_BEFORE[fault]()
        if fault is Fault.CACHED_ANSWER and self._cached is not None:
            body, since = self._cached
            age = max(1, round(anyio.current_time() - since))
            return Response(body, headers={"age": f"{age}", "x-cache": "HIT"}, media_type=JSON)
        if fault is Fault.ODD_RETRY_AFTER:
            body, odd_headers = self._random.choice(odd_retry_after(ODD_WAIT_S, self._clock.now()))
            answer = AskToWait(body, 429, {}, JSON, ODD_WAIT_S)
            _add_headers(answer, odd_headers)
            return answer
        if fault in _REFUSING or self._is_duplicate(method, headers):
            form = self._form(fault)
            if fault in _OUTAGES:
                self._outage = _Outage(fault, form, anyio.current_time() + self._latency.outage_s)
            return form.response()
        return None

    def after_execution(
        self, answer: Response, fault: Fault | None, method: str, headers: RequestHeaders
    ) -> Response:
        """Return the answer for a fault after the execution, or `answer` itself."""
        is_accepted = answer.status_code == HTTPStatus.OK
        if fault is None:
            if is_accepted and self._has_cache:
                self._cached = bytes(answer.body), anyio.current_time()
            return answer
        if fault is Fault.DUPLICATE_REFUSED and is_accepted and b"x-request-id" in headers:
            self._refused_if_repeated.add(_transaction(method, headers))
        if fault in _SILENT_AFTER:
            return _SILENT_AFTER[fault]()
        if fault in FORMS:
            return self._form(fault).response()
        return self._changed(answer, fault)

    def _changed(self, answer: Response, fault: Fault) -> Response:
        """Return the answer with the changes that a fault makes to it."""
        is_accepted = answer.status_code == HTTPStatus.OK
        match fault:
            case Fault.CUT_BODY:
                answer = CutBody(answer.body, answer.status_code, answer.headers)
            case Fault.SLOW_BODY:
                answer = SlowBody(answer, self._latency.slow_body_s)
            case Fault.NO_REQUEST_ID if is_accepted:
                answer = Response(b"{}", media_type=JSON)
            case Fault.DAMAGED_JSON:
                damage = self._random.choice(DAMAGES)
                answer = Response(damage(bytes(answer.body)), answer.status_code, media_type=JSON)
            case Fault.STALE_ANSWER if is_accepted:
                answer = StaleAnswer(answer.body, answer.status_code, answer.headers)
            case Fault.LONG_HEADER:
                _add_headers(answer, self._random.choice(LONG_HEADERS))
        return answer

    def _is_duplicate(self, method: str, headers: RequestHeaders) -> bool:
        is_any_refused = bool(self._refused_if_repeated)
        return is_any_refused and _transaction(method, headers) in self._refused_if_repeated

    def _form(self, fault: Fault) -> Form:
        return self._random.choice(FORMS[fault])


def _transaction(method: str, headers: RequestHeaders) -> Transaction:
    has_body = headers.get(b"content-length", b"0") != b"0"
    return method, has_body, headers.get(b"x-request-id", b"")


def _add_headers(answer: Response, headers: Headers) -> None:
    """Add headers to an answer. Unlike `headers.update`, this allows several headers of one name."""
    for name, value in headers:
        answer.headers.append(name, value)
