"""The sandbox's callbacks: posts each device's outcome to its listener, as untidily as the carrier does."""

import heapq
import random
import ssl
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address

import anyio
import httpx
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from httpx_aiohttp import AiohttpTransport

from batchlic.carrier.client import CALLBACK_SERVICE
from batchlic.carrier.messages import CallbackListener
from batchlic.sandbox.bodies import DeviceBody
from batchlic.sandbox.config import SandboxConfig
from batchlic.sandbox.listeners import Listeners
from batchlic.sandbox.refusals import SERVICE

MOST_TRIES = 4
"""The first and three more: the carrier's `maxCallbackThreshold`."""

_POSTERS = 16
_PATIENCE = 10.0
"""Seconds that a listener has to acknowledge."""

_CASES = (str.lower, str.upper, str.title)
_FAULT = {
    "faultcode": f"{SERVICE}.REQUEST_FAILED.UnexpectedError",
    "faultstring": "The license could not be changed.",
}


@dataclass(frozen=True, slots=True)
class _Message:
    """One outcome on its way; `tries` have failed already."""

    account: str
    body: dict[str, object]
    tries: int = 0


class Callbacks:
    """Outcomes on their way; `tally` counts messages `posted`, `acknowledged`, `given-up` and `no-listener`.

    Nothing is posted but within `delivering`, and nowhere but to a loopback address.
    """

    def __init__(self, config: SandboxConfig, listeners: Listeners) -> None:
        self.tally: Counter[str] = Counter()
        self._config = config
        self._listeners = listeners
        self._dice = random.Random(f"{config.seed}/callbacks")  # noqa: S311 - reproducible, guards nothing
        self._queue: list[tuple[float, int, _Message]] = []
        self._early: defaultdict[str, list[_Message]] = defaultdict(list)
        self._added = 0
        self._being_posted = 0
        self._more = anyio.Event()
        self._http: httpx.AsyncClient | None = None

    @property
    def pending(self) -> int:
        """Messages that are still to be posted, or being posted."""
        return len(self._queue) + self._being_posted

    def draw_failures(self, count: int) -> frozenset[int]:
        """Which of `count` devices the carrier will not serve, by their place in the request."""
        rate = self._config.callback_failures
        return frozenset(place for place in range(count) if rate and self._dice.random() < rate)

    def expect(
        self, account: str, request_id: str, devices: Sequence[DeviceBody], failed: frozenset[int], now: float
    ) -> None:
        """Have the outcomes of an executed request posted, each in its time, some of them twice."""
        if self._listener_of(account) is None:
            self.tally["no-listener"] += len(devices)
            return
        config = self._config
        is_early = self._http is not None and self._dice.random() < config.callback_early
        for place, device in enumerate(devices):
            message = _Message(account, self._body(request_id, device, failed=place in failed))
            for _ in range(1 + (self._dice.random() < config.callback_repeats)):
                if is_early:
                    self._early[request_id].append(message)
                else:
                    delay = config.callback_delay_s + self._dice.random() * config.callback_jitter_s
                    self._add(now + delay, message)

    async def post_early(self, request_id: str) -> None:
        """Post the outcomes that are to arrive before the answer that tells their request's id."""
        messages = self._early.pop(request_id, [])
        if messages and self._http is not None:
            async with anyio.create_task_group() as posters:
                for message in messages:
                    posters.start_soon(self._post, self._http, message)

    @asynccontextmanager
    async def delivering(self) -> AsyncIterator[None]:
        """Post what is due for as long as the block lasts; on asyncio."""
        unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loopback only: nobody is in between
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        transport = AiohttpTransport(verify=unverified, trust_env=False)
        async with httpx.AsyncClient(transport=transport, timeout=_PATIENCE) as self._http:
            send, receive = anyio.create_memory_object_stream[_Message]()
            async with anyio.create_task_group() as tasks:
                for _ in range(_POSTERS):
                    tasks.start_soon(self._post_all, self._http, receive)
                tasks.start_soon(self._hand_out, send)
                yield
                tasks.cancel_scope.cancel()

    async def _hand_out(self, send: MemoryObjectSendStream[_Message]) -> None:
        """Give each message to a poster when it is due."""
        while True:
            now = anyio.current_time()
            if self._queue and self._queue[0][0] <= now:
                self._being_posted += 1
                await send.send(heapq.heappop(self._queue)[2])
                continue
            self._more = anyio.Event()
            with anyio.move_on_at(self._queue[0][0] if self._queue else float("inf")):
                await self._more.wait()

    async def _post_all(self, http: httpx.AsyncClient, receive: MemoryObjectReceiveStream[_Message]) -> None:
        async for message in receive:
            await self._post(http, message)
            self._being_posted -= 1

    async def _post(self, http: httpx.AsyncClient, message: _Message) -> None:
        listener = self._listener_of(message.account)
        if listener is None:
            self.tally["no-listener"] += 1
            return
        self.tally["posted"] += 1
        try:
            content = _content(message, listener)
            answer = await http.post(
                listener.url, content=content, headers={"Content-Type": "application/json"}
            )
            is_acknowledged = answer.is_success
        except httpx.HTTPError:
            is_acknowledged = False
        if is_acknowledged:
            self.tally["acknowledged"] += 1
        elif message.tries + 1 < MOST_TRIES:
            again = anyio.current_time() + self._config.callback_retry_s
            self._add(again, replace(message, tries=message.tries + 1))
        else:
            self.tally["given-up"] += 1

    def _listener_of(self, account: str) -> CallbackListener | None:
        listeners = (x for x in self._listeners.of(account) if x.service_name == CALLBACK_SERVICE)
        return next((listener for listener in listeners if _is_loopback(listener.url)), None)

    def _body(self, request_id: str, device: DeviceBody, *, failed: bool) -> dict[str, object]:
        identifiers = [
            {"id": named.id, "kind": self._dice.choice(_CASES)(named.kind)} for named in device.device_ids
        ]
        outcome = {"status": "Failed", "faultResponse": _FAULT} if failed else {"status": "Success"}
        return {"requestId": request_id, "deviceIds": identifiers, "deviceResponse": {}, **outcome}

    def _add(self, at: float, message: _Message) -> None:
        self._added += 1  # keeps the order among those that are due together
        heapq.heappush(self._queue, (at, self._added, message))
        self._more.set()


def _content(message: _Message, listener: CallbackListener) -> bytes:
    credentials = {"username": listener.username, "password": listener.password}
    counts = {"callbackCount": message.tries + 1, "maxCallbackThreshold": MOST_TRIES}
    return msgspec.json.encode({**credentials, **message.body, **counts})


def _is_loopback(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
