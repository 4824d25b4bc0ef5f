"""Sends a message when the state of a job changes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from batchlic.events import PlanReady, RunEnded, RunEvent, RunStarted
from batchlic.monitoring.alerts.bounded import all_within, seconds_left
from batchlic.monitoring.alerts.memory import read_told, write_told
from batchlic.monitoring.alerts.message import Begun, Message, Origin, compose
from batchlic.monitoring.alerts.services import Service
from batchlic.monitoring.alerts.troubles import Kind, Trouble, has_figures, news, troubles_of


@dataclass(frozen=True)
class Policy:
    """Which changes the job reports."""

    on: Collection[Kind]
    max_rejects: int
    """Rejected rows that the job tolerates."""


class Notifier:
    """A subscriber that sends each service what has changed since its last message.

    `memory` is the file that remembers the last messages; None: every trouble is news.
    """

    def __init__(
        self, services: Sequence[Service], policy: Policy, origin: Origin, memory: Path | None
    ) -> None:
        self._services = services
        self._policy = policy
        self._origin = origin
        self._memory = memory
        self._begun: Begun | None = None
        self.problems: list[str] = []
        """The messages that did not arrive, as sentences."""

    @property
    def started(self) -> RunStarted | None:
        """The beginning of the run; None if it was refused before that."""
        return self._begun.started if self._begun is not None else None

    def __call__(self, event: RunEvent) -> None:
        """Take an event of the run."""
        match event:
            case RunStarted():
                self._begun = Begun(event)
            case PlanReady() if self._begun is not None:
                self._begun = self._begun._replace(plan=event)
            case RunEnded(is_by_person=False):
                self._tell(event)
            case _:
                pass

    def _tell(self, ended: RunEnded) -> None:
        found = troubles_of(ended, max_rejects=self._policy.max_rejects)
        told = read_told(self._memory)
        before = {label: dict(troubles) for label, troubles in told.targets.items()}
        due: list[tuple[Service, Message, dict[Kind, Trouble]]] = []
        for service in self._services:
            update, known = news(
                told.targets.get(service.label, {}),
                found,
                has_figures=has_figures(ended),
                on=self._policy.on,
            )
            if update:
                message = compose(update, found, ended, self._begun, self._origin)
                due.append((service, message, known))
            else:
                told.targets[service.label] = known
        calls = [partial(service.send, message) for service, message, _ in due]
        problems = all_within(seconds_left(ended.at), calls)
        for (service, _, known), problem in zip(due, problems, strict=True):
            if problem is None:
                told.targets[service.label] = known
            else:
                self.problems.append(f"{service} was not notified: {problem}")
        if self._memory is not None and told.targets != before and (lost := write_told(self._memory, told)):
            self.problems.append(f"notifications: {lost}")
