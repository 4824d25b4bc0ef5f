"""Group commit: one transaction for all waiting tasks, and each task gets the result of its transaction."""

from collections.abc import Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint

from batchlic.journal.groupcommit import GroupCommit

pytestmark = pytest.mark.anyio


class Disk:
    """Commits one group at each `commit_next`; the `broken` records can't be committed."""

    def __init__(self, *broken: int) -> None:
        self.commits: list[list[int]] = []
        self._broken = set(broken)
        self._permits = anyio.Semaphore(0)

    def writer(self) -> GroupCommit[int]:
        return GroupCommit(self._commit, offload=self._offload)

    def commit_next(self) -> None:
        self._permits.release()

    def _commit(self, records: list[int]) -> None:
        if self._broken & set(records):
            raise OSError("no room")
        self.commits.append(list(records))

    async def _offload(self, commit: Callable[[list[int]], None], records: list[int]) -> None:
        await self._permits.acquire()
        commit(records)


class Writers:
    """Tasks that write one record each, and the result of each task."""

    def __init__(self, disk: Disk) -> None:
        self._writer = disk.writer()
        self.results: dict[int, str] = {}
        self.scopes: dict[int, anyio.CancelScope] = {}

    async def write(self, record: int) -> None:
        with anyio.CancelScope() as self.scopes[record]:
            try:
                await self._writer.write(record)
            except OSError:
                self.results[record] = "failed"
            else:
                self.results[record] = "durable"
                await checkpoint()


async def test_records_that_arrive_during_a_commit_share_the_next_one() -> None:
    disk = Disk()
    writers = Writers(disk)
    async with anyio.create_task_group() as tasks:
        for record in range(10):
            tasks.start_soon(writers.write, record)
            await anyio.wait_all_tasks_blocked()
        disk.commit_next()
        disk.commit_next()
    assert disk.commits == [[0], list(range(1, 10))]


async def test_no_task_continues_before_its_record_is_durable() -> None:
    disk = Disk()
    writers = Writers(disk)
    async with anyio.create_task_group() as tasks:
        for record in range(3):
            tasks.start_soon(writers.write, record)
            await anyio.wait_all_tasks_blocked()
        assert writers.results == {}
        disk.commit_next()
        await anyio.wait_all_tasks_blocked()
        assert writers.results == {0: "durable"}
        disk.commit_next()
    assert writers.results == dict.fromkeys(range(3), "durable")


async def test_a_failed_commit_fails_all_tasks_of_its_group_only() -> None:
    disk = Disk(2)
    writers = Writers(disk)
    async with anyio.create_task_group() as tasks:
        for record in range(4):
            tasks.start_soon(writers.write, record)
            await anyio.wait_all_tasks_blocked()
        disk.commit_next()
        disk.commit_next()
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(writers.write, 4)
        disk.commit_next()
    assert writers.results == {0: "durable", 1: "failed", 2: "failed", 3: "failed", 4: "durable"}


@pytest.mark.parametrize("canceled", [1, 2], ids=["leader", "follower"])
async def test_a_canceled_task_does_not_affect_its_group(canceled: int) -> None:
    disk = Disk()
    writers = Writers(disk)
    async with anyio.create_task_group() as tasks:
        for record in range(4):
            tasks.start_soon(writers.write, record)
            await anyio.wait_all_tasks_blocked()
        writers.scopes[canceled].cancel()
        await anyio.wait_all_tasks_blocked()
        disk.commit_next()
        disk.commit_next()
    others = {0, 1, 2, 3} - {canceled}
    assert {record: writers.results.get(record) for record in others} == dict.fromkeys(others, "durable")
    assert disk.commits == [[0], [1, 2, 3]]


async def test_an_aborted_commit_aborts_every_task_of_its_group() -> None:
    class Aborted(BaseException):
        pass

    disk = Disk()

    async def offload(_commit: Callable[[list[int]], None], _records: list[int]) -> None:
        await disk._permits.acquire()
        raise Aborted

    writer = GroupCommit(disk._commit, offload=offload)
    results: list[str] = []

    async def write(record: int) -> None:
        try:
            await writer.write(record)
        except Aborted:
            results.append("aborted")
        else:
            results.append("durable")

    async with anyio.create_task_group() as tasks:
        for record in range(3):
            tasks.start_soon(write, record)
            await anyio.wait_all_tasks_blocked()
        disk.commit_next()
        disk.commit_next()
    assert results == ["aborted"] * 3
