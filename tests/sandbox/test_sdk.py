"""The carrier's published Python SDK, as it spoke to the sandbox: byte for byte, but for host and tokens.

sdk_session.http was recorded between `sdksio-verizon-apis-sdk` 2.0.0 and a sandbox: log in, assign, read the
counts, unassign without a body, register and remove a listener, log out. The SDK itself is not installed
for tests: it would bring fifteen packages, one of which is named `tests`.
"""

import json
import socket
from pathlib import Path

import pytest

from batchlic.sandbox.config import SandboxConfig
from tests.forking import serving

RECORDING = Path(__file__).with_name("sdk_session.http")


def _spoken(text: str, tokens: dict[str, str]) -> bytes:
    """A recorded request, with this session's tokens in place of the recorded ones, and CRLF line ends."""
    head, _, body = text.strip("\n").partition("\n\n")
    for name, token in tokens.items():
        head = head.replace(name, token)
    return f"{head}\n\n".replace("\n", "\r\n").encode() + body.encode()


def _answer(connection: socket.socket) -> tuple[int, dict[str, object]]:
    with connection.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        headers = dict(line.rstrip().split(b": ") for line in iter(stream.readline, b"\r\n"))
        body = json.loads(stream.read(int(headers[b"content-length"])))
    return status, body if isinstance(body, dict) else {"list": body}


@pytest.fixture(scope="module")
def conversation() -> list[tuple[str, int, dict[str, object]]]:
    """Request line, status and body of each exchange, all on one connection."""
    spoken: list[tuple[str, int, dict[str, object]]] = []
    tokens: dict[str, str] = {}
    with serving(SandboxConfig()) as url:
        port = int(url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            for text in RECORDING.read_text(encoding="utf-8").split("\n=====\n"):
                connection.sendall(_spoken(text, tokens))
                status, body = _answer(connection)
                tokens |= {name: str(body[key]) for name, key in TOKENS.items() if key in body}
                spoken.append((text.strip().splitlines()[0].removesuffix(" HTTP/1.1"), status, body))
    return spoken


TOKENS = {"ACCESS-TOKEN": "access_token", "SESSION-TOKEN": "sessionToken"}


def test_every_call_of_the_sdk_succeeds(
    conversation: list[tuple[str, int, dict[str, object]]],
) -> None:
    assert [(line, status) for line, status, _ in conversation] == [
        ("POST /api/ts/v1/oauth2/token", 200),
        ("POST /api/m2m/v1/session/login", 200),
        ("POST /api/m2m/v1/devices/license/actions/assign", 200),
        ("POST /api/m2m/v1/accounts/subscriptions/actions/list", 200),
        ("DELETE /api/m2m/v1/devices/license/actions/assign", 200),
        ("POST /api/m2m/v1/accounts/subscriptions/actions/list", 200),
        ("POST /api/m2m/v1/callbacks/0000123456-00001", 200),
        ("GET /api/m2m/v1/callbacks/0000123456-00001", 200),
        ("DELETE /api/m2m/v1/callbacks/0000123456-00001/name/CarrierService", 200),
        ("POST /api/m2m/v1/session/logout", 200),
    ]


def test_the_sdks_unassign_without_a_body_undoes_its_assign(
    conversation: list[tuple[str, int, dict[str, object]]],
) -> None:
    def assigned(body: dict[str, object]) -> dict[str, int]:
        counts = body["subscriptionList"]
        assert isinstance(counts, list)
        return {count["skuNumber"]: count["licenseAssigned"] for count in counts}

    after_assign, after_unassign = (body for line, _, body in conversation if "subscriptions" in line)
    assert assigned(after_assign) == {"SIMSec-IoT": 2}
    assert assigned(after_unassign)["SIMSec-IoT"] == 0
