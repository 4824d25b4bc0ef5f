"""Posts the outcome of each device to its listener: late, out of order or twice, as the carrier does."""

import heapq
import random
import ssl
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from operator import itemgetter

import anyio
import httpx
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from httpx_aiohttp import AiohttpTransport

from batchlic.carrier.client import CALLBACK_SERVICE
from batchlic.carrier.messages import CallbackListener
from batchlic.sandbox.config import CallbackConfig
from batchlic.sandbox.listeners import Listeners
from batchlic.sandbox.refusals import SERVICE
from batchlic.sandbox.request_bodies import DeviceBody

MAX_ATTEMPTS = 4
"""The carrier's `maxCallbackThreshold`."""

_WORKERS = 16
_TIMEOUT_S = 10.0
"""Time for a listener to acknowledge a message."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ODD_STATUSES = ("Error", "FAILURE", "Rejected")
"""Statuses of failures instead of `Failed`: the carrier's page says that it is `Failed` in most cases."""

_INTERIM_STATUSES = ("OnHold", "REQUEST_ONHOLD.PendingApproval", "On hold", "In progress", "Pending", "")
"""Statuses of messages that come before an outcome. Only the class `REQUEST_ONHOLD` is documented."""

_CASES = (str.lower, str.upper, str.title)
_FAULT = {
    "faultcode": f"{SERVICE}.REQUEST_FAILED.UnexpectedError",
    "faultstring": "The license could not be changed.",
}
_CANCELED = {
    "faultcode": f"{SERVICE}.REQUEST_CANCELLED.ByCarrier",
    "faultstring": "The request was canceled.",
}


@dataclass(frozen=True, slots=True)
class _Message:
    """The outcome of one device; `failed_attempts` counts attempts to post it. See `odd_share`."""

    account: str
    body: dict[str, object]
    is_odd: bool
    failed_attempts: int = 0


