"""Callers of the Python API: event loops, threads, cancellation and Ctrl-C."""

import asyncio
import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import polars as pl
import pytest

import batchlic
from batchlic import EmbeddedSandbox, RunEvent, RunState, SandboxConfig, Settings
from batchlic.events import AttemptEnded, RateMeasured, RunStarted
from batchlic.runs.folder import RunFolder
from batchlic.sandbox.config import LatencyConfig
from tests.api.builders import TARGET, fleet, login
from tests.forking import serving

BATCHES = 60
SLOW = EmbeddedSandbox(rate=20, burst=1)
"""A carrier that lets in 20 requests a second."""


def once(kind: type[RunEvent], act: Callable[[], object]) -> Callable[[RunEvent], None]:
    """An observer that acts at the first event of this kind."""
    seen: list[RunEvent] = []

    def observer(event: RunEvent) -> None:
        if isinstance(event, kind) and not seen:
            seen.append(event)
            act()

    return observer


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def refuse_if_unfinished(run: batchlic.Run) -> None:
    """Check a run that stopped in order: it has all files, and nothing is in doubt."""
    assert (run.status, run.exit_code) == (RunState.STOPPED, 6)
    statuses = run.summary.statuses
    assert sum(statuses.values()) == run.results.collect().height == BATCHES
    assert statuses.keys() == {"accepted", "pending"}


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_call_in_a_running_event_loop_works(settings: Settings) -> None:
    assert batchlic.assign(fleet(2), **TARGET, settings=settings).exit_code == 0


