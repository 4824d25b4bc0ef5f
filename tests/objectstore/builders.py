"""Object stores for tests: one in memory that can fail, and a real S3-compatible server on loopback."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from moto.server import ThreadedMotoServer

from batchlic.objectstore.objects import Conflict, Missing

if TYPE_CHECKING:
    from obstore import UpdateVersion

BUCKET = "runs"


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Stored:
    """What a store holds: content and version of each object."""

    objects: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    writes: int = 0


@dataclass
class FakeObjects:
    """Objects in memory. The process is killed before its operation number `killed_at`, counted from 0."""

    stored: Stored
    killed_at: int | None = None
    operations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "s3://runs/run"

    def _begin(self, operation: str) -> None:
        if len(self.operations) == self.killed_at:
            raise Killed
        self.operations.append(operation)

    def read(self, key: str) -> "tuple[bytes, UpdateVersion]":
        self._begin(f"read {key}")
        if key not in self.stored.objects:
            raise Missing(key)
        content, version = self.stored.objects[key]
        return content, {"e_tag": str(version)}

    def chunks(self, key: str) -> Iterator[bytes]:
        content, _ = self.read(key)
        yield from (content[:3], content[3:])

    def write(self, key: str, content: bytes | Iterator[bytes]) -> None:
        self._begin(f"write {key}")
        self._put(key, content if isinstance(content, bytes) else b"".join(content))

    def _put(self, key: str, content: bytes) -> None:
        self.stored.writes += 1
        self.stored.objects[key] = content, self.stored.writes

    def write_if(self, key: str, content: bytes, version: "UpdateVersion | None") -> "UpdateVersion":
        self._begin(f"write {key} if")
        now = self.stored.objects.get(key)
        if (None if version is None else version.get("e_tag")) != (None if now is None else str(now[1])):
            raise Conflict(key)
        self._put(key, content)
        return {"e_tag": str(self.stored.writes)}

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._begin(f"delete {key}")
            self.stored.objects.pop(key, None)

    def list_keys(self, folder: str | None = None) -> list[str]:
        self._begin("list")
        return sorted(key for key in self.stored.objects if folder is None or key.startswith(f"{folder}/"))


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write the text of each file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content)


def contents(folder: Path) -> dict[str, str]:
    """The text of each file below a folder, by its path in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def request(port: int, method: str, path: str, body: bytes = b"") -> None:
    """Send a request to the server as somebody who may do everything."""
    connection = HTTPConnection("127.0.0.1", port)
    login = "AWS4-HMAC-SHA256 Credential=testing/x/us-east-1/s3/aws4_request"
    connection.request(method, path, body, {"Authorization": login})
    assert connection.getresponse().status < 300
    connection.close()


@contextmanager
def s3_server() -> Iterator[int]:
    """The port of an S3-compatible server with a bucket. All servers in a process have the same objects."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    request(port, "PUT", f"/{BUCKET}/")
    try:
        yield port
    finally:
        server.stop()


def environment_of(port: int) -> dict[str, str]:
    """The variables with which clients of the server work."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "NO_PROXY": "127.0.0.1",
    }


def use(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients in this process use the server."""
    for name, value in environment_of(port).items():
        monkeypatch.setenv(name, value)