class CallbackSender:
    """Schedules outcomes and posts them, but only within `sending`, and only to loopback addresses.

    `message_counts` counts messages `posted`, `acknowledged`, `given-up` and `no-listener`.
    """

    def __init__(self, config: CallbackConfig, seed: int, listeners: Listeners) -> None:
        self.message_counts: Counter[str] = Counter()
        self._config = config
        self._listeners = listeners
        self._random = random.Random(f"{seed}/callbacks")  # noqa: S311 - reproducible, guards nothing
        self._queue: list[tuple[float, int, _Message]] = []
        self._early: defaultdict[str, list[_Message]] = defaultdict(list)
        self._enqueued = 0
        self._in_progress = 0
        self._changed = anyio.Event()
        self._http: httpx.AsyncClient | None = None

    @property
    def pending(self) -> int:
        """Number of messages that are queued or being posted."""
        return len(self._queue) + self._in_progress

    def draw_failures(self, count: int) -> frozenset[int]:
        """Draw the devices of a request that get no license; return their positions, below `count`."""
        share = self._config.failure_share
        return frozenset(position for position in range(count) if share and self._random.random() < share)

    def schedule(
        self, account: str, request_id: str, devices: Sequence[DeviceBody], failed: frozenset[int], now: float
    ) -> None:
        """Schedule the outcomes of an executed request; `failed` are positions in `devices`."""
        if self._listener_of(account) is None:
            self.message_counts["no-listener"] += len(devices)
            return
        config = self._config
        is_early = self._http is not None and self._random.random() < config.early_share
        for position, device in enumerate(devices):
            message = self._message(account, request_id, device, failed=position in failed)
            repeats = 1 + (self._random.random() < config.repeat_share)
            for one in [*self._interim(message), *[message] * repeats]:
                if is_early:
                    self._early[request_id].append(one)
                else:
                    delay = config.delay_s + self._random.random() * config.jitter_s
                    self._enqueue(now + delay, one)

    def take_queued(self) -> list[bytes]:
        """Take the messages that are queued, as they would be posted, in the order in which they are due.

        This is for a sandbox that is used in the same process, where nothing is posted.
        """
        messages = [message for _, _, message in sorted(self._queue, key=itemgetter(0, 1))]
        self._queue.clear()
        listeners = [(message, self._listener_of(message.account)) for message in messages]
        return [_content(message, listener) for message, listener in listeners if listener is not None]

    async def post_early(self, request_id: str) -> None:
        """Post the outcomes that must arrive before the answer with their requestId."""
        messages = self._early.pop(request_id, [])
        if messages and self._http is not None:
            async with anyio.create_task_group() as tasks:
                for message in messages:
                    tasks.start_soon(self._post, self._http, message)

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Post messages when they are due, for the length of the block; on asyncio only."""
        unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loopback only: nobody can intercept it
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        transport = AiohttpTransport(verify=unverified, trust_env=False)
        async with httpx.AsyncClient(transport=transport, timeout=_TIMEOUT_S) as self._http:
            send, receive = anyio.create_memory_object_stream[_Message]()
            async with anyio.create_task_group() as tasks:
                for _ in range(_WORKERS):
                    tasks.start_soon(self._post_all, self._http, receive)
                tasks.start_soon(self._dispatch, send)
                yield
                tasks.cancel_scope.cancel()

    async def _dispatch(self, send: MemoryObjectSendStream[_Message]) -> None:
        """Give each message to a worker when it is due."""
        while True:
            now = anyio.current_time()
            if self._queue and self._queue[0][0] <= now:
                self._in_progress += 1
                await send.send(heapq.heappop(self._queue)[2])
                continue
            self._changed = anyio.Event()
            with anyio.move_on_at(self._queue[0][0] if self._queue else float("inf")):
                await self._changed.wait()

    async def _post_all(self, http: httpx.AsyncClient, receive: MemoryObjectReceiveStream[_Message]) -> None:
        async for message in receive:
            await self._post(http, message)
            self._in_progress -= 1

    async def _post(self, http: httpx.AsyncClient, message: _Message) -> None:
        listener = self._listener_of(message.account)
        if listener is None:
            self.message_counts["no-listener"] += 1
            return
        self.message_counts["posted"] += 1
        try:
            answer = await http.post(
                listener.url, content=_content(message, listener), headers=_headers(message)
            )
            is_acknowledged = answer.is_success
        except httpx.HTTPError:
            is_acknowledged = False
        if is_acknowledged:
            self.message_counts["acknowledged"] += 1
        elif message.failed_attempts + 1 < MAX_ATTEMPTS:
            retry_at = anyio.current_time() + self._config.retry_s
            self._enqueue(retry_at, replace(message, failed_attempts=message.failed_attempts + 1))
        else:
            self.message_counts["given-up"] += 1

    def _listener_of(self, account: str) -> CallbackListener | None:
        listeners = (x for x in self._listeners.of_account(account) if x.service_name == CALLBACK_SERVICE)
        return next((listener for listener in listeners if _is_loopback(listener.url)), None)

    def _message(self, account: str, request_id: str, device: DeviceBody, *, failed: bool) -> _Message:
        share = self._config.odd_share
        is_odd = bool(share) and self._random.random() < share
        body = self._body(request_id.upper() if is_odd else request_id, device, failed=failed)
        if is_odd and failed:
            body["status"] = self._random.choice(_ODD_STATUSES)
            body["faultResponse"] = self._random.choice((_FAULT, _CANCELED))
        return _Message(account, body, is_odd)

    def _interim(self, message: _Message) -> list[_Message]:
        """A message that comes before half of the odd outcomes and decides nothing."""
        if not message.is_odd or self._random.random() < 0.5:
            return []
        body = {name: value for name, value in message.body.items() if name != "faultResponse"}
        return [replace(message, body=body | {"status": self._random.choice(_INTERIM_STATUSES)})]

    def _body(self, request_id: str, device: DeviceBody, *, failed: bool) -> dict[str, object]:
        identifiers = [
            {"id": named.id, "kind": self._random.choice(_CASES)(named.kind)} for named in device.device_ids
        ]
        outcome = {"status": "Failed", "faultResponse": _FAULT} if failed else {"status": "Success"}
        return {"requestId": request_id, "deviceIds": identifiers, "deviceResponse": {}, **outcome}

    def _enqueue(self, at: float, message: _Message) -> None:
        self._enqueued += 1  # keeps the order of messages that are due at the same time
        heapq.heappush(self._queue, (at, self._enqueued, message))
        self._changed.set()


def _content(message: _Message, listener: CallbackListener) -> bytes:
    credentials = {"username": listener.username, "password": listener.password}
    counts = {"callbackCount": message.failed_attempts + 1, "maxCallbackThreshold": MAX_ATTEMPTS}
    content = msgspec.json.encode({**credentials, **message.body, **counts})
    return _BYTE_ORDER_MARK + content if message.is_odd else content


def _headers(message: _Message) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    return headers | {"X-Forwarded-For": "127.0.0.1:17085"} if message.is_odd else headers


def _is_loopback(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
