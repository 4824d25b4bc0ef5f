"""The listener over TCP: uvicorn with what it needs, and the same as a process of its own beside a run."""

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

from batchlic.callbacks.access import Access
from batchlic.callbacks.listener import PATH, Listener
from batchlic.callbacks.messages import DeviceMessage
from batchlic.callbacks.store import Store
from batchlic.errors import StoppedEarly, UsageError
from batchlic.journal.groupcommit import GroupCommit
from batchlic.logs import console

_DESCRIPTORS = 65_536
_GRACE = 10
"""Seconds that messages under way have after SIGTERM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerOptions:
    """Where to listen, and as what; `account` is that of messages whose address names none."""

    host: str = "127.0.0.1"
    port: int = 9001
    path: str = PATH
    account: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        """Raise UsageError where the path is none."""
        if not self.path.startswith("/") or self.path.endswith("/"):
            raise UsageError(f"--path {self.path}: give a path like {PATH}")


class Listening(msgspec.Struct, frozen=True):
    """What a listener says on stdout once it listens."""

    url: str


def listen(options: ListenerOptions, access: Access, store: Store) -> None:
    """Take callbacks into `store` until SIGTERM or Ctrl-C. Raises UsageError before it begins."""
    commits: GroupCommit[DeviceMessage] = GroupCommit(store.write, offload=anyio.to_thread.run_sync)
    listener = Listener(
        access,
        keep=commits.write,
        check=store.check,
        logger=console(secrets=[access.username.reveal(), access.password.reveal()]),
        path=options.path,
        account=options.account,
    )
    serve(listener, options)


def serve(listener: Listener, options: ListenerOptions) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what is under way. Raises UsageError before it begins.

    Once it listens, its address goes to stdout as a line of JSON.
    """
    config = uvicorn.Config(
        listener.app,
        http="httptools",
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_GRACE,
    )
    config.ssl_certfile, config.ssl_keyfile = _certificate(options)
    _take_all_descriptors()
    with _socket(options) as bound:
        host, port = bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        url = f"{'https' if options.tls_cert else 'http'}://{shown}:{port}{options.path}"
        print(msgspec.json.encode(Listening(url)).decode(), flush=True)  # noqa: T201 - the result
        _Server(config).run(sockets=[bound])


def _take_all_descriptors() -> None:
    """Let this process have as many connections as the system allows it, rather than as many as is usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def stop_with_stdin() -> None:
    """Have this process stop as by SIGTERM once its standard input ends: whoever started it is gone then."""

    def read() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=read, daemon=True).start()


class _Server(uvicorn.Server):
    """Ends with exit code 0 once stopped: uvicorn's own would end by the signal."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        self.force_exit = self.should_exit
        self.should_exit = True


@contextmanager
def listening(options: ListenerOptions, store: str, environment: Mapping[str, str]) -> Iterator[str]:
    """A listener in a process of its own for as long as the block, or this process, lasts; gives its address.

    Settings travel in `environment`, since command lines can be seen by everybody. Raises StoppedEarly where
    it does not come up; why, it says on stderr itself.
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
                raise StoppedEarly("the listener for callbacks did not come up")
            yield msgspec.json.decode(line, type=Listening).url
        finally:
            process.terminate()


def _certificate(options: ListenerOptions) -> tuple[str, str | None] | tuple[None, None]:
    """Certificate and key for uvicorn, tried before anything else begins."""
    if options.tls_cert is None:
        if options.tls_key is not None:
            raise UsageError("--tls-key: give its certificate too, with --tls-cert")
        return None, None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.tls_cert, options.tls_key)
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(f"--tls-cert {options.tls_cert}: can't be used: {error.strerror or error}") from None
    return str(options.tls_cert), str(options.tls_key) if options.tls_key else None


def _socket(options: ListenerOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(
            f"--host {options.host} --port {options.port}: can't listen there: {error.strerror}"
        ) from None
