"""Counts devices and requests from the journal, as `batchlic.runs.observation` does from the pool."""

from collections import Counter
from collections.abc import Mapping

from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus, Step
from batchlic.journal import Answered, RunIdentity, Settled


def was_sent(one: Answered) -> bool:
    """Whether the request left: a throttled one without an HTTP status did not."""
    return one.outcome != Outcome.THROTTLED or one.http_status is not None


class JournalCounts:
    """Devices and requests of a run, counted answer by answer.

    `devices` are those that are accepted or failed, `requests` those that left, by outcome.
    """

    def __init__(self, identity: RunIdentity) -> None:
        self.excluded = sum(identity.excluded.values())
        self.to_send = identity.planned - self.excluded
        self.devices: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._is_migration = identity.to_sku is not None
        self._in_doubt: dict[tuple[int, str | None, str], int] = {}
        self._steps: dict[int, list[int]] = {}
        """Of a migration: the devices of a batch that are unassigned, and those that are assigned."""

    @property
    def in_doubt(self) -> int:
        """The devices in doubt."""
        return sum(self._in_doubt.values())

    @property
    def statuses(self) -> Mapping[DeviceStatus, int]:
        """The devices that are accepted, failed and in doubt."""
        return {
            DeviceStatus.ACCEPTED: self.devices[DeviceStatus.ACCEPTED],
            DeviceStatus.FAILED: self.devices[DeviceStatus.FAILED],
            DeviceStatus.IN_DOUBT: self.in_doubt,
        }

    def answered(self, one: Answered) -> int:
        """Count an answer; returns the devices that it settled."""
        self.requests[one.outcome] += was_sent(one)
        part = (one.batch_id, one.step, one.part)
        done = 0
        if one.outcome == Outcome.AMBIGUOUS:
            self._in_doubt.setdefault(part, one.device_count)
        elif one.outcome == Outcome.ACCEPTED:
            self._in_doubt.pop(part, None)
            done = self._moved(one) if self._is_migration else one.device_count
            self.devices[DeviceStatus.ACCEPTED] += done
        elif one.outcome == Outcome.REFUSED and one.final and part not in self._in_doubt:
            done = one.device_count if one.step in {None, Step.ASSIGN, Step.UNASSIGN} else 0
            self.devices[DeviceStatus.FAILED] += done
        return done

    def settled(self, decision: Settled) -> None:
        """Count a decision about devices in doubt."""
        self._in_doubt.pop((decision.batch_id, decision.step, decision.part), None)
        if not self._is_migration:
            self.devices[decision.status] += decision.device_count

    def _moved(self, one: Answered) -> int:
        """The devices of a migration that have both steps with this answer."""
        steps = (Step.UNASSIGN.value, Step.ASSIGN.value)
        if one.step not in steps:
            return 0
        counts = self._steps.setdefault(one.batch_id, [0, 0])
        before = min(counts)
        counts[steps.index(one.step)] += one.device_count
        return min(counts) - before
