"""A web server for tests on loopback, which answers exactly the bytes that a test sets."""

import base64
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came: its target with the query, and its headers by name in lower case."""

    target: str
    headers: dict[str, str]

    @property
    def login(self) -> str | None:
        """User and password."""
        kind, _, encoded = self.headers.get("authorization", "").partition(" ")
        return base64.b64decode(encoded).decode() if kind == "Basic" else None


def answer(body: bytes = b"", *headers: str, status: int = 200, length: int | None = None) -> bytes:
    """An answer with a Content-Length: that of the body, or another one."""
    reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Odd"
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status} {reason}", f"Content-Length: {size}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    """An answer that names another address."""
    return answer(b"moved", f"Location: {location}", status=status)


@dataclass(slots=True)
class Web:
    """What a server answers, by path, and what it was asked. After `silent`, it waits for the test to end."""

    address: str
    answers: dict[str, bytes | Callable[[Request], bytes]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    ended: threading.Event = field(default_factory=threading.Event)

    def put(self, path: str, content: bytes | Callable[[Request], bytes]) -> str:
        """Answer these bytes at a path; returns the address."""
        self.answers[path] = content
        return f"{self.address}{path}"

    def put_file(self, path: str, body: bytes) -> str:
        """Answer this body at a path; returns the address."""
        return self.put(path, answer(body))


@contextmanager
def serving(tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[Web]:
    """Run a server for a block."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            first, *lines = iter(lambda: self.rfile.readline().decode("latin-1").strip(), "")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            request = Request(first.split(" ")[1], headers)
            web.requests.append(request)
            path = request.target.partition("?")[0]
            found = web.answers.get(path, answer(status=404))
            self.wfile.write(found(request) if callable(found) else found)
            if path in web.silent:
                web.ended.wait()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Clients that end a connection are no error."""

        def finish_request(self, request: object, client_address: object) -> None:
            assert not isinstance(request, tuple)
            connection = tls.wrap_socket(request, server_side=True) if tls else request  # type: ignore[arg-type]
            super().finish_request(connection, client_address)  # type: ignore[arg-type]
            if tls:
                connection.close()  # type: ignore[attr-defined]

    with Server((host, 0), Handler) as server:
        web = Web(f"{'https' if tls else 'http'}://{host}:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield web
        web.ended.set()
        server.shutdown()
        thread.join()
