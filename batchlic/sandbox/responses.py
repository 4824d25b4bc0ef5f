"""Responses that break off, come late, or come twice, and what they need from the connection.

The transport puts the functions into the `state` of each ASGI scope, under the keys `DROP` and `REPEAT`.
"""

from collections.abc import Mapping

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

DROP = "batchlic.drop"
"""Key of a function that breaks the connection.

It resets the connection if no answer has begun. Otherwise it closes the connection after what was sent.
"""

REPEAT = "batchlic.repeat"
"""Key of a function that sends a response once more on the same connection, `REPEAT_AFTER_S` later."""

REPEAT_AFTER_S = 0.03
"""Seconds; long enough that the caller has read the first answer and keeps the connection for later."""

ASKED_WAIT = "batchlic.asked_wait"
"""Key of the seconds that an answer asks the caller to wait, whatever form the answer has."""


class Reset(Response):
    """No answer: the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Reset the connection."""
        scope["state"][DROP]()
        await _wait_for_disconnect(receive)


class Hang(Response):
    """No answer: the connection stays open until the caller gives up."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Wait until the caller disconnects."""
        await _wait_for_disconnect(receive)


class CutBody(Response):
    """Half an answer, then the connection closes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send fewer bytes than the Content-Length says."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = self.body[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        scope["state"][DROP]()
        await _wait_for_disconnect(receive)


class SlowBody(Response):
    """A complete answer, sent byte by byte over `duration_s` seconds."""

    def __init__(self, answer: Response, duration_s: float) -> None:
        super().__init__(answer.body, answer.status_code, answer.headers)
        self._duration_s = duration_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send the body one byte at a time."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for byte in bytes(self.body):
            await anyio.sleep(self._duration_s / len(self.body))
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class StaleAnswer(Response):
    """A complete answer that arrives twice."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, and have it repeated."""
        await super().__call__(scope, receive, send)
        scope["state"][REPEAT](self)


class AskToWait(Response):
    """An answer that asks the caller to wait. Its seconds are in the scope, so that a test can check them."""

    def __init__(
        self,
        body: bytes,
        status: int,
        headers: Mapping[str, str] | None,
        media_type: str | None,
        wait_s: float,
    ) -> None:
        super().__init__(body, status, headers, media_type)
        self._wait_s = wait_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        scope["state"][ASKED_WAIT] = self._wait_s
        await super().__call__(scope, receive, send)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
