"""Group commit: many tasks wait for one durable transaction.

DeWitt et al., "Implementation Techniques for Main Memory Database Systems" (1984), section 5.2: the log
records of the transactions that end while a commit is under way go to disk together with the next one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio

Record = TypeVar("Record")


class _Group(Generic[Record]):
    """Records that will be committed together, and the event that says how it went."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.committed = anyio.Event()
        self.error: BaseException | None = None


class GroupCommit(Generic[Record]):
    """Turns a blocking `commit(records)` into awaitable `write(record)`: one transaction for all that wait.

    The first record of a group leads: it waits for the commit under way, then commits all that came
    meanwhile. `offload` runs the blocking call (in a thread; inline where time is simulated).
    """

    def __init__(
        self,
        commit: Callable[[list[Record]], None],
        *,
        offload: Callable[[Callable[[list[Record]], None], list[Record]], Awaitable[None]],
    ) -> None:
        self._commit = commit
        self._offload = offload
        self._one_at_a_time = anyio.Lock()
        self._filling: _Group[Record] | None = None

    async def write(self, record: Record) -> None:
        """Return once `record` is durable; raise what `commit` raised for its group.

        A cancelled caller may or may not have had its record written.
        """
        group = self._filling
        if group is not None:
            group.records.append(record)
            await group.committed.wait()
            if group.error is not None:
                raise group.error
        else:
            group = self._filling = _Group()
            group.records.append(record)
            with anyio.CancelScope(shield=True):  # others wait for this leader
                await self._lead(group)

    async def _lead(self, group: _Group[Record]) -> None:
        async with self._one_at_a_time:
            self._filling = None
            try:
                await self._offload(self._commit, group.records)
            except BaseException as error:
                group.error = error  # for every other task of the group
                raise
            finally:
                group.committed.set()
