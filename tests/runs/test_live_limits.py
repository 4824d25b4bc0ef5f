"""Limits of a session at work are changed from outside: files in the run folder, in virtual time."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import anyio
import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchlic.errors import BatchlicError, NoAccess, RefusedToStart, RunFolderError, UsageError
from batchlic.events import BoundsChanged
from batchlic.job import Limits
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.limiters import only
from batchlic.runs.folder import RunFolder
from batchlic.runs.live_limits import (
    Bounds,
    Changes,
    LimitedHere,
    LimitsInForce,
    LimitsRequest,
    LiveLimits,
    change_limits,
    limits_in_force,
)
from tests.privileges import without_privileges
from tests.runs.test_learned import Events

Step = Callable[["Session"], None]
BOUNDS = Bounds(max_rate=50.0, max_concurrency=8, headroom="20%", is_paused=True)


class Session:
    """A session that looks for requests, but sends nothing."""

    def __init__(self, folder: RunFolder, limits: Limits) -> None:
        self.folder = folder
        self.events = Events()
        self.limiter = Limiter(max_concurrency=limits.max_concurrency, max_rate=limits.max_rate)
        self.live = LiveLimits(folder, limits, LimitedHere(only(self.limiter)), self.events)

    def request(self, *, session: str | None = None, bounds: Bounds = BOUNDS) -> LimitsRequest:
        session = session or str(self.folder.process)
        return LimitsRequest(
            session=session, id="1", by="alice", at="2026-11-29T01:00:00.000000Z", bounds=bounds
        )

    def ask(self, request: LimitsRequest) -> None:
        self.write(msgspec.json.encode(request))

    def write(self, content: bytes) -> None:
        self.folder.limits_request.write_bytes(content)

    @property
    def changes(self) -> list[BoundsChanged]:
        return [event for event in self.events.kept if isinstance(event, BoundsChanged)]

    @property
    def in_force(self) -> Bounds:
        limits = limits_in_force(self.folder)
        assert limits is not None
        return limits.bounds


def at_work(path: Path, *steps: Step, limits: Limits | None = None) -> Session:
    """A session, during which the steps are taken, a second apart."""

    async def work() -> Session:
        session = Session(folder, limits or Limits())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.live.watch)
            for step in steps:
                await anyio.sleep(1.0)
                step(session)
            await anyio.sleep(1.0)
            tasks.cancel_scope.cancel()
        return session

    folder = RunFolder(path / "run")
    folder.make()
    with folder.locked():
        return trio.run(work, clock=MockClock(autojump_threshold=0))


def test_a_request_is_in_force_and_reported_within_a_second(tmp_path: Path) -> None:
    def look(session: Session) -> None:
        assert session.limiter.is_stopped
        assert session.limiter.rate == 50.0
        assert session.limiter.concurrency == 8
        assert session.in_force == BOUNDS

    session = at_work(tmp_path, lambda s: s.ask(s.request()), look)
    [change] = session.changes
    assert (change.by, change.max_rate, change.headroom, change.is_paused) == ("alice", 50.0, "20%", True)


def test_a_pause_ends_on_request(tmp_path: Path) -> None:
    resumed = msgspec.structs.replace(BOUNDS, is_paused=False)
    session = at_work(tmp_path, lambda s: s.ask(s.request()), lambda s: s.ask(s.request(bounds=resumed)))
    assert not session.limiter.is_stopped
    assert session.limiter.rate == 50.0


def test_no_more_are_in_flight_than_the_session_began_with(tmp_path: Path) -> None:
    many = msgspec.structs.replace(BOUNDS, max_concurrency=1000)
    session = at_work(tmp_path, lambda s: s.ask(s.request(bounds=many)), limits=Limits(max_concurrency=16))
    assert session.limiter.concurrency <= 16


def test_a_request_to_an_earlier_session_pauses_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.make()
    earlier = LimitsRequest(
        session="pid 1 on host, since 2026-11-28T01:00:00Z", id="1", by="a", at="", bounds=BOUNDS
    )
    folder.limits_request.write_bytes(msgspec.json.encode(earlier))
    session = at_work(tmp_path, lambda s: s.ask(earlier))
    assert not session.limiter.is_stopped
    assert session.changes == []


def test_a_session_leaves_no_request_to_the_next_one(tmp_path: Path) -> None:
    session = at_work(tmp_path, lambda s: s.ask(s.request()))
    assert not session.folder.limits_request.exists()
    assert not session.folder.limits.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\x00" * 100,
        b"[" * 20_000,
        b"{}",
        json.dumps({"session": "s", "id": "1", "by": "a", "at": "", "bounds": {"max_rate": 0}}).encode(),
        msgspec.json.encode({**msgspec.to_builtins(BOUNDS), "headroom": "100%"}),
    ],
)
def test_a_damaged_request_is_reported_once_and_changes_nothing(content: bytes, tmp_path: Path) -> None:
    session = at_work(
        tmp_path,
        lambda s: s.write(content),
        lambda _: None,
        lambda _: None,
    )
    assert len(session.events.warnings) == 1
    assert "ignored" in session.events.warnings[0]
    assert session.limiter.concurrency > 0
    assert not session.limiter.is_stopped


def test_a_request_after_a_damaged_one_counts(tmp_path: Path) -> None:
    session = at_work(tmp_path, lambda s: s.write(b"{"), lambda s: s.ask(s.request()))
    assert session.limiter.is_stopped


def test_a_folder_that_cannot_be_written_only_warns(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.make()
    with folder.locked():
        folder.path.chmod(0o500)

        async def work() -> list[str]:
            session = Session(folder, Limits())
            with anyio.move_on_after(3):
                await session.live.watch()
            return session.events.warnings

        with without_privileges():
            [warning] = trio.run(work, clock=MockClock(autojump_threshold=0))
        folder.path.chmod(0o700)
    assert "batchlic limit can't change" in warning


# -- the other terminal ---------------------------------------------------------------------------------


def in_force(**given: float | str) -> LimitsInForce:
    began_with = Bounds(max_rate=None, max_concurrency=64, headroom="0%")
    fixed_rate = given.pop("fixed_rate", None)
    bounds = msgspec.structs.replace(began_with, **given)
    return msgspec.convert(
        {"session": "s", "began_with": began_with, "fixed_rate": fixed_rate, "bounds": bounds},
        LimitsInForce,
        from_attributes=True,
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (Changes(is_paused=True), Bounds(max_rate=9.0, max_concurrency=64, headroom="20%", is_paused=True)),
        (Changes(max_rate=5.0), Bounds(max_rate=5.0, max_concurrency=64, headroom="20%")),
        (Changes(max_concurrency=1, headroom="0%"), Bounds(max_rate=9.0, max_concurrency=1, headroom="0%")),
        (Changes(is_reset=True), Bounds(max_rate=None, max_concurrency=64, headroom="0%")),
        (Changes(is_reset=True, max_rate=7.0), Bounds(max_rate=7.0, max_concurrency=64, headroom="0%")),
    ],
)
def test_changes_keep_what_they_do_not_name(changes: Changes, expected: Bounds) -> None:
    assert changes.applied(in_force(max_rate=9.0, headroom="20%")) == expected


@pytest.mark.parametrize(
    ("changes", "limits", "message"),
    [
        (Changes(max_concurrency=65), in_force(), "the most that it can have"),
        (Changes(headroom="20%"), in_force(fixed_rate=5.0), "fixed rate"),
        (Changes(headroom="100%"), in_force(), "--pause"),
    ],
)
def test_changes_without_effect_are_refused(changes: Changes, limits: LimitsInForce, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        changes.applied(limits)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ("missing", RunFolderError, "no such run folder"),
        ("ended", RefusedToStart, "no session is at work"),
        ("killed", RefusedToStart, "no session is at work"),
        ("settling", RefusedToStart, "does not send now"),
        ("closed", NoAccess, "run the command as|fix the permissions"),
    ],
)
def test_a_run_that_is_not_at_work_is_refused(
    state: str, error: type[BatchlicError], message: str, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    if state != "missing":
        folder.make()
    if state == "killed":
        left = msgspec.structs.replace(in_force(), session="pid 1 on host, since 2026-11-28T01:00:00Z")
        folder.limits.write_bytes(msgspec.json.encode(left))
    if state == "closed":
        folder.path.chmod(0)
    lock = folder.locked() if state == "settling" else nullcontext()
    with lock, without_privileges(), pytest.raises(error, match=message):
        change_limits(folder, Changes(is_paused=True))


def test_a_run_in_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.make()
    with folder.locked():
        limits = msgspec.structs.replace(in_force(), session=str(folder.process))
        folder.limits.write_bytes(msgspec.json.encode(limits))
        folder.path.chmod(0o500)
        with without_privileges(), pytest.raises(NoAccess, match="may not write"):
            change_limits(folder, Changes(is_paused=True))
        folder.path.chmod(0o700)
    assert not folder.limits_request.exists()
