"""Faults: how they are drawn, and the HTTP responses that simulate them."""

import random
from collections.abc import Mapping
from itertools import accumulate

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from batchlic.sandbox.config import Fault
from batchlic.sandbox.refusals import license_refusal, refusal_response

DROP = "batchlic.drop"
"""Key in the `state` of an ASGI scope: a function that breaks the connection.

It resets the connection if no answer has begun. Otherwise it closes the connection after what was sent.
"""

BAD_GATEWAY = b"""<!DOCTYPE html>
<html><head><title>502 Bad Gateway</title></head>
<body><center><h1>502 Bad Gateway</h1></center><hr><center>proxy</center></body></html>
"""


class RandomFaults:
    """Draws at most one fault for each request, at the configured rates."""

    def __init__(self, rates: Mapping[Fault, float], seed: int) -> None:
        self._thresholds = list(zip(rates, accumulate(rates.values()), strict=True))
        self._random = random.Random(f"{seed}/faults")  # noqa: S311 - reproducible, guards nothing

    def draw(self) -> Fault | None:
        """Return the fault of the next request, or None."""
        drawn = self._random.random()
        return next((fault for fault, threshold in self._thresholds if drawn < threshold), None)


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


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def response_before_execution(fault: Fault | None) -> Response | None:
    """Return the response for a fault that prevents the execution; None for other faults."""
    match fault:
        case Fault.RESET_BEFORE:
            return Reset()
        case Fault.HANG_BEFORE:
            return Hang()
        case Fault.HTML_502_BEFORE:
            return Response(BAD_GATEWAY, 502, media_type="text/html")
        case Fault.EMPTY_503:
            return Response(status_code=503)
        case _:
            return None


def apply_fault(answer: Response, fault: Fault | None, slow_body_s: float) -> Response:
    """Return the response for a fault after the execution, or `answer` itself."""
    match fault:
        case Fault.RESET_AFTER:
            answer = Reset()
        case Fault.HANG_AFTER:
            answer = Hang()
        case Fault.CUT_BODY:
            answer = CutBody(answer.body, answer.status_code, answer.headers)
        case Fault.SLOW_BODY:
            answer = SlowBody(answer, slow_body_s)
        case Fault.HTML_502_AFTER:
            answer = Response(BAD_GATEWAY, 502, media_type="text/html")
        case Fault.ERROR_500_AFTER | Fault.ERROR_504_AFTER:
            answer = _server_error(int(fault.split("-")[0]))
        case Fault.NO_REQUEST_ID if answer.status_code == 200:
            answer = Response(b"{}", media_type="application/json")
    return answer


def _server_error(status: int) -> Response:
    return refusal_response(license_refusal(status, "The request failed."))
