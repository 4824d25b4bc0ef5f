"""The canary of a run: how its devices stand decides whether the other devices are sent.

The plan says which devices these are: its first phase. Journal and callbacks say how they stand. So each
session of a run comes to the same verdict, until the first request for another device has begun.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import islice

import polars as pl

from batchlic.chunker import DeviceStatus, phase_ranges, read_batches
from batchlic.errors import StoppedEarly
from batchlic.figures import counted
from batchlic.job import Canary, Job
from batchlic.journal import JournalQueries
from batchlic.pool.remaining import remaining
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import inspected
from batchlic.runs.states import state_frames_of


class NotConfirmed(StoppedEarly):
    """Only callbacks about the canary are missing."""


@dataclass(frozen=True, slots=True)
class Gate:
    """The canary of a run that has sent no other device yet. `rules` are those of the session."""

    rules: Canary
    folder: RunFolder
    journal: JournalQueries
    batches: range

    def is_open_to_requests(self, job: Job) -> bool:
        """Whether something is left to send for the canary."""
        batches = islice(read_batches(self.folder.plan, job.inventory.id_kind), len(self.batches))
        return next(remaining(batches, self.journal, job.resendable_skus), None) is not None

    def statuses(self) -> Counter[DeviceStatus]:
        """The devices of the canary by status, with what callbacks have reported."""
        found: Counter[DeviceStatus] = Counter()
        for frame in state_frames_of(self.folder, self.journal):
            canary = frame.filter(pl.col("batch_id") < self.batches.stop)
            if canary.is_empty():
                break
            found.update(map(DeviceStatus, canary["status"]))
        return found

    def objection(self) -> StoppedEarly | None:
        """Why the other devices are not sent; None if the canary came out well.

        A device in doubt is not well. If callbacks decide, it lacks one; else it counts as failed.
        """
        statuses, rules = self.statuses(), self.rules
        devices = counted(statuses.total(), "device")
        failed, in_doubt = statuses[DeviceStatus.FAILED], statuses[DeviceStatus.IN_DOUBT]
        bad = failed if rules.confirmed else failed + in_doubt
        resume = self.folder.resuming(self.journal.identity.carrier)
        anyway = f"{resume} --canary-failures {failed + in_doubt}"
        if bad > rules.failures:
            doubt = f" and {in_doubt:,} in doubt" if in_doubt else ""
            return StoppedEarly(
                f"the canary failed: {failed:,} of its {devices} failed{doubt}, and --canary-failures allows "
                f"{rules.failures:,}. The other devices were not sent. To send them anyway: {anyway}"
            )
        if pending := statuses[DeviceStatus.PENDING]:
            return StoppedEarly(f"{pending:,} of the canary's {devices} are still to be sent: {resume}")
        if rules.confirmed and (silent := statuses[DeviceStatus.ACCEPTED] + in_doubt):
            return NotConfirmed(
                f"the canary is not confirmed: the outcome of {silent:,} of its {devices} was not known when "
                "this session ended, and the other devices were not sent. When callbacks have come: batchlic "
                f"reconcile {self.folder.path}, then {resume}. To send them without callbacks: {anyway}"
            )
        return None

    def note(self) -> str:
        """How the canary came out, for the summary."""
        figures = ", ".join(
            f"{devices:,} {status.replace('_', ' ')}" for status, devices in sorted(self.statuses().items())
        )
        return f"canary: {figures}; then the other devices were sent"


def gate_of(rules: Canary, folder: RunFolder, journal: JournalQueries) -> Gate | None:
    """The gate after the canary of a run; None if it has no canary, or has begun to send other devices."""
    if rules.devices is None:
        return None
    phases = phase_ranges(folder.plan)
    if len(phases) < 2:  # all devices are in the canary
        return None
    canary, others = phases
    if next(journal.attempts(batches=others), None) is not None:
        return None
    return Gate(rules, folder, journal, canary)


def awaits_callbacks(folder: RunFolder, rules: Canary) -> bool:
    """Whether the run in a folder has sent its canary, and lacks nothing but callbacks about it."""
    with inspected(folder) as journal:
        gate = gate_of(rules, folder, journal)
        return gate is not None and isinstance(gate.objection(), NotConfirmed)
