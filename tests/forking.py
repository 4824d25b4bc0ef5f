"""Processes that start fast: each one is forked from a process that has imported everything.

Each process has its own memory, environment, folder, streams and signals; so has the sandbox of `--sandbox`.
Tests of the process list, or of the start and end of the interpreter, need a new interpreter instead.
"""

import multiprocessing
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from signal import SIGKILL
from subprocess import TimeoutExpired
from typing import IO, Self

import msgspec

from batchlic import sandbox
from batchlic.cli import app as cli
from batchlic.sandbox import server
from batchlic.sandbox.config import SandboxConfig
from batchlic.sandbox.sockets import base_url, listen
from tests.privileges import drop_privileges

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(
    [
        "__main__",
        "anyio._backends._asyncio",
        "batchlic.callbacks.server",
        "batchlic.carrier.connections",
        "batchlic.chunker.canary",
        "batchlic.cli.run_tables",
        "batchlic.cluster",
        "batchlic.reader.fleet",
        "batchlic.runs.apply",
        "batchlic.runs.export",
        "batchlic.runs.prune",
        "batchlic.runs.reconcile",
        "batchlic.runs.run",
        "batchlic.cli.format",
        "batchlic.settings",
        "batchlic.ledger.files",
        "batchlic.monitoring.otel.settings",
        "batchlic.monitoring.progress",
        "batchlic.state",
        "alembic.command",
        "certifi",
        "encodings.idna",
        "polars._utils.parquet",
        "psycopg",
        "sqlalchemy.dialects.postgresql.psycopg",
        "typer._adapters",
        "typer._click.decorators",
        "uvicorn.lifespan.on",
        "uvicorn.loops.uvloop",
        __name__,
        "tests.preloaded",
    ]
)

_started: list["Program"] = []
"""The programs that fixtures have started, and those of the present test."""


@contextmanager
def serving(config: SandboxConfig) -> Iterator[str]:
    """Like `batchlic.sandbox.embedded`: a sandbox on a free loopback port until the block ends."""
    with listen("127.0.0.1", 0) as listener:
        url = base_url(listener)
        process = _FORKING.Process(target=_serve, args=(listener, config), daemon=True)
        process.start()
    try:
        yield url
    finally:
        process.kill()
        process.join()


class Program:
    """A process that runs `batchlic`, with the part of `subprocess.Popen` that tests need."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path,
        *,
        is_privileged: bool = True,
        user: tuple[int, int] | None = None,
        terminal: str | None = None,
    ) -> None:
        """`user` are the numbers of the user and the group as which the process runs, if root starts it.

        `terminal` is the path of a terminal that becomes the process's own, with all its standard streams.
        """
        (out, stdout), (err, stderr) = _FORKING.Pipe(duplex=False), _FORKING.Pipe(duplex=False)
        self._process = _FORKING.Process(
            target=_run,
            args=(arguments, dict(environment), cwd, (stdout, stderr)),
            kwargs={"is_privileged": is_privileged, "user": user, "terminal": terminal},
            daemon=True,
        )
        self._process.start()
        self.pid = self._process.pid or 0
        self.stdout, self.stderr = _text(out), _text(err)
        _started.append(self)
        stdout.close()
        stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.join()
        self.stdout.close()
        self.stderr.close()

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the number of the signal that ended the process; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same as `returncode`."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process still runs."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process at once."""
        self.send_signal(SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for stdout and stderr. After `timeout` seconds, end the process and raise TimeoutExpired."""
        with ThreadPoolExecutor(2) as readers:
            out, err = (readers.submit(_read_to_end, stream) for stream in (self.stdout, self.stderr))
            self._process.join(timeout)
            if self.returncode is None:
                self.kill()
                raise TimeoutExpired("batchlic", timeout or 0)
        return out.result(), err.result()


@contextmanager
def ending_programs() -> Iterator[None]:
    """End the programs that are started in this block, and are not ended in it."""
    before = len(_started)
    try:
        yield
    finally:
        while len(_started) > before:
            program = _started.pop()
            program.kill()
            with program:
                pass


def _read_to_end(stream: IO[str]) -> str:
    with stream:
        return stream.read()


def _serve(listener: socket.socket, config: SandboxConfig) -> None:
    _end_with_the_tests()
    server._server(config).run(sockets=[listener])


def _run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    cwd: Path,
    streams: tuple[Connection, Connection],
    *,
    is_privileged: bool,
    user: tuple[int, int] | None,
    terminal: str | None,
) -> None:
    _end_with_the_tests()
    if user is not None:
        os.setgroups([])
        os.setgid(user[1])
        os.setuid(user[0])
    if not is_privileged:
        drop_privileges()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, stream in enumerate(streams, start=1):
        os.dup2(stream.fileno(), descriptor)
        stream.close()
    if terminal is not None:
        _take_terminal(terminal)
    if "--sandbox" in arguments:
        vars(sandbox)["embedded"] = _forked_sandbox()
    sys.argv = ["batchlic", *arguments]
    cli.main()


def _take_terminal(path: str) -> None:
    """Be the first process on a terminal: its keys send signals; the standard streams are on it."""
    os.setsid()
    descriptor = os.open(path, os.O_RDWR)  # of a leader of a session: the terminal is its own from now on
    for number in range(3):
        os.dup2(descriptor, number)
    os.close(descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - standard input


def _forked_sandbox() -> Callable[[SandboxConfig], AbstractContextManager[str]]:
    """Fork a process that becomes a sandbox when the returned function is called like `sandbox.embedded`."""
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        here.close()
        config, [descriptor], *_ = socket.recv_fds(there, 1_000_000, 1)
        threading.Thread(target=lambda: os._exit(len(there.recv(1))), daemon=True).start()
        server._server(msgspec.json.decode(config, type=SandboxConfig)).run(
            sockets=[socket.socket(fileno=descriptor)]
        )
    there.close()

    @contextmanager
    def embedded(config: SandboxConfig) -> Iterator[str]:
        with listen("127.0.0.1", 0) as listener:
            url = base_url(listener)
            socket.send_fds(here, [msgspec.json.encode(config)], [listener.fileno()])
        try:
            yield url
        finally:
            os.kill(pid, SIGKILL)
            os.waitpid(pid, 0)

    return embedded


def _end_with_the_tests() -> None:
    """End this process when the process that runs the tests ends, because nothing else would stop it."""
    tests = multiprocessing.parent_process()

    def wait() -> None:
        if tests is not None:
            tests.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _text(stream: Connection) -> IO[str]:
    with stream:
        return os.fdopen(os.dup(stream.fileno()))