@pytest.mark.slow
@pytest.mark.anyio
async def test_an_async_call_leaves_the_event_loop_free(settings: Settings) -> None:
    ticks: list[int] = []

    async def tick() -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            ticks.append(1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        run = await batchlic.assign_async(fleet(2), **TARGET, settings=settings)
        tasks.cancel_scope.cancel()
    assert run.exit_code == 0
    assert ticks


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_cancelled_call_ends_its_run_in_order(tmp_path: Path) -> None:
    token = anyio.lowlevel.current_token()
    with anyio.CancelScope() as scope:
        stop = once(AttemptEnded, lambda: anyio.from_thread.run_sync(scope.cancel, token=token))
        await batchlic.assign_async(
            fleet(BATCHES), **TARGET, batch_size=1, run_dir=tmp_path / "run", sandbox=SLOW, on_event=stop
        )
    assert scope.cancelled_caught
    run = batchlic.Run(tmp_path / "run", sandbox=True)
    refuse_if_unfinished(run)
    assert "stopped by a cancellation" in (run.summary.stopped_because or "")
    assert (await run.resume_async()).exit_code == 0


@pytest.mark.slow
def test_ctrl_c_ends_the_run_in_order_and_is_raised(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt) as raised:
        batchlic.assign(
            fleet(BATCHES),
            **TARGET,
            batch_size=1,
            run_dir=folder,
            sandbox=SLOW,
            on_event=once(AttemptEnded, interrupt),
        )
    refuse_if_unfinished(batchlic.Run(folder))
    assert capfd.readouterr() == ("", "")
    assert raised.value.__notes__ == [
        f"batchlic: if anything was sent, continue with batchlic.resume({str(folder)!r})"
    ]


def test_ctrl_c_while_a_run_starts_ends_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def interrupted_start(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "batchlic run":
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted_start)
    with pytest.raises(KeyboardInterrupt):
        batchlic.assign(fleet(BATCHES), **TARGET, batch_size=1, run_dir=tmp_path / "run", sandbox=SLOW)
    assert "batchlic run" not in [thread.name for thread in threading.enumerate()]
    assert (
        not (tmp_path / "run" / "results.parquet").exists() or batchlic.Run(tmp_path / "run").exit_code == 6
    )


def test_a_system_without_threads_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        batchlic.plan(fleet(1), **TARGET, run_dir=tmp_path / "run", sandbox=True)


def test_a_coroutine_without_its_event_loop_ends_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    async def drop() -> None:
        call = batchlic.assign_async(fleet(BATCHES), **TARGET, batch_size=1, run_dir=folder, sandbox=SLOW)
        call.send(None)
        call.close()

    anyio.run(drop)
    for thread in threading.enumerate():
        if thread.name == "batchlic run":
            thread.join()
    assert not (folder / "results.parquet").exists() or batchlic.Run(folder).exit_code == 6


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    interrupts: list[int] = []

    def twice(event: RunEvent) -> None:
        if isinstance(event, RateMeasured) and event.in_flight and len(interrupts) < 2:
            interrupts.append(event.in_flight)
            interrupt()

    with (
        serving(SandboxConfig(latency=LatencyConfig(base_s=600))) as url,
        pytest.raises(KeyboardInterrupt),
    ):
        batchlic.assign(
            fleet(2), **TARGET, run_dir=tmp_path / "run", settings=login(url, tmp_path), on_event=twice
        )
    run = batchlic.Run(tmp_path / "run")
    assert run.summary.statuses == {"in_doubt": 2}
    assert "the run was interrupted" in run.audit.select("error_message").collect().item()  # no time limit


@pytest.mark.slow
def test_a_second_cancellation_stops_at_once_and_waits_for_the_files(tmp_path: Path) -> None:
    cancellations: list[int] = []

    async def cancel_twice(url: str) -> None:
        loop = asyncio.get_running_loop()

        def cancel(event: RunEvent) -> None:
            if isinstance(event, RateMeasured) and event.in_flight and len(cancellations) < 2:
                cancellations.append(event.in_flight)
                loop.call_soon_threadsafe(call.cancel)

        call = asyncio.ensure_future(
            batchlic.assign_async(
                fleet(2), **TARGET, run_dir=tmp_path / "run", settings=login(url, tmp_path), on_event=cancel
            )
        )
        with pytest.raises(asyncio.CancelledError):
            await call
        assert batchlic.Run(tmp_path / "run").summary.statuses == {"in_doubt": 2}
        assert batchlic.Run(tmp_path / "run").status is RunState.STOPPED

    with serving(SandboxConfig(latency=LatencyConfig(base_s=600))) as url:
        asyncio.run(cancel_twice(url))


@pytest.mark.slow
def test_an_exception_of_a_signal_handler_ends_the_run_in_order(tmp_path: Path) -> None:
    class TooLate(Exception):
        pass

    def give_up(*_: object) -> None:
        raise TooLate

    before = signal.signal(signal.SIGALRM, give_up)  # as schedulers bound a task
    try:
        with pytest.raises(TooLate):
            batchlic.assign(
                fleet(BATCHES),
                **TARGET,
                batch_size=1,
                run_dir=tmp_path / "run",
                sandbox=SLOW,
                on_event=once(AttemptEnded, lambda: os.kill(os.getpid(), signal.SIGALRM)),
            )
    finally:
        signal.signal(signal.SIGALRM, before)
    refuse_if_unfinished(batchlic.Run(tmp_path / "run"))


@pytest.mark.slow
def test_two_threads_run_at_once(settings: Settings) -> None:
    runs: list[batchlic.Run] = []

    def begin_another() -> None:  # in the thread of the observer
        runs.append(batchlic.assign(fleet(2, first=BATCHES), **TARGET, settings=settings))

    devices = fleet(2, first=2 * BATCHES)
    runs.append(
        batchlic.assign(devices, **TARGET, settings=settings, on_event=once(RunStarted, begin_another))
    )
    assert [run.exit_code for run in runs] == [0, 0]


def test_a_folder_that_this_process_uses_already_is_refused(settings: Settings, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with (
        folder.made(),
        folder.locked(),
        pytest.raises(batchlic.RefusedToStart, match="another batchlic process is using this folder"),
    ):
        batchlic.assign(fleet(2), **TARGET, run_dir=folder.path, settings=settings)


@pytest.mark.slow
def test_ctrl_c_stops_only_the_run_that_the_main_thread_waits_for(settings: Settings, tmp_path: Path) -> None:
    others: list[batchlic.Run] = []

    def run_other() -> None:
        devices = fleet(BATCHES, first=BATCHES)
        others.append(batchlic.assign(devices, **TARGET, batch_size=1, settings=settings))

    other = threading.Thread(target=run_other)

    def interrupt_both() -> None:
        other.start()
        interrupt()

    with suppress(KeyboardInterrupt):
        batchlic.assign(
            fleet(2),
            **TARGET,
            run_dir=tmp_path / "run",
            sandbox=SLOW,
            on_event=once(RunStarted, interrupt_both),
        )
    other.join()
    assert others[0].exit_code == 0


def test_a_call_in_a_process_forked_after_another_call_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batchlic.plan(fleet(1), **TARGET, settings=settings)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(batchlic.UsageError, match="forked after a call"):
        batchlic.plan(fleet(1), **TARGET, settings=settings)


def test_the_error_of_a_call_keeps_no_frame_in_memory(settings: Settings) -> None:
    frame = pl.LazyFrame({"serial": ["x"]})
    kept = weakref.ref(frame)
    gc.disable()
    try:
        with suppress(batchlic.InventoryError):
            batchlic.plan(frame, **TARGET, settings=settings)
        del frame
        assert kept() is None
    finally:
        gc.enable()
