"""Pings a dead man's switch at the start and at the end of a run, as healthchecks.io takes it.

The protocol: https://healthchecks.io/docs/http_api. The URL is a secret (promise F).
"""

import logging
import uuid
from collections.abc import Collection
from functools import partial

import httpx
from pydantic import SecretStr

from batchlic.events import RunEnded, RunEvent, RunStarted
from batchlic.logs import masked
from batchlic.monitoring.alerts.bounded import Problem, all_within, seconds_left
from batchlic.monitoring.alerts.message import Origin, figures, sentence

START_WITHIN_S = 4.0
"""Seconds for the ping at the start. With it, the one at the end is still in time after the shortest run."""
ATTEMPTS = 2
_MAX_ANSWER = 100
_RUN_IDS = uuid.UUID("6f1c1f5e-8f0c-5d0e-9a53-7d1f3a6c2b10")
"""Namespace of UUIDs of runs: a `rid` has to be a UUID."""


class Heartbeat:
    """A subscriber that pings URL/start, and then URL or URL/fail.

    An end with one of the `ok` exit codes is a success. A run that a person at the terminal ends is neither
    success nor failure: the switch goes on waiting for one.
    """

    def __init__(self, url: SecretStr, ok: Collection[int], origin: Origin) -> None:
        logging.getLogger("httpx").setLevel(logging.WARNING)  # below, it logs URLs
        self._url = httpx.URL(url.get_secret_value())
        self._ok = ok
        self._origin = origin
        self.started: RunStarted | None = None
        self.problems: list[str] = []
        """Pings that did not arrive, as sentences."""

    def __call__(self, event: RunEvent) -> None:
        """Take an event of the run."""
        match event:
            case RunStarted():
                self.started = event
                self._ping("/start", f"Run {event.run_id} of {event.job} started", START_WITHIN_S)
            case RunEnded(is_by_person=False):
                end = "" if event.exit_code in self._ok else "/fail"
                self._ping(end, self._report(event), seconds_left(event.at))
            case _:
                pass

    def _report(self, ended: RunEnded) -> str:
        lines = [f"{self._origin.job}: exit {int(ended.exit_code)}", sentence(ended, self._origin.secrets)]
        return "\n".join(masked(line, self._origin.secrets) for line in [*lines, *figures(ended)])

    def _ping(self, suffix: str, body: str, seconds: float) -> None:
        (problem,) = all_within(seconds, [partial(self._post, suffix, body, seconds / ATTEMPTS)])
        if problem is not None:
            ping = {"/start": "start", "/fail": "failure", "": "success"}[suffix]
            self.problems.append(f"the heartbeat did not get the {ping} of the run: {problem}")

    def _post(self, suffix: str, body: str, timeout: float) -> Problem:
        """Send one ping, twice if the first attempt fails for a reason that may pass."""
        path, *query = self._url.raw_path.split(b"?", 1)  # as it was given: %2F is no slash
        url = self._url.copy_with(raw_path=b"?".join([path.rstrip(b"/") + suffix.encode(), *query]))
        if self.started is not None:
            url = url.copy_merge_params({"rid": str(uuid.uuid5(_RUN_IDS, self.started.run_id))})
        is_local = url.scheme == "http"
        problem: Problem = None
        with httpx.Client(timeout=timeout, trust_env=not is_local) as client:
            for _ in range(ATTEMPTS):
                problem, is_passing = _posted(client, url, body)
                if not is_passing:
                    break
        return problem


def _posted(client: httpx.Client, url: httpx.URL, body: str) -> tuple[Problem, bool]:
    """What went wrong with a ping, and whether it may pass."""
    try:
        with client.stream("POST", url, content=body.encode()) as answer:
            text = next(answer.iter_bytes(_MAX_ANSWER), b"")
    except httpx.HTTPError as error:
        return type(error).__name__, True  # its text may hold the URL
    if not answer.is_success:
        return f"HTTP {answer.status_code}", answer.status_code == 429 or answer.is_server_error
    if text.strip().startswith(b"OK ("):  # such as OK (not found), OK (rate limited)
        return "the server did not count the ping: check the URL", False
    return None, False
