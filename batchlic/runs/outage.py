"""Warns that the carrier does not answer: within seconds, and then from time to time."""

import math
from collections.abc import Callable

import anyio

SILENCE_S = 3.0
"""Seconds without any answer before the first warning."""

TELL_AGAIN_S = 30.0
"""Seconds before the same warning is repeated."""

TELL_OTHER_S = 5.0
"""Seconds before another warning."""

TRYING_AGAIN = "trying again"
"""What follows if the request was not executed."""

PERHAPS_EXECUTED = "the request may have been executed"
"""What is known if the request is in doubt. It may not be sent again."""


class Outage:
    """The warnings about an outage of the carrier at `host`; `tell` gets one line of text."""

    def __init__(self, host: str, tell: Callable[[str], None]) -> None:
        self._host = host
        self._tell = tell
        self._topic = ""
        self._told_at = -math.inf

    def unreachable(self, reason: str, then: str = TRYING_AGAIN) -> None:
        """There was no answer, or none to a login. `then`: what this means for the request."""
        reason = reason.removeprefix("no login: ")
        self._say(reason, f"no answer from {self._host}: {reason}; {then}")

    def failing(self, answer: str, then: str = TRYING_AGAIN) -> None:
        """An answer reported an error of the carrier. `then`: what this means for the request."""
        self._say(answer, f"{self._host} reports an error: {answer}; {then}")

    def unanswered(self, reason: str) -> None:
        """There was no answer to a question, and it is not asked again."""
        self._say(reason, f"no answer from {self._host}: {reason}")

    def silent(self, seconds: float) -> None:
        """There has been no answer for so long, though one is due."""
        self._say("silence", f"no answer from {self._host} for {seconds:.0f} s; still waiting")

    def asks_to_wait(self, seconds: float, answer: str) -> None:
        """The carrier asked to wait."""
        self._say("wait", f"{self._host} asks batchlic to wait {seconds:.0f} s: {answer}")

    def waits(self, seconds: float, reason: str) -> None:
        """A question is asked again after a wait."""
        self._say("wait", f"batchlic waits {seconds:.0f} s before it asks {self._host} again: {reason}")

    async def watch(self) -> None:
        """Report silence until cancelled, where every second without an answer is one too many."""
        began = anyio.current_time()
        while True:
            await anyio.sleep(SILENCE_S)
            self.silent(anyio.current_time() - began)

    def _say(self, topic: str, text: str) -> None:
        now = anyio.current_time()
        pause = TELL_AGAIN_S if topic == self._topic else TELL_OTHER_S
        if now - self._told_at >= pause:
            self._topic, self._told_at = topic, now
            self._tell(text)
