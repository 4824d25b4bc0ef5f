"""Ends of runs, and who is told of them."""

from collections.abc import Mapping
from pathlib import Path

from batchlic.chunker import DeviceStatus
from batchlic.events import PlanReady, RunEnded, RunStarted
from batchlic.monitoring.alerts.bounded import Problem
from batchlic.monitoring.alerts.message import Message, Origin
from batchlic.monitoring.alerts.services import Service

ORIGIN = Origin(job="nightly", host="batch-1", command="batchlic run job.toml", secrets=["hunter2"])
RUN_ID = "20261129T020000Z-0a1b2c3d"


def started(folder: Path | str = "no-such-folder", run_id: str = RUN_ID) -> RunStarted:
    return RunStarted(
        run_id=run_id,
        job="nightly",
        action="assign",
        carrier="https://thingspace.verizon.com/api",
        folder=str(folder),
        is_resumed=False,
    )


def plan(earlier_doubts: int = 0) -> PlanReady:
    """A plan; some of its devices are in doubt since an earlier run."""
    excluded = {DeviceStatus.IN_DOUBT.value: earlier_doubts} if earlier_doubts else {}
    return PlanReady(rows_read=1000, rejected={}, planned=1000, excluded=excluded, batches=10, notes=())


def ended(
    exit_code: int,
    reason: str | None = None,
    *,
    failed: int = 0,
    in_doubt: int = 0,
    rejected: int = 0,
    is_by_person: bool = False,
) -> RunEnded:
    """The end of a run; one that did not get as far as a plan has no figures (exit 2, 4 and 5)."""
    if exit_code in {2, 4, 5}:
        return RunEnded(exit_code=exit_code, reason=reason, is_by_person=is_by_person)
    counts = {DeviceStatus.ACCEPTED: 900, DeviceStatus.FAILED: failed, DeviceStatus.IN_DOUBT: in_doubt}
    return RunEnded(
        exit_code=exit_code,
        reason=reason,
        is_by_person=is_by_person,
        statuses={status: count for status, count in counts.items() if count},
        rows_read=1000,
        rejected={"duplicate": rejected} if rejected else {},
        requests=40,
        throttled=3,
    )


class FakeService(Service):
    """A target that keeps its messages; `problems` has those that it did not take, by number from 1."""

    def __init__(
        self, label: str = "BATCHLIC_NOTIFY_URLS", problems: Mapping[int, Problem] | None = None
    ) -> None:
        self.label, self.name = label, "Fake"
        self.messages: list[Message] = []
        self.asked = 0
        self._problems = problems or {}

    def send(self, message: Message) -> Problem:
        """Keep a message."""
        self.asked += 1
        problem = self._problems.get(self.asked)
        if problem is None:
            self.messages.append(message)
        return problem
