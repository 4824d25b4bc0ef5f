"""Live figures: one reading for all viewers, and streams that end."""

from collections.abc import Callable
from pathlib import Path

import anyio
import msgspec
import pytest

from batchlic.errors import BatchlicError, RunFolderError, StoppedEarly
from batchlic.runs.folder import RunFolder
from batchlic.runs.live import LiveFigures, LiveRun
from batchlic.runs.live_limits import Bounds, LimitsInForce
from batchlic.web import live
from batchlic.web.catalog import Catalog
from batchlic.web.live import MAX_STREAMS, LiveMessage, LiveRuns, Streams, message
from tests.runs.kept_runs import begun


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "INTERVAL", 0)


@pytest.mark.anyio
async def test_viewers_of_a_run_share_each_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "INTERVAL", 3600)
    begun(tmp_path / "run")
    [entry] = Catalog(tmp_path).entries()
    readings: list[LiveFigures | None] = []

    def read(run: LiveRun) -> LiveFigures | None:
        readings.append(original(run))
        return readings[-1]

    original = LiveRun.read
    monkeypatch.setattr(LiveRun, "read", read)
    runs = LiveRuns()
    async with anyio.create_task_group() as viewers:
        for _ in range(20):
            viewers.start_soon(runs.figures, entry)
    assert len(readings) == 1


@pytest.mark.anyio
async def test_a_stream_sends_what_is_new_until_the_run_is_over() -> None:
    first, second = LiveMessage({"done": "1"}), LiveMessage({"done": "2"})
    sent = await _stream([first, first, StoppedEarly("busy"), second, None])
    assert [line.split(b"\n")[0] for line in sent[1:]] == [
        b'data: {"text":{"done":"1"},"value":{},"draw":{}}',
        b": the same",
        b": the same",
        b'data: {"text":{"done":"2"},"value":{},"draw":{}}',
        b"event: changed",
    ]


@pytest.mark.anyio
async def test_a_run_that_becomes_unreadable_ends_its_stream() -> None:
    assert (await _stream([RunFolderError("damaged")]))[-1].startswith(b"event: changed")


@pytest.mark.anyio
@pytest.mark.parametrize("ends", ["logout", "stop"])
async def test_a_stream_ends_with_the_session_and_with_the_server(ends: str) -> None:
    over: list[str] = []
    sent = await _stream(
        [LiveMessage()] * 9,
        is_stopping=lambda: "stop" in over,
        may_go_on=lambda: "logout" not in over,
        after_each=lambda: over.append(ends),
    )
    assert len(sent) == 2


@pytest.mark.anyio
async def test_there_are_only_so_many_streams() -> None:
    streams = Streams(lambda: False)

    async def read() -> LiveMessage:
        return LiveMessage()

    opened = [streams.events(read, may_go_on=lambda: True) for _ in range(MAX_STREAMS)]
    for stream in opened:
        assert not streams.is_full
        await anext(stream)
    assert streams.is_full
    for stream in opened:
        await stream.aclose()  # type: ignore[attr-defined]  # an async generator
    assert not streams.is_full


async def _stream(
    told: list[LiveMessage | BatchlicError | None],
    *,
    is_stopping: Callable[[], bool] = lambda: False,
    may_go_on: Callable[[], bool] = lambda: True,
    after_each: Callable[[], object] = lambda: None,
) -> list[bytes]:
    """What a stream sends if its readings tell this."""
    readings = iter(told)

    async def read() -> LiveMessage | None:
        found = next(readings)
        after_each()
        if isinstance(found, BatchlicError):
            raise found
        return found

    return [line async for line in Streams(is_stopping).events(read, may_go_on=may_go_on)]


def test_a_page_says_100_percent_only_of_all_devices(tmp_path: Path) -> None:
    begun(tmp_path / "run", planned=100_000)
    none = LiveRun(RunFolder(tmp_path / "run")).read()
    assert none is not None
    for accepted, percent in ((0, "0.0%"), (99_999, "99.9%"), (100_000, "100%")):
        found = msgspec.structs.replace(none, accepted=accepted)
        assert message(found).text["percent"] == percent


def test_the_page_of_a_paused_run_says_who_paused_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(tmp_path / "run")
    bounds = Bounds(max_rate=None, max_concurrency=64, headroom="0%", is_paused=True)
    at = "2026-11-29T02:14:00Z"
    limits = LimitsInForce(
        session="a", began_with=bounds, fixed_rate=None, bounds=bounds, changed_by="<ana>", changed_at=at
    )
    monkeypatch.setattr("batchlic.runs.live.limits_in_force", lambda _: limits)
    paused = message(LiveRun(RunFolder(tmp_path / "run")).read()).text
    assert paused["paused"] == f"Paused by <ana> at {at}. To go on: batchlic limit --resume"
    assert paused["left"] == "paused"
    monkeypatch.undo()
    assert message(LiveRun(RunFolder(tmp_path / "run")).read()).text["paused"] == ""
