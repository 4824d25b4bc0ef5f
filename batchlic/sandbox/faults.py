"""What goes wrong with a license request, and how the wrong answers look on the wire."""

import random
from collections.abc import Mapping
from itertools import accumulate

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from batchlic.sandbox.config import Fault
from batchlic.sandbox.refusals import license_refusal, refusal_answer

DROP = "batchlic.drop"
"""Key in an ASGI scope's `state`: a function that breaks the connection. Before an answer has begun it is
reset; afterwards it ends with what was already sent."""

BAD_GATEWAY = b"""<!DOCTYPE html>
<html><head><title>502 Bad Gateway</title></head>
<body><center><h1>502 Bad Gateway</h1></center><hr><center>proxy</center></body></html>
"""


class Dice:
    """Draws at most one fault for each request, by their rates."""

    def __init__(self, rates: Mapping[Fault, float], seed: int) -> None:
        self._up_to = list(zip(rates, accumulate(rates.values()), strict=True))
        self._random = random.Random(f"{seed}/faults")  # noqa: S311 - reproducible, guards nothing

    def throw(self) -> Fault | None:
        """The fault that the next request meets."""
        drawn = self._random.random()
        return next((fault for fault, up_to in self._up_to if drawn < up_to), None)


class Reset(Response):
    """No answer: the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Answer nothing, ever."""
        scope["state"][DROP]()
        await _gone(receive)


class Hang(Response):
    """No answer: the connection stays open until the caller gives up."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Answer nothing, until the caller is gone."""
        await _gone(receive)


class CutBody(Response):
    """Half an answer, then the connection ends."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send less than the Content-Length says."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = self.body[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        scope["state"][DROP]()
        await _gone(receive)


class SlowBody(Response):
    """A whole answer, spread byte by byte over `over_s` seconds."""

    def __init__(self, answer: Response, over_s: float) -> None:
        super().__init__(answer.body, answer.status_code, answer.headers)
        self._over_s = over_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send the body one byte at a time."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for byte in bytes(self.body):
            await anyio.sleep(self._over_s / len(self.body))
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def instead_of_executing(fault: Fault | None) -> Response | None:
    """What the caller gets when the fault strikes before the request is executed, None if it does not."""
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


def instead_of(answer: Response, fault: Fault | None, slow_body_s: float) -> Response:
    """What the caller gets of the `answer` to a request that was executed or refused."""
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
    return refusal_answer(license_refusal(status, "The request failed."))
