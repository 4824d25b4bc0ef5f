"""What ends the sending of a session."""

from typing import cast

import trio
from trio.testing import MockClock

from batchlic.errors import BatchlicError, StoppedEarly
from batchlic.journal import Journal
from batchlic.pool.delivery import Pool
from batchlic.runs.submit import _abort_when_lost


class LostJournal:
    """The journal of a run that another session takes over after some looks."""

    def __init__(self, looks: int) -> None:
        self._looks = looks

    def check_held(self) -> None:
        self._looks -= 1
        if self._looks < 0:
            raise StoppedEarly("this session has lost its lease")


class RecordingPool:
    """A pool that notes how it is stopped."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def fail(self, error: BatchlicError) -> None:
        self.calls.append(str(error))

    def abort(self) -> None:
        self.calls.append("abort")


def test_k_requests_in_flight_are_cut_off_when_the_lease_is_lost() -> None:
    pool, journal = RecordingPool(), LostJournal(looks=5)
    trio.run(
        _abort_when_lost,
        cast("Pool", pool),
        cast("Journal", journal),
        clock=MockClock(autojump_threshold=0),
    )
    assert pool.calls == ["this session has lost its lease", "abort"]
