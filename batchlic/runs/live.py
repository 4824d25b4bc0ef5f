"""A run at work in figures, for those who watch it: cheap enough to ask once a second."""

from collections import Counter, deque
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus
from batchlic.figures import time_on_terminal
from batchlic.journal import Answered, RunIdentity, Settled
from batchlic.pool.limiter.limiter import TOLD_TO_WAIT
from batchlic.runs.counts import JournalCounts, was_sent
from batchlic.runs.finalize import now
from batchlic.runs.folder import RunFolder
from batchlic.runs.live_limits import LimitsInForce, limits_in_force
from batchlic.runs.process import Process

SPAN_S = 60
"""Seconds over which devices per second are averaged, in the session at work."""
RATE_SPAN_S = 10
"""Seconds over which requests per second are averaged, as the limiter does."""
INTERVAL_S = 3
INTERVALS = 60

_FEWEST_INTERVALS = 10

_LOG_BLOCK = 1 << 20
_LOG_MAX = 64 << 20
"""Bytes of the log that are searched for a limit, counted from the end of the file."""


class Interval(NamedTuple):
    """What was answered within INTERVAL_S seconds, per second."""

    devices_per_s: float
    requests_per_s: float


class _Recent(NamedTuple):
    """An answer: when its request was sent, when it came, and the devices and requests that it settled."""

    started_at: int
    answered_at: int
    devices: int
    requests: int


class LiveFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A run at this moment. The devices are counted as the progress of the run counts them."""

    process: Process | None
    """None once no process works on the run."""
    to_send: int
    """Planned devices without those that the ledger excludes."""
    excluded: int
    accepted: int
    failed: int
    in_doubt: int
    requests: int
    throttled: int
    devices_per_second: float
    requests_per_second: float
    seconds_left: float | None
    """None if nothing was settled lately."""
    found: str | None
    """The limit that this session has found, in words; None if none was reported yet."""
    flow: list[Interval]
    """The last intervals with answers, at most INTERVALS of them, the oldest first."""
    paused: str | None = None
    """Who has paused the session, and when; None if it is not paused."""

    @property
    def pending(self) -> int:
        """Devices still to be sent, or whose answer is awaited."""
        return max(0, self.to_send - self.accepted - self.failed - self.in_doubt)

    @property
    def share_done(self) -> float:
        """Share of the devices to send that are accepted or failed, 0 to 1."""
        return min(1.0, (self.accepted + self.failed) / self.to_send) if self.to_send else 1.0


class LiveRun:
    """Watches one run. Not for several threads at once.

    `read` decodes what is new in the journal, and in the log, which has the limits that were found.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._journal = folder.journal.tail()
        self._limits = _LimitLog(folder.log)
        self._tally: _Tally | None = None

    def read(self) -> LiveFigures | None:
        """The figures at this moment; None before the run has a journal, while it is planned.

        Raises RunFolderError, NoAccess or StoppedEarly if the journal can't be read.
        """
        process = self._folder.process
        if self._tally is None and not self._folder.journal.exists():
            return None
        answered, settled = self._journal.read()
        if self._tally is None:
            identity = self._journal.identity
            if identity is None:
                return None
            self._tally = _Tally(identity)
        self._tally.add(answered, settled)
        figures = self._tally.figures(process, self._limits.last_since(process.since if process else ""))
        return msgspec.structs.replace(figures, paused=_paused(limits_in_force(self._folder)))


