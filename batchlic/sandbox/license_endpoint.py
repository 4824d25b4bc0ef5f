"""The license endpoint (assign and unassign): the only one with limits, latency and faults."""

import time
from collections import Counter
from datetime import UTC, datetime

import anyio
from starlette.requests import Request
from starlette.responses import Response

from batchlic.carrier.messages import RequestAccepted
from batchlic.sandbox.auth import Authenticator
from batchlic.sandbox.callbacks import CallbackSender
from batchlic.sandbox.config import Fault, SandboxConfig
from batchlic.sandbox.exchange import Headers, json_response, read_headers, require_json
from batchlic.sandbox.faults import RandomFaults, apply_fault, response_before_execution
from batchlic.sandbox.limits import Latency, RequestLimits, Throttled, quota_headers, throttle_refusal
from batchlic.sandbox.refusals import Refusal, refusal_response
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
    ) -> None:
        self._config = config
        self._service = service
        self._authenticator = authenticator
        self._callbacks = callbacks
        self._limits = RequestLimits(config.limits)
        self._latency = Latency(config.latency, config.seed)
        self._faults = RandomFaults(config.faults, config.seed)
        self._clock_offset: float | None = None
        self.request_counts: Counter[str] = Counter()

    @property
    def max_in_progress(self) -> int:
        """The most requests that were in progress at the same time."""
        return self._limits.max_in_progress

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        headers, now = read_headers(request), anyio.current_time()
        fault, quota = None, {}
        try:
            access = self._authenticator.check_access(headers, now)
            quota = await self._admit(now)
            try:
                session = self._authenticator.check_session(headers, now)
                fault = self._faults.draw()
                self._expire_token(fault, access, session, now)
                answer = await self._answer(request, headers, fault, now)
            finally:
                self._limits.finish()
        except Refusal as refusal:
            answer = refusal_response(refusal)
        answer.headers.update(quota)
        self.request_counts[fault or str(answer.status_code)] += 1
        return answer

    async def _admit(self, now: float) -> dict[str, str]:
        """Admit a request and return its quota headers; or raise the Refusal for a throttled one."""
        limits = self._config.limits
        try:
            self._limits.admit(now)
        except Throttled as throttled:
            quota = quota_headers(limits.quota_headers, self._limits.quota(now))
            await _sleep(self._config.latency.base_s)
            raise throttle_refusal(limits, throttled.wait_s, self._wall_clock(), quota) from None
        return quota_headers(limits.quota_headers, self._limits.quota(now))

    def _expire_token(self, fault: Fault | None, access: str, session: str, now: float) -> None:
        if fault is Fault.TOKEN_EXPIRED:
            raise self._authenticator.expire_access(access, now)
        if fault is Fault.SESSION_EXPIRED:
            raise self._authenticator.expire_session(session, now)

    async def _answer(self, request: Request, headers: Headers, fault: Fault | None, now: float) -> Response:
        """Wait, execute, wait: if the caller leaves early, the request may or may not be executed."""
        half_s = self._latency.draw(self._limits.in_progress) / 2
        body = await request.body()
        await _sleep(half_s)
        if failure := response_before_execution(fault):
            return failure
        try:
            request_id = self._execute(request.method, headers, body, now + half_s)
            await self._callbacks.post_early(request_id)
            answer = json_response(RequestAccepted(request_id))
        except Refusal as refusal:
            answer = refusal_response(refusal)
        await _sleep(half_s)
        return apply_fault(answer, fault, self._config.latency.slow_body_s)

    def _execute(self, method: str, headers: Headers, body: bytes, now: float) -> str:
        x_request_id = headers[b"x-request-id"].decode("latin-1") if b"x-request-id" in headers else None
        if body:
            require_json(headers)
        execute = self._service.unassign if method == "DELETE" else self._service.assign
        return execute(body, x_request_id, now)

    def _wall_clock(self) -> datetime:
        """The carrier's wall clock. It runs with anyio's clock, so a mock clock moves it too."""
        if self._clock_offset is None:
            self._clock_offset = time.time() - anyio.current_time()
        return datetime.fromtimestamp(self._clock_offset + anyio.current_time(), UTC)


async def _sleep(seconds: float) -> None:
    if seconds > 0:
        await anyio.sleep(seconds)
