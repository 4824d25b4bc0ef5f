"""A real S3-compatible server on loopback."""

from collections.abc import Iterator

import pytest

from batchlic.objectstore import copies
from tests.objectstore.builders import BUCKET, s3_server, use


@pytest.fixture(scope="session")
def server() -> Iterator[int]:
    """The port of a server with an empty bucket."""
    with s3_server() as port:
        yield port


@pytest.fixture
def s3(server: int, monkeypatch: pytest.MonkeyPatch, request_id: str) -> Iterator[str]:
    """The address of an empty folder on the server. The environment has the credentials."""
    use(server, monkeypatch)
    yield f"s3://{BUCKET}/{request_id}"
    copies.close()


@pytest.fixture
def request_id(request: pytest.FixtureRequest) -> str:
    """A name that no other test has."""
    name: str = request.node.name
    return name.replace("[", "-").rstrip("]")[:80]