class _Tally:
    """The figures of a run, from its journal."""

    def __init__(self, identity: RunIdentity) -> None:
        self._counts = JournalCounts(identity)
        self._recent: deque[_Recent] = deque()

    def add(self, answered: list[Answered], settled: list[Settled]) -> None:
        for one in answered:
            done = self._counts.answered(one)
            self._recent.append(_Recent(one.started_at, one.answered_at, done, int(was_sent(one))))
        for decision in settled:
            self._counts.settled(decision)
        earliest = now() - 2 * INTERVALS * INTERVAL_S * 1_000_000
        while self._recent and self._recent[0].answered_at < earliest:
            self._recent.popleft()

    def figures(self, process: Process | None, found: str | None) -> LiveFigures:
        moment = now()
        rate, _ = self._rates(process, moment, SPAN_S)
        _, requests_per_second = self._rates(process, moment, RATE_SPAN_S)
        counts = self._counts
        left = counts.to_send - counts.devices[DeviceStatus.ACCEPTED] - counts.devices[DeviceStatus.FAILED]
        return LiveFigures(
            process=process,
            to_send=counts.to_send,
            excluded=counts.excluded,
            accepted=counts.devices[DeviceStatus.ACCEPTED],
            failed=counts.devices[DeviceStatus.FAILED],
            in_doubt=counts.in_doubt,
            requests=counts.requests.total(),
            throttled=counts.requests[Outcome.THROTTLED],
            devices_per_second=rate,
            requests_per_second=requests_per_second,
            seconds_left=left / rate if rate else None,
            found=found,
            flow=self._flow(moment),
        )

    def _rates(self, process: Process | None, moment: int, seconds: int) -> tuple[float, float]:
        """Devices and requests per second, over the last seconds in which this session sent requests."""
        of_session = [one for one in self._recent if one.started_at >= _began(process)]
        began = min((one.started_at for one in of_session), default=moment)
        since = max(began, moment - seconds * 1_000_000)
        span = max(1.0, (moment - since) / 1e6)
        recent = [one for one in of_session if one.answered_at >= since]
        return sum(one.devices for one in recent) / span, sum(one.requests for one in recent) / span

    def _flow(self, moment: int) -> list[Interval]:
        """The last whole intervals. They begin at round times, so that a point does not change later."""
        width = INTERVAL_S * 1_000_000
        newest = moment // width
        devices: Counter[int] = Counter()
        requests: Counter[int] = Counter()
        for one in self._recent:
            devices[one.answered_at // width] += one.devices
            requests[one.answered_at // width] += one.requests
        first = min((at for at in requests if at >= newest - INTERVALS), default=newest)
        shown = range(min(first, newest - _FEWEST_INTERVALS), newest)
        return [Interval(devices[at] / INTERVAL_S, requests[at] / INTERVAL_S) for at in shown]


def _paused(limits: LimitsInForce | None) -> str | None:
    if limits is None or not limits.bounds.is_paused:
        return None
    return f"by {limits.changed_by} at {time_on_terminal(limits.changed_at or '')}"


def _began(process: Process | None) -> float:
    """When the process began to work on the run, in microseconds since 1970; 0 if that is not known."""
    with suppress(ValueError):
        if process is not None:
            return datetime.fromisoformat(process.since).timestamp() * 1e6
    return 0.0


class _LogLine(msgspec.Struct):
    """A line of the log that may report a limit."""

    event: str = ""
    found: str = ""
    timestamp: str = ""
    account: str | None = None
    """The account whose limit it is, if each one has a limiter."""

    @property
    def words(self) -> str:
        """The limit in words."""
        return self.found if self.account is None else f"{self.found} (account {self.account})"


class _LimitLog:
    """The limits in a run's log, which only grows. What can't be read is left out: the log is no record."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = -1
        self._rest = b""
        self._last = _LogLine()

    def last_since(self, since: str) -> str | None:
        """The last limit that was reported since a time in ISO 8601; None if there is none.

        If each account has a limiter, the words name the account.
        """
        with suppress(OSError):
            self._read()
        return self._last.words if self._last.found and self._last.timestamp >= since.rstrip("Z") else None

    def _read(self) -> None:
        with self._path.open("rb") as file:
            size = file.seek(0, 2)
            if self._at < 0 or size < self._at:
                self._at, self._rest = max(0, size - _LOG_MAX), b""
            file.seek(self._at)
            while block := file.read(_LOG_BLOCK):
                self._at += len(block)
                *lines, self._rest = (self._rest + block).split(b"\n")
                for line in lines:
                    if b'"event":"limiter"' in line:
                        self._take(line)

    def _take(self, line: bytes) -> None:
        with suppress(msgspec.MsgspecError):
            found = msgspec.json.decode(line, type=_LogLine)
            if not found.found.startswith(TOLD_TO_WAIT):
                self._last = found
