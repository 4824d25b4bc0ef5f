"""Standard streams that are closed, full, unread or gone stop no command and change no exit code."""

import json
import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

from batchlic.sandbox.config import LatencyConfig, SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    PATIENCE,
    batchlic,
    environment_of,
    fleet,
    keys,
    statuses,
    summary,
    totals,
    until,
)
from tests.forking import serving

pytestmark = pytest.mark.slow

DEVICES = 300
ASSIGN = ("assign", "fleet.csv", "--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "run")


@dataclass(frozen=True)
class Home:
    path: Path
    url: str

    def shell(self, *arguments: str, redirect: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command as a shell does, with streams redirected."""
        command = shlex.join([sys.executable, "-m", "batchlic", *arguments])
        return subprocess.run(
            ["/bin/bash", "-c", f"{command} {redirect}"],
            env=environment_of(keys(self.url), self.path),
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )

    def begin(self, *arguments: str, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "batchlic", *arguments],
            env=environment_of(keys(self.url), self.path),
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    def sent(self) -> int:
        return sum(dict[str, int](totals(self.url)["requests"]).values())


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    fleet(tmp_path / "fleet.csv", DEVICES)
    with serving(SandboxConfig(latency=LatencyConfig(base_s=0.01))) as url:
        yield Home(tmp_path, url)


@pytest.fixture
def ran(home: Home) -> Home:
    """A home with a finished run."""
    assert batchlic(*ASSIGN, settings=keys(home.url), cwd=home.path).code == 0
    return home


def assert_finished(home: Home) -> None:
    assert set(statuses(home.path / "run").values()) == {"accepted"}
    assert summary(home.path / "run")["exit_code"] == 0


def full_pipe() -> tuple[int, int]:
    """Both ends of a pipe that takes no more bytes, in non-blocking mode."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while os.write(write, b"\n" * 512):
            pass
    return read, write


REDIRECTS = (
    "<&- >&- 2>&-",
    "--json >/dev/full 2>/dev/full",
    "--json 1</dev/null 2</dev/null",
    "2>&1 | true",
)


@pytest.mark.parametrize("redirect", REDIRECTS)
def test_a_run_ends_as_it_should_whatever_its_streams_are(home: Home, redirect: str) -> None:
    ended = home.shell(*ASSIGN, redirect=f"{redirect}; exit ${{PIPESTATUS[0]}}")
    assert ended.returncode == 0, ended.stderr
    assert_finished(home)
    assert batchlic("audit", "run", "--verify", cwd=home.path).code == 0, (
        "no output went into a file of the run"
    )


@pytest.mark.parametrize("redirect", ["2>/dev/full", ">&- 2>&-"])
def test_usage_errors_and_help_keep_their_exit_codes(home: Home, redirect: str) -> None:
    for command, code in {("status", "nowhere"): 2, ("assign", "--help"): 0}.items():
        assert home.shell(*command, redirect=redirect).returncode == code, command


def test_lost_results_are_reported_on_stderr_and_change_no_exit_code(ran: Home) -> None:
    ended = ran.shell("status", "run", "--json", redirect=">/dev/full")
    assert (ended.returncode, ended.stderr) == (
        0,
        b"batchlic: stdout can't be written: No space left on device\n",
    )


def test_an_export_that_can_not_be_written_is_exit_6(ran: Home) -> None:
    for form in ("csv", "xlsx"):
        ended = ran.shell("export", "run", "--what", "all", "--format", form, redirect=">/dev/full")
        assert (ended.returncode, b"standard output: can't be written" in ended.stderr) == (6, True), form
        assert b"Traceback" not in ended.stderr


def test_a_reader_of_stderr_that_goes_away_does_not_stop_a_run(home: Home) -> None:
    read, write = os.pipe()
    process = home.begin(*ASSIGN, "--batch-size", "10", stdout=subprocess.DEVNULL, stderr=write)
    os.close(write)
    until(lambda: home.sent() > 2)
    os.close(read)
    assert process.wait(PATIENCE) == 0
    assert_finished(home)


def test_a_terminal_that_goes_away_does_not_stop_a_run(home: Home) -> None:
    outer, inner = pty.openpty()
    process = home.begin(*ASSIGN, "--batch-size", "5", "--max-concurrency", "1", stdout=inner, stderr=inner)
    os.close(inner)
    until(lambda: home.sent() > 2)
    os.close(outer)
    assert process.wait(PATIENCE) == 0
    assert_finished(home)


def test_a_full_pipe_that_nobody_reads_does_not_stop_a_run(home: Home) -> None:
    read, write = full_pipe()
    os.set_blocking(write, True)
    process = home.begin(*ASSIGN, stdout=subprocess.DEVNULL, stderr=write)
    assert process.wait(PATIENCE) == 0
    os.close(read)
    os.close(write)
    assert_finished(home)


def test_results_to_a_full_pipe_without_blocking_arrive_whole(ran: Home) -> None:
    read, write = full_pipe()
    process = ran.begin("status", "run", "--json", stdout=write, stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read, "rb") as results:
        assert json.loads(results.read())["planned"] == DEVICES
    assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("redirect", ["2>/dev/full", ">/dev/full 2>&-"])
def test_a_listener_serves_whatever_its_streams_are(tmp_path: Path, redirect: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:  # its stdout, with the port, is lost
        port = free.getsockname()[1]
    command = shlex.join(
        [sys.executable, "-m", "batchlic", "listen", "--port", str(port), "--store", "cb.db"]
    )
    settings = {"BATCHLIC_LISTENER_USERNAME": "a", "BATCHLIC_LISTENER_PASSWORD": "b"}
    process = subprocess.Popen(
        ["/bin/bash", "-c", f"exec {command} {redirect}"],
        env=environment_of(settings, tmp_path),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    try:
        until(lambda: _answers(port))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()


def _answers(port: int) -> bool:
    with suppress(OSError), build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/health"):
        return True
    return False
