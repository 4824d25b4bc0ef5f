"""Group commit: many tasks wait for one durable transaction.

DeWitt et al., "Implementation Techniques for Main Memory Database Systems" (1984), section 5.2: if
transactions end during a commit, the next commit writes all their log records together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio

Record = TypeVar("Record")


class _Group(Generic[Record]):
    """Records that are committed together, an event for the end of the commit, and its error."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.committed = anyio.Event()
        self.error: BaseException | None = None


class GroupCommit(Generic[Record]):
    """Offers an awaitable `write(record)` over a blocking `commit(records)`, with few commits.

    The task with the first record of a group is the leader: it waits until the current commit ends, then
    commits all records that have arrived meanwhile. `offload` runs the blocking call: in a thread, or inline
    in simulations.
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
        """Return when `record` is durable; raise the error of `commit` for its group.

        If the caller is canceled, its record may or may not be written.
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
            with anyio.CancelScope(shield=True):  # other tasks wait for this leader
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
