"""Servers on loopback that keep what they receive."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from typing import Any

from aiosmtpd.controller import Controller


@dataclass
class WebServer:
    """The requests that an HTTP server received, as path and body."""

    port: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        """The paths, without queries."""
        return [path.partition("?")[0] for path, _ in self.requests]


@contextmanager
def web_server(*statuses: int, text: str = "OK", until: threading.Event | None = None) -> Iterator[WebServer]:
    """Answer with these statuses in turn, and then with 200; with `until`, not before that event."""
    server, left = WebServer(), list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.requests.append((self.path, body.decode()))
            if until is not None:
                until.wait()
            self.send_response(left.pop(0) if left else 200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        server.port = listening.server_address[1]
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()


def free_port() -> int:
    """A port at which nobody listens."""
    with socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class _Inbox:
    def __init__(self) -> None:
        self.mails: list[str] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: ANN401, N802 - of aiosmtpd
        self.mails.append(envelope.content.decode())
        return "250 OK"


@contextmanager
def mail_server() -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the port of an SMTP server, and the mails that it gets."""
    inbox = _Inbox()
    controller = Controller(inbox, hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        yield controller.port, inbox.mails
    finally:
        controller.stop()
