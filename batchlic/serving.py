"""Serves an ASGI app over TCP with uvicorn, until a signal ends it: for `listen` and `serve`."""

import resource
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from structlog.typing import FilteringBoundLogger

from batchlic.errors import UsageError
from batchlic.logs import forward_standard_logs

_DESCRIPTORS = 65_536
_SHUTDOWN_TIMEOUT_S = 10
"""Time to finish requests in progress after SIGTERM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to serve. Port 0 stands for a free one. `tls_key` may be in the file `tls_cert`."""

    host: str = "127.0.0.1"
    port: int = 0
    tls_cert: Path | None = None
    tls_key: Path | None = None


class Server:
    """An ASGI app at an address. `is_stopping` is for answers that would never end by themselves."""

    def __init__(self, address: Address, logger: FilteringBoundLogger) -> None:
        """All log lines, also those of uvicorn and asyncio, go to `logger`."""
        self._address = address
        self._logger = logger
        self._server: _Uvicorn | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether a signal has asked the server to stop."""
        return self._server is not None and self._server.should_exit

    def run(self, app: ASGIApp, announce: Callable[[str], None]) -> None:
        """Serve until SIGTERM or Ctrl-C, then finish the requests in progress.

        Once it listens, it calls `announce` with its URL, without a path. Raises UsageError before that.
        """
        forward_standard_logs(self._logger)
        config = uvicorn.Config(
            app,
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
        config.ssl_certfile, config.ssl_keyfile = _certificate(self._address)
        _raise_descriptor_limit()
        self._server = _Uvicorn(config)
        with _socket(self._address) as bound:
            host, port = bound.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            announce(f"{'https' if self._address.tls_cert else 'http'}://{shown}:{port}")
            self._server.run(sockets=[bound])


class _Uvicorn(uvicorn.Server):
    """Ends with exit code 0 after a signal; uvicorn's own server would re-raise the signal."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        self.force_exit = self.should_exit
        self.should_exit = True


def _raise_descriptor_limit() -> None:
    """Raise the soft limit of open files, so that the process can hold that many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    with suppress(ValueError):  # macOS allows no more than kern.maxfilesperproc, whatever `hard` is
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _certificate(address: Address) -> tuple[str, str | None] | tuple[None, None]:
    """The paths of certificate and key, checked by loading them."""
    if address.tls_cert is None:
        if address.tls_key is not None:
            raise UsageError("--tls-key: give the certificate too, with --tls-cert")
        return None, None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(address.tls_cert, address.tls_key)
    except OSError as error:  # includes ssl.SSLError
        raise UsageError(
            f"--tls-cert {address.tls_cert}: can't be loaded: {error.strerror or error}"
        ) from None
    return str(address.tls_cert), str(address.tls_key) if address.tls_key else None


def _socket(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(
            f"--host {address.host} --port {address.port}: can't listen: {error.strerror}"
        ) from None
