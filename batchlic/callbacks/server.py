"""Serves the listener over TCP with uvicorn, in this process or in a child process beside a run."""

import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, cast

import anyio.to_thread
import msgspec
import uvicorn
from structlog.typing import FilteringBoundLogger

from batchlic.callbacks.access import Access
from batchlic.callbacks.listener import PATH, Listener
from batchlic.callbacks.messages import StoredMessage
from batchlic.callbacks.store import Store
from batchlic.errors import StoppedEarly, UsageError
from batchlic.journal.groupcommit import GroupCommit
from batchlic.logs import console, forward_standard_logs

_DESCRIPTORS = 65_536
_SHUTDOWN_TIMEOUT_S = 10
"""Time to finish requests in progress after SIGTERM."""


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
    """Serve until SIGTERM or Ctrl-C, then finish the requests in progress.

    Once it listens, its URL is printed to stdout as a line of JSON. All log lines, also those of uvicorn and
    asyncio, go to `logger`. Raises UsageError before that.
    """
    forward_standard_logs(logger)
    config = uvicorn.Config(
        listener.app,
        http="httptools",
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT_S,
    )
    config.ssl_certfile, config.ssl_keyfile = _certificate(options)
    _raise_descriptor_limit()
    with _socket(options) as bound:
        host, port = bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        url = f"{'https' if options.tls_cert else 'http'}://{shown}:{port}{options.path}"
        print(msgspec.json.encode(ListenerAddress(url)).decode(), flush=True)  # noqa: T201 - the result
        _Server(config).run(sockets=[bound])


def _raise_descriptor_limit() -> None:
    """Raise the soft limit of open files, so that the process can hold that many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def stop_when_stdin_ends() -> None:
    """Send this process SIGTERM when its standard input ends: then its parent process is gone."""

    def read() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=read, daemon=True).start()


class _Server(uvicorn.Server):
    """Ends with exit code 0 after a signal; uvicorn's own server would re-raise the signal."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        self.force_exit = self.should_exit
        self.should_exit = True


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


def _certificate(options: ListenerOptions) -> tuple[str, str | None] | tuple[None, None]:
    """The paths of certificate and key, checked by loading them."""
    if options.tls_cert is None:
        if options.tls_key is not None:
            raise UsageError("--tls-key: give the certificate too, with --tls-cert")
        return None, None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.tls_cert, options.tls_key)
    except OSError as error:  # includes ssl.SSLError
        raise UsageError(
            f"--tls-cert {options.tls_cert}: can't be loaded: {error.strerror or error}"
        ) from None
    return str(options.tls_cert), str(options.tls_key) if options.tls_key else None


def _socket(options: ListenerOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(
            f"--host {options.host} --port {options.port}: can't listen: {error.strerror}"
        ) from None
