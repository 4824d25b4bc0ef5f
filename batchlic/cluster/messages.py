"""What coordinator and workers tell each other through Dask. None of it is a secret (promise F)."""

from typing import Any, TypeAlias

import msgspec

from batchlic.events import LicensesCounted, LimitChanged, RateMeasured, Warned
from batchlic.journal.store_record import LEASE_OF_RUN
from batchlic.runs.live_limits import Bounds

ShardEvent: TypeAlias = Warned | LimitChanged | RateMeasured | LicensesCounted
"""The events of a shard that its coordinator passes on. The others come from the journal, or from nowhere."""


class ShardTask(msgspec.Struct, frozen=True, kw_only=True):
    """One shard of a run, for a worker.

    The password of the store and the login at the carrier are those of the worker's own settings.
    """

    store: str
    """The name of the store: its URL without a password."""
    key: str
    """The key of the run's journal in the store."""
    folder: str
    """Path of the run folder, or its address in an object store."""
    epoch: int
    """The epoch of the coordinator's lease."""
    lease_s: float
    number: int
    first_batch: int
    end_batch: int
    """The batch after the last one."""
    sharers: int
    """The shards at work at once, among which the requests in flight are divided."""
    rate_sharers: int
    """Those of them among which a rate is divided."""
    first_seq: int
    end_seq: int
    """The numbers for entries of the journal: from the first one, and below this one."""
    carrier: str
    sandbox: str | None
    """Address of a sandbox carrier on this machine; None: the carrier of the worker's settings."""
    profile: str | None
    job: dict[str, Any]
    bounds: Bounds | None
    """The limits in force, if somebody has changed those of the job."""

    @property
    def run_key(self) -> str:
        """The key of the coordinator's lease."""
        return f"{LEASE_OF_RUN}{self.key}"

    @property
    def session(self) -> str:
        """A name for the coordinator's session."""
        return f"{self.run_key}/{self.epoch}"

    @property
    def batches(self) -> range:
        """The batches of the shard."""
        return range(self.first_batch, self.end_batch)

    @property
    def seqs(self) -> range:
        """The numbers for entries of the journal."""
        return range(self.first_seq, self.end_seq)


class ShardEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a shard ended. `exit_code` is that of the error `reason`; None if all of it was sent."""

    exit_code: int | None = None
    reason: str = ""
    notes: list[str] = []


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a shard at work tells. `is_ready`: the carrier has accepted its login."""

    number: int
    is_ready: bool = False
    event: ShardEvent | None = None
