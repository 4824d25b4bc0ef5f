"""Hostile messages to a live listener, over real sockets, change no outcome and stop nothing."""

import json
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import polars as pl
import pytest

from batchlic.callbacks.access import CARRIER_SOURCES
from batchlic.callbacks.messages import StoredMessage
from batchlic.callbacks.store import Store
from batchlic.runs.folder import RunFolder
from batchlic.runs.reconcile import reconcile
from tests.callbacks.builders import (
    ACCOUNT,
    PASSWORD,
    USERNAME,
    ListenerProcess,
    accepted,
    body,
    listener,
    lost,
    messages_of,
    submitted_run,
)
from tests.loopback import NO_CERTIFICATES

Attack = Callable[[str, list[StoredMessage]], Iterator[int]]
"""Sends what it sends to an address, knowing the run's requests and devices; gives the answers' statuses."""

TAKEN = {200}
REFUSED = {400, 401, 403, 404, 405, 408, 413, 415, 422}
FUZZED = 150
MEGABYTES_20 = 20_000_000


def about(message: StoredMessage, **changes: object) -> dict[str, object]:
    return body(message.request_id, message.imei, **changes)


def post(url: str, content: object, **headers: str) -> int:
    sent = content if isinstance(content, bytes) else json.dumps(content).encode()
    given = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return httpx.post(url, content=sent, headers=given, trust_env=False, verify=NO_CERTIFICATES).status_code


def forged_credentials(url: str, messages: list[StoredMessage]) -> Iterator[int]:
    for username, password in (
        ("x", PASSWORD),
        (USERNAME, "x"),
        (PASSWORD, USERNAME),
        (None, None),
        ("", ""),
    ):
        for message in messages:
            yield post(url, about(message, status="Failed", username=username, password=password))


def fuzzed_bodies(url: str, messages: list[StoredMessage]) -> Iterator[int]:
    dice = random.Random(6)
    with httpx.Client(trust_env=False, headers={"Content-Type": "application/json"}) as http:
        for _ in range(FUZZED):
            content = bytearray(
                json.dumps(about(dice.choice(messages), status="Failed", password="x")).encode()
            )
            for _ in range(dice.randint(1, 8)):
                place = dice.randrange(len(content))
                content[place : place + dice.randint(0, 4)] = dice.randbytes(dice.randint(0, 4))
            yield http.post(url, content=bytes(content)).status_code


def twenty_megabytes(url: str, messages: list[StoredMessage]) -> Iterator[int]:
    padded = json.dumps(
        about(messages[1], status="Failed", deviceResponse={"x": "y" * MEGABYTES_20})
    ).encode()
    pieces = (padded[start : start + 65536] for start in range(0, len(padded), 65536))
    for content in (padded, pieces):
        try:
            yield httpx.post(
                url, content=content, headers={"Content-Type": "application/json"}, trust_env=False
            ).status_code
        except httpx.TransportError:
            yield 413  # it hung up on us before we were done


def broken_http(url: str, messages: list[StoredMessage]) -> Iterator[int]:
    address = urlsplit(url)
    content = json.dumps(about(messages[1], status="Failed")).encode()
    start = f"POST {address.path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
    for sent in (
        b"\x00" * 10_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        start + b"Content-Length: -1\r\n\r\n" + content,
        start + b"Content-Length: 1e9\r\n\r\n" + content,
        start + b"Content-Length: 99999999999999999999999\r\n\r\n" + content,
        start + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + content,
        start + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + content,
        start + b"X: " + b"y" * 1_000_000 + b"\r\n\r\n",
        start + b"Content-Length: 500\r\n\r\n{",
    ):
        with closing(socket.create_connection((str(address.hostname), int(address.port or 0)))) as stranger:
            stranger.settimeout(0.5)
            try:
                stranger.sendall(sent)
                answer = stranger.recv(100)
            except (TimeoutError, ConnectionError):
                answer = b""
        yield int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 400


def a_replay_to_another_account(url: str, messages: list[StoredMessage]) -> Iterator[int]:
    """With the right credentials: somebody who has a listener's other account, or overheard a message."""
    for message in messages:
        for status in ("Success", "Failed"):
            yield post(url.replace(ACCOUNT, "0000999999-00001"), about(message, status=status))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "answers"),
    [
        (forged_credentials, REFUSED),
        (fuzzed_bodies, REFUSED),
        (twenty_megabytes, REFUSED),
        (broken_http, REFUSED),
        (a_replay_to_another_account, TAKEN),
    ],
)
def test_hostile_messages_change_no_outcome(tmp_path: Path, attack: Attack, answers: set[int]) -> None:
    folder, messages = settled_run(tmp_path)
    before = pl.read_parquet(folder.results)
    with listener(tmp_path / "store.db") as running:
        assert set(attack(address_of(running), messages)) <= answers
        assert post(address_of(running), about(messages[0])) == 200, "it is still there for the carrier"
        code, logged = running.end()
    assert reconciled(folder, tmp_path).equals(before)
    assert code == 0
    assert PASSWORD not in logged


@pytest.mark.slow
def test_no_outcome_is_changed_by_a_forged_source(tmp_path: Path) -> None:
    folder, messages = settled_run(tmp_path)
    before = pl.read_parquet(folder.results)
    carrier = CARRIER_SOURCES[0]
    headers = {"X_Forwarded_For": carrier, "Forwarded": f"for={carrier}", "X_Real_IP": carrier}
    with listener(tmp_path / "store.db", BATCHLIC_LISTENER_ALLOWED_SOURCES=carrier) as running:
        for message in messages:
            assert post(address_of(running), about(message, status="Failed"), **headers) == 403
    assert reconciled(folder, tmp_path).equals(before)


def settled_run(tmp_path: Path) -> tuple[RunFolder, list[StoredMessage]]:
    """A run with a confirmed device, an accepted one and one in doubt, and a message that fits each."""
    folder = submitted_run(
        tmp_path / "run", 3, batch_size=2, answered=lambda batch: accepted(batch) if batch == 1 else lost(2)
    )
    messages = messages_of(folder, batch_size=2)
    with closing(Store.open(str(tmp_path / "store.db"))) as store:
        store.write(messages[:1])
        assert reconcile(folder, store).statuses == {"accepted": 1, "confirmed": 1, "in_doubt": 1}
    return folder, messages


def address_of(running: ListenerProcess) -> str:
    return f"{running.url}/{ACCOUNT}"


def reconciled(folder: RunFolder, tmp_path: Path) -> pl.DataFrame:
    with closing(Store.open(str(tmp_path / "store.db"))) as store:
        reconcile(folder, store)
    return pl.read_parquet(folder.results)
