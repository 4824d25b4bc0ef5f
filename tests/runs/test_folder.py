"""The lock of a run folder: the process that holds it, and looks at it that disturb nobody."""

import fcntl
import os
import socket
import threading
from pathlib import Path

import pytest

from batchlic.errors import RefusedToStart
from batchlic.runs.folder import RunFolder
from batchlic.runs.process import Process


def made(path: Path) -> RunFolder:
    folder = RunFolder(path)
    with folder.made(), folder.locked():
        folder.log.touch()
    return folder


def test_the_process_that_locks_a_folder_can_be_seen(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    with folder.locked():
        process = folder.process
        assert process is not None
        assert (process.pid, process.host) == (os.getpid(), socket.gethostname())
    assert folder.process is None


def test_a_folder_without_a_lock_has_no_process_and_stays_as_it_is(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).process is None
    assert list(tmp_path.iterdir()) == []


def test_a_look_at_a_lock_does_not_keep_a_run_from_starting(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    look = os.open(folder.path / ".lock", os.O_RDONLY)
    fcntl.flock(look, fcntl.LOCK_SH)
    timer = threading.Timer(0.02, os.close, [look])
    timer.start()
    with folder.locked():
        timer.join()


def test_a_process_at_work_is_named_to_the_second_one(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    with folder.locked(), pytest.raises(RefusedToStart) as refused, folder.locked():
        pass
    assert f"pid {os.getpid()} on {socket.gethostname()}, since 20" in str(refused.value)


def test_a_lock_ends_with_its_block_though_a_forked_process_has_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close, copies = os.close, list[int]()

    def close_one_of_two(descriptor: int) -> None:
        copies.append(os.dup(descriptor))  # shares the open file, as the descriptor of a forked process does
        close(descriptor)

    folder = RunFolder(tmp_path)
    with folder.locked():
        monkeypatch.setattr(os, "close", close_one_of_two)
    monkeypatch.undo()
    with folder.locked():
        for descriptor in copies:
            os.close(descriptor)
        with pytest.raises(RefusedToStart), folder.locked():
            pass


def test_k_readers_exclude_sessions_but_not_each_other(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    refused = pytest.raises(RefusedToStart, match=r"\(`batchlic audit --verify`\); wait for it")
    with folder.quiet(), folder.quiet(), refused, folder.locked():
        pass
    with folder.locked(), pytest.raises(RefusedToStart, match=f"pid {os.getpid()} on "), folder.quiet():
        pass


@pytest.mark.parametrize("host", ["vm", "db-1.example.net", "a host"])
def test_a_process_is_read_as_it_was_written(host: str) -> None:
    process = Process(7, host, "2026-11-21T21:35:58Z")
    assert Process.parse(f"{process}\n") == process


@pytest.mark.parametrize(
    "text", ["", "pid 7, since 2026-11-21T21:35:58Z", "pid x on vm, since now", "garbage"]
)
def test_a_lock_of_another_version_names_no_process(text: str) -> None:
    assert Process.parse(text) is None
