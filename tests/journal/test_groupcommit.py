"""Group commit: one transaction for all that wait, and each hears how its own went."""

from collections.abc import Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint

from batchlic.journal.groupcommit import GroupCommit

pytestmark = pytest.mark.anyio


class Disk:
    """Commits one group each time it is let go; `broken` records can't be committed."""

    def __init__(self, *broken: int) -> None:
        self.commits: list[list[int]] = []
        self._broken = set(broken)
        self._go = anyio.Semaphore(0)

    def writer(self) -> GroupCommit[int]:
        return GroupCommit(self._commit, offload=self._offload)

    def let_go(self) -> None:
        self._go.release()

    def _commit(self, records: list[int]) -> None:
        if self._broken & set(records):
            raise OSError("no room")
        self.commits.append(list(records))

    async def _offload(self, commit: Callable[[list[int]], None], records: list[int]) -> None:
        await self._go.acquire()
        commit(records)


class Crowd:
    """Tasks that write a record each; notes how each of them fared."""

    def __init__(self, disk: Disk) -> None:
        self._writer = disk.writer()
        self.fates: dict[int, str] = {}
        self.scopes: dict[int, anyio.CancelScope] = {}

    async def write(self, record: int) -> None:
        with anyio.CancelScope() as self.scopes[record]:
            try:
                await self._writer.write(record)
            except OSError:
                self.fates[record] = "failed"
            else:
                self.fates[record] = "durable"
                await checkpoint()


async def test_records_that_arrive_during_a_commit_share_the_next_one() -> None:
    disk = Disk()
    crowd = Crowd(disk)
    async with anyio.create_task_group() as tasks:
        for record in range(10):
            tasks.start_soon(crowd.write, record)
            await anyio.wait_all_tasks_blocked()
        disk.let_go()
        disk.let_go()
    assert disk.commits == [[0], list(range(1, 10))]


async def test_no_task_continues_before_its_record_is_durable() -> None:
    disk = Disk()
    crowd = Crowd(disk)
    async with anyio.create_task_group() as tasks:
        for record in range(3):
            tasks.start_soon(crowd.write, record)
            await anyio.wait_all_tasks_blocked()
        assert crowd.fates == {}
        disk.let_go()
        await anyio.wait_all_tasks_blocked()
        assert crowd.fates == {0: "durable"}
        disk.let_go()
    assert crowd.fates == dict.fromkeys(range(3), "durable")


async def test_a_failed_commit_fails_all_tasks_of_its_group_only() -> None:
    disk = Disk(2)
    crowd = Crowd(disk)
    async with anyio.create_task_group() as tasks:
        for record in range(4):
            tasks.start_soon(crowd.write, record)
            await anyio.wait_all_tasks_blocked()
        disk.let_go()
        disk.let_go()
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(crowd.write, 4)
        disk.let_go()
    assert crowd.fates == {0: "durable", 1: "failed", 2: "failed", 3: "failed", 4: "durable"}


@pytest.mark.parametrize("cancelled", [1, 2], ids=["leader", "follower"])
async def test_a_canceled_task_does_not_affect_its_group(cancelled: int) -> None:
    disk = Disk()
    crowd = Crowd(disk)
    async with anyio.create_task_group() as tasks:
        for record in range(4):
            tasks.start_soon(crowd.write, record)
            await anyio.wait_all_tasks_blocked()
        crowd.scopes[cancelled].cancel()
        await anyio.wait_all_tasks_blocked()
        disk.let_go()
        disk.let_go()
    others = {0, 1, 2, 3} - {cancelled}
    assert {record: crowd.fates.get(record) for record in others} == dict.fromkeys(others, "durable")
    assert disk.commits == [[0], [1, 2, 3]]


async def test_an_aborted_commit_aborts_every_task_of_its_group() -> None:
    class TornAway(BaseException):
        pass

    disk = Disk()

    async def offload(_commit: Callable[[list[int]], None], _records: list[int]) -> None:
        await disk._go.acquire()
        raise TornAway

    writer = GroupCommit(disk._commit, offload=offload)
    fates: list[str] = []

    async def write(record: int) -> None:
        try:
            await writer.write(record)
        except TornAway:
            fates.append("torn away")
        else:
            fates.append("durable")

    async with anyio.create_task_group() as tasks:
        for record in range(3):
            tasks.start_soon(write, record)
            await anyio.wait_all_tasks_blocked()
        disk.let_go()
        disk.let_go()
    assert fates == ["torn away"] * 3
