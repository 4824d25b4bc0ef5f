"""Serves the listener over TCP with uvicorn, in this process or in a child process beside a run."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import anyio.to_thread
import msgspec
from structlog.typing import FilteringBoundLogger

from batchlic.callbacks.access import Access
from batchlic.callbacks.listener import PATH, Listener
from batchlic.callbacks.messages import StoredMessage
from batchlic.callbacks.store import Store
from batchlic.errors import StoppedEarly, UsageError
from batchlic.journal.groupcommit import GroupCommit
from batchlic.logs import console
from batchlic.serving import Address, Server


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerOptions:
    """Where to listen. `account` is used for messages whose URL path names no account."""

    host: str = "127.0.0.1"
    port: int = 9001
    path: str = PATH
    account: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a malformed path."""
        if not self.path.startswith("/") or self.path.endswith("/"):
            raise UsageError(f"--path {self.path}: give a path like {PATH}")


class ListenerAddress(msgspec.Struct, frozen=True):
    """The URL of a listener, printed to stdout once it listens."""

    url: str


def listen(options: ListenerOptions, access: Access, store: Store) -> None:
    """Receive callbacks into `store` until SIGTERM or Ctrl-C. Raises UsageError before it listens."""
    logger = console(secrets=[access.username.reveal(), access.password.reveal()])
    commits: GroupCommit[StoredMessage] = GroupCommit(store.write, offload=anyio.to_thread.run_sync)
    listener = Listener(
        access,
        keep=commits.write,
        check=store.check,
        logger=logger,
        path=options.path,
        account=options.account,
    )
    serve(listener, options, logger)


def serve(listener: Listener, options: ListenerOptions, logger: FilteringBoundLogger) -> None:
    """Serve as `batchlic.serving` does. Its URL is printed to stdout as a line of JSON."""

    def announce(url: str) -> None:
        line = msgspec.json.encode(ListenerAddress(f"{url}{options.path}")).decode()
        print(line, flush=True)  # noqa: T201 - the result

    address = Address(
        host=options.host, port=options.port, tls_cert=options.tls_cert, tls_key=options.tls_key
    )
    Server(address, logger).run(listener.app, announce)


def stop_when_stdin_ends() -> None:
    """Send this process SIGTERM when its standard input ends: then its parent process is gone."""

    def read() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=read, daemon=True).start()


@contextmanager
def listener_process(options: ListenerOptions, store: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Run a listener as a child process for the length of the block; yield its URL.

    The child also ends when this process ends. `environment` holds its settings, because other users can see
    command lines. Raises StoppedEarly if the listener does not start; the child prints the reason to stderr.
    """
    arguments = ["--until-eof", "--host", options.host, "--port", str(options.port), "--path", options.path]
    for name, file in (("--tls-cert", options.tls_cert), ("--tls-key", options.tls_key)):
        arguments += [name, str(file)] if file else []
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "batchlic", "listen", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment, "BATCHLIC_LISTENER_STORE": store},
        start_new_session=True,
    )
    with process:
        try:
            line = cast("IO[bytes]", process.stdout).readline()
            if not line:
                raise StoppedEarly("the listener for callbacks did not start")
            yield msgspec.json.decode(line, type=ListenerAddress).url
        finally:
            process.terminate()
