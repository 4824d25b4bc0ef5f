"""The license endpoint (assign and unassign): the only one with limits, latency and faults."""

from collections import Counter

import anyio
from starlette.requests import Request
from starlette.responses import Response

from batchlic.carrier.messages import RequestAccepted
from batchlic.sandbox.auth import Authenticator
from batchlic.sandbox.callbacks import CallbackSender
from batchlic.sandbox.clock import WallClock
from batchlic.sandbox.config import Fault, LimitScope, SandboxConfig
from batchlic.sandbox.exchange import Headers, json_response, read_headers, require_json
from batchlic.sandbox.faults import Faults
from batchlic.sandbox.limits import (
    Latency,
    RequestLimits,
    ScopedLimits,
    Throttled,
    quota_headers,
    throttle_refusal,
)
from batchlic.sandbox.refusals import Refusal, lacks_permission, refusal_response
from batchlic.sandbox.request_bodies import account_of
from batchlic.sandbox.service import LicenseService


class LicenseEndpoint:
    """Answers license requests as configured.

    `request_counts` counts requests by their status, or by the fault that they met.
    """

    def __init__(
        self,
        config: SandboxConfig,
        service: LicenseService,
        authenticator: Authenticator,
        callbacks: CallbackSender,
        faults: Faults,
    ) -> None:
        self._config = config
        self._service = service
        self._authenticator = authenticator
        self._callbacks = callbacks
        self._limits = ScopedLimits(config.limits)
        self._latency = Latency(config.latency, config.seed)
        self._faults = faults
        self._clock = WallClock()
        self.request_counts: Counter[str] = Counter()

    @property
    def max_in_progress(self) -> int:
        """The most requests that were in progress at the same time."""
        return self._limits.max_in_progress

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        headers, now = read_headers(request), anyio.current_time()
        if outage := self._faults.outage(now):
            await _sleep(self._config.latency.base_s)
        fault, answer = outage or await self._handle(request, headers, now)
        self.request_counts[fault or str(answer.status_code)] += 1
        return answer

    async def _handle(self, request: Request, headers: Headers, now: float) -> tuple[Fault | None, Response]:
        """Answer a request outside an outage; return the fault that it met, and the answer."""
        fault, quota = None, {}
        try:
            access = self._authenticator.check_access(headers, now)
            limits = await self._limits_of(request)
            quota = await self._admit(limits, now)
            with self._limits.counted(limits):
                session = self._authenticator.check_session(headers, now)
                if not self._config.rules.permission:
                    raise lacks_permission()
                fault = self._faults.draw(request.method, headers)
                answer = self._expire_token(fault, access, session, now) or await self._answer(
                    request, headers, fault, now
                )
        except Refusal as refusal:
            answer = refusal_response(refusal)
        answer.headers.update(quota)
        return fault, answer

    async def _limits_of(self, request: Request) -> RequestLimits:
        is_by_account = self._config.limits.scope is LimitScope.ACCOUNT
        return self._limits.of(account_of(await request.body()) if is_by_account else "")

    async def _admit(self, limits: RequestLimits, now: float) -> dict[str, str]:
        """Admit a request and return its quota headers; or raise the Refusal for a throttled one."""
        config = self._config.limits
        try:
            limits.admit(now)
        except Throttled as throttled:
            quota = quota_headers(config.quota_headers, limits.quota(now))
            await _sleep(self._config.latency.base_s)
            raise throttle_refusal(config, throttled.wait_s, self._clock.now(), quota) from None
        return quota_headers(config.quota_headers, limits.quota(now))

    def _expire_token(self, fault: Fault | None, access: str, session: str, now: float) -> Response | None:
        """Return or raise the answer for a fault that expires a token; None for other faults."""
        if fault is Fault.TOKEN_EXPIRED:
            raise self._authenticator.expire_access(access, now)
        if fault is Fault.SESSION_EXPIRED:
            raise self._authenticator.expire_session(session, now)
        if fault is not Fault.AUTH_XML:
            return None
        is_access, answer = self._faults.expired_token()
        if is_access:
            self._authenticator.expire_access(access, now)
        else:
            self._authenticator.expire_session(session, now)
        return answer

    async def _answer(self, request: Request, headers: Headers, fault: Fault | None, now: float) -> Response:
        """Wait, execute, wait: if the caller leaves early, the request may or may not be executed."""
        half_s = self._latency.draw(self._limits.in_progress) / 2
        body = await request.body()
        await _sleep(half_s)
        if fault and (failure := self._faults.before_execution(fault, request.method, headers)):
            return failure
        try:
            request_id = self._execute(request.method, headers, body, now + half_s)
            await self._callbacks.post_early(request_id)
            answer = json_response(RequestAccepted(request_id))
        except Refusal as refusal:
            answer = refusal_response(refusal)
        await _sleep(half_s)
        return self._faults.after_execution(answer, fault, request.method, headers)

    def _execute(self, method: str, headers: Headers, body: bytes, now: float) -> str:
        x_request_id = headers[b"x-request-id"].decode("latin-1") if b"x-request-id" in headers else None
        if body:
            require_json(headers)
        execute = self._service.unassign if method == "DELETE" else self._service.assign
        return execute(body, x_request_id, now)


async def _sleep(seconds: float) -> None:
    if seconds > 0:
        await anyio.sleep(seconds)
