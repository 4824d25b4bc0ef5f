"""The sandbox over TCP, on loopback only: uvicorn on uvloop with httptools."""

import os
import socket
import struct
import sys
import threading
from types import FrameType

import msgspec
import uvicorn
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from batchlic.sandbox.app import Sandbox
from batchlic.sandbox.config import SandboxConfig
from batchlic.sandbox.responses import DROP, REPEAT, REPEAT_AFTER_S
from batchlic.sandbox.sockets import base_url, listen

_NO_LINGER = struct.pack("ii", 1, 0)


class FaultyProtocol(HttpToolsProtocol):
    """An HTTP/1.1 protocol whose connection the app can break, or make repeat an answer."""

    def on_message_begin(self) -> None:
        """Put the functions for that into the scope of each request (see `responses`)."""
        super().on_message_begin()
        self.scope["state"][DROP] = self._drop
        self.scope["state"][REPEAT] = self._repeat

    def _drop(self) -> None:
        if self.cycle.response_started:
            self.transport.close()
            return
        connection = self.transport.get_extra_info("socket")
        with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
            # Closing with a linger time of 0 sends RST instead of FIN (ABORT in RFC 9293).
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def _repeat(self, answer: Response) -> None:
        headers = b"".join(b"%s: %s\r\n" % header for header in answer.raw_headers)
        content = b"%s%s\r\n%s" % (STATUS_LINE[answer.status_code], headers, bytes(answer.body))
        self.loop.call_later(REPEAT_AFTER_S, self._write_unasked, content)

    def _write_unasked(self, content: bytes) -> None:
        """Write bytes that no request asked for, unless the caller closed the connection."""
        if self.transport.is_closing():
            return
        if self.cycle.response_started and not self.cycle.response_complete:
            self.loop.call_later(REPEAT_AFTER_S, self._write_unasked, content)  # not within another answer
        else:
            self.transport.write(content)


def serve(config: SandboxConfig, host: str = "127.0.0.1", port: int = 0) -> None:
    """Run a sandbox until Ctrl-C or SIGTERM. Its base URL is printed to stdout as a line of JSON."""
    listener = listen(host, port)
    print(msgspec.json.encode({"base_url": base_url(listener)}).decode(), flush=True)  # noqa: T201 - the result
    print(_settings(base_url(listener)), file=sys.stderr)  # noqa: T201 - for people
    _server(config).run(sockets=[listener])


def _settings(url: str) -> str:
    """The settings for this sandbox, to paste into a shell or a file `.env` as they are."""
    return f"""\
Sandbox at {url}. Ctrl-C stops it. Its settings, for another terminal or a file .env (chmod 600):

export BATCHLIC_BASE_URL={url}
export BATCHLIC_CLIENT_ID=sandbox
export BATCHLIC_CLIENT_SECRET=sandbox
export BATCHLIC_USERNAME=sandbox
export BATCHLIC_PASSWORD=sandbox
export BATCHLIC_LISTENER_USERNAME=sandbox
export BATCHLIC_LISTENER_PASSWORD=sandbox
export BATCHLIC_LISTENER_ALLOWED_SOURCES=127.0.0.1
export BATCHLIC_LISTENER_STORE=callbacks.db
"""


class _Server(uvicorn.Server):
    """Ends at once on Ctrl-C and SIGTERM: there is nothing to save, and some faults hang forever."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        os._exit(0)


def _server(config: SandboxConfig) -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            Sandbox(config).app,
            http=FaultyProtocol,
            loop="uvloop",
            ws="none",
            lifespan="on",
            access_log=False,
            log_level="warning",
            date_header=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=65,
        )
    )


def serve_parent() -> None:
    """Run a sandbox for the parent process: `python -m batchlic.sandbox.server FD`.

    File descriptor FD is the inherited listening socket. The first line of stdin is the configuration as
    JSON. The sandbox ends when stdin closes, which also happens when the parent process ends.
    """
    listener = socket.socket(fileno=int(sys.argv[1]))
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=SandboxConfig)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    _server(config).run(sockets=[listener])


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    serve_parent()
