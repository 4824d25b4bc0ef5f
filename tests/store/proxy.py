"""A TCP proxy on loopback before a server at a Unix socket, which can stop forwarding as a network does."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CHUNK = 1 << 16
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards bytes both ways. `connections` counts those that were accepted."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._is_forwarding = threading.Event()
        self._is_forwarding.set()
        self._is_closed = False
        self._resets = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, database: str, user: str = "postgres") -> str:
        """The address of a database behind the proxy."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def drop(self) -> None:
        """Forward nothing any more, and keep all connections open; new ones open, too."""
        self._is_forwarding.clear()

    def reset(self) -> None:
        """Reset all connections, and each new one."""
        self._resets = True
        for client, _ in self._pairs:
            _reset(client)

    def heal(self) -> None:
        """Forward again, also what came meanwhile."""
        self._resets = False
        self._is_forwarding.set()

    def close(self) -> None:
        """End all connections."""
        self._is_closed = True
        self._is_forwarding.set()
        for pair in [(self._listener,), *self._pairs]:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._resets:
                    _reset(client)
                    continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._target))
                self._pairs.append((client, server))
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=ends, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                self._is_forwarding.wait()
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.shutdown(socket.SHUT_RD)
    connection.close()


@contextmanager
def proxied(folder: Path) -> Iterator[Proxy]:
    """A proxy before the PostgreSQL server whose socket is in a folder."""
    proxy = Proxy(folder / ".s.PGSQL.5432")
    try:
        yield proxy
    finally:
        proxy.close()
