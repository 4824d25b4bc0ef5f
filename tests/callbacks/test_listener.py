"""The listener: accepts only the carrier, acknowledges durable messages, survives all others."""

import gzip
import json
import os
import random
import re
import signal
import socket
import sqlite3
import ssl
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
import structlog
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchlic.callbacks.access import CARRIER_SOURCES, Access, parse_networks
from batchlic.callbacks.listener import MAX_BODY, PATH, Listener
from batchlic.callbacks.messages import StoredMessage
from batchlic.callbacks.store import StoreError
from batchlic.carrier.credentials import Secret
from tests.callbacks.builders import ACCOUNT, PASSWORD, SETTINGS, USERNAME, body, listener
from tests.endtoend.program import PATIENCE, until
from tests.loopback import NO_CERTIFICATES
from tests.postgresql import PostgreSQL

CARRIER = CARRIER_SOURCES[0]


def access(*proxies: str) -> Access:
    return Access(
        username=Secret(USERNAME),
        password=Secret(PASSWORD),
        sources=parse_networks(CARRIER_SOURCES, where="test"),
        proxies=parse_networks(proxies, where="test"),
    )


class Kept:
    """A listener in process, what it kept and what it logged."""

    def __init__(self, who: Access | None = None, *, account: str = "", max_waiting: int = 10) -> None:
        self.messages: list[StoredMessage] = []
        self.trouble: StoreError | None = None
        self.gate = anyio.Event()
        self.gate.set()
        self.logged: list[structlog.typing.EventDict] = []
        self.app = Listener(
            who or access(),
            keep=self.keep,
            check=self.check,
            logger=structlog.wrap_logger(None, processors=[self._log]),
            account=account,
            max_waiting=max_waiting,
        ).app

    async def keep(self, message: StoredMessage) -> None:
        await self.gate.wait()
        self.check()
        self.messages.append(message)

    def check(self) -> None:
        if self.trouble:
            raise self.trouble

    def _log(
        self, _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        self.logged.append(event)
        raise structlog.DropEvent

    async def post(self, content: object, *, path: str = PATH, peer: str = CARRIER, **headers: str) -> int:
        transport = httpx.ASGITransport(self.app, client=(peer, 1234))
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        async with httpx.AsyncClient(transport=transport, base_url="http://listener") as http:
            given_headers = {"Content-Type": "application/json"} | {
                name.replace("_", "-"): value for name, value in headers.items()
            }
            return (await http.post(path, content=sent, headers=given_headers)).status_code

    async def get(self, path: str) -> int:
        transport = httpx.ASGITransport(self.app, client=("192.0.2.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://listener") as http:
            return (await http.get(path)).status_code


@pytest.mark.anyio
async def test_a_message_of_the_carrier_is_kept_without_its_credentials() -> None:
    kept = Kept()
    assert await kept.post(body("r1", "864508030109877")) == 200
    [message] = kept.messages
    assert (message.request_id, message.imei, message.status) == ("r1", "864508030109877", "Success")
    assert PASSWORD not in repr(message)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["imei", "Imei", "IMEI"])
async def test_identifier_kinds_are_accepted_in_any_case(kind: str) -> None:
    kept = Kept()
    ids = [
        {"id": "A100003685E561", "kind": "meid"},
        {"id": "864508030109877", "kind": kind},
        {"id": "89148000000800139708", "kind": "iccId"},
    ]
    assert await kept.post(body(deviceIds=ids)) == 200
    [message] = kept.messages
    assert (message.imei, message.iccid) == ("864508030109877", "89148000000800139708")
    assert message.further_ids == "MEID:A100003685E561"


@pytest.mark.anyio
async def test_stored_texts_have_a_maximum_length() -> None:
    kept = Kept()
    fault = {"faultcode": "x" * 5000, "faultstring": "y" * 5000}
    assert await kept.post(body("r" * 5000, status="z" * 5000, faultResponse=fault)) == 200
    [message] = kept.messages
    texts = (message.request_id, message.status, message.error_code, message.error_message)
    assert [len(text) for text in texts] == [500] * 4


@pytest.mark.anyio
async def test_a_failure_loses_its_service_name_and_control_characters() -> None:
    kept = Kept()
    fault = {"faultcode": "UnifiedWebService.REQUEST_FAILED.DeviceNotFound", "faultstring": "a\x00b\x1b[31m"}
    assert await kept.post(body(status="Failed", faultResponse=fault)) == 200
    [message] = kept.messages
    assert message.error_code == "REQUEST_FAILED.DeviceNotFound"
    assert message.error_message == "a b [31m"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "account"),
    [
        (f"{PATH}/{ACCOUNT}", ACCOUNT),
        (f"{PATH}/{ACCOUNT}/", ACCOUNT),
        (f"{PATH}//{ACCOUNT}//", ACCOUNT),
        (f"/callbacks//CarrierService/{ACCOUNT}", ACCOUNT),
        (f"{PATH}/{ACCOUNT}?source=carrier", ACCOUNT),
        (PATH, "of-the-option"),
        (f"{PATH}/", "of-the-option"),
        (f"{PATH}/{'9' * 40}", "9" * 40),
        (f"{PATH}/{ACCOUNT}/more", f"{ACCOUNT}/more"),
        (f"{PATH}/%00{ACCOUNT}%0a", ACCOUNT),
    ],
)
async def test_the_account_comes_from_the_path_or_else_the_option(path: str, account: str) -> None:
    kept = Kept(account="of-the-option")
    assert await kept.post(body(), path=path) == 200
    assert [message.account_name for message in kept.messages] == [account]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 5000, 400),
        (b"\x1f\x8bnot gzip", 400),
        (b"username=listener", 400),
        (b"\xff\xfe", 400),
        (b"null", 422),
        (b"[]", 422),
        ({"username": USERNAME, "password": PASSWORD}, 422),
        (body(requestId=""), 422),
        (body(requestId=" "), 422),
        (body(requestId=None), 422),
        (body(password="wrong"), 401),
        (body(password=""), 401),
        (body(username="somebody"), 401),
        (body(username=None, password=None), 401),
        (body(username=PASSWORD, password=USERNAME), 401),
        (json.dumps(body(password="wrong")).encode() + b"trailing text", 401),
        (f"username={USERNAME}&password=wrong&requestId=r1".encode(), 401),
        (f'{{"password": "wrong"}} {json.dumps(body())}'.encode(), 401),
        (b" " * (MAX_BODY + 1), 413),
        (gzip.compress(b" " * (MAX_BODY + 1), mtime=0), 413),
    ],
)
async def test_a_message_that_fails_a_check_is_refused_and_not_kept(content: object, expected: int) -> None:
    kept = Kept()
    assert await kept.post(content) == expected
    assert kept.messages == []
    assert PASSWORD not in repr(kept.logged)
    assert "wrong" not in {
        value for event in kept.logged for value in event.values() if value != event["reason"]
    }


@pytest.mark.anyio
async def test_a_message_up_to_the_limit_is_kept() -> None:
    kept = Kept()
    content = json.dumps(body()).encode()
    assert await kept.post(content + b" " * (MAX_BODY - len(content))) == 200
    assert len(kept.messages) == 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    "content_type", ["text/plain", "text/json", "application/vnd.api+json; charset=utf-8", "", "nonsense"]
)
async def test_the_content_type_does_not_matter(content_type: str) -> None:
    kept = Kept()
    assert await kept.post(body("r1"), Content_Type=content_type) == 200
    assert [message.request_id for message in kept.messages] == ["r1"]


@pytest.mark.anyio
@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
async def test_a_compressed_message_is_read(compress: Callable[[bytes], bytes]) -> None:
    kept = Kept()
    content = compress(json.dumps(body("r1")).encode())
    assert await kept.post(content, Content_Encoding="gzip") == 200
    assert [message.request_id for message in kept.messages] == ["r1"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "content",
    [
        body(status="Perhaps"),
        body(status=None),
        body(deviceIds=[]),
        body(deviceIds=None),
        body(deviceIds="864508030109877"),
        body(deviceIds=[{"id": None, "kind": "imei"}]),
        body(deviceIds=[{"kind": "imei"}]),
        body(requestId="'; DROP TABLE messages; --"),
        body(requestId=12345),
        [body(), body()],
        {"callback": body()},
        json.dumps(body()).encode()[:-5],
        json.dumps(body()).replace('"status"', "status:").encode(),
        json.dumps(json.dumps(body())).replace('\\"', "'").encode(),
        f"<cb><username>{USERNAME}</username><password>{PASSWORD}</password><requestId>r</requestId></cb>".encode(),
        f"username={USERNAME}&password={PASSWORD}&requestId=r1&status=Success".encode(),
    ],
)
async def test_a_message_with_credentials_and_requestid_is_never_refused(content: object) -> None:
    kept = Kept()
    assert await kept.post(content) == 200
    [message] = kept.messages
    assert message.request_id
    assert not {USERNAME, PASSWORD} & set(re.findall(r"[\w-]+", repr(message)))


@pytest.mark.anyio
async def test_a_message_that_settles_nothing_is_kept_as_it_came_and_logged() -> None:
    kept = Kept()
    await kept.post(body(deviceIds=[], deviceResponse={"note": f"said {PASSWORD}"}))
    [message] = kept.messages
    assert '"deviceIds": []' in message.raw
    assert "said [hidden]" in message.raw
    assert [event["event"] for event in kept.logged] == ["message kept as it came"]


@pytest.mark.anyio
async def test_a_judged_message_is_not_kept_twice() -> None:
    kept = Kept()
    await kept.post(body())
    await kept.post(body(status="Failed"))
    assert [message.raw for message in kept.messages] == ["", ""]
    assert kept.logged == []


def test_a_body_without_a_length_is_cut_off_at_the_bound(tmp_path: Path) -> None:
    with listener(tmp_path / "store.db") as running:
        chunks = (b" " * 10_000 for _ in range(10))
        answer = httpx.post(
            running.url,
            content=chunks,
            headers={"Content-Type": "application/json"},
            trust_env=False,
            verify=NO_CERTIFICATES,
        )
    assert answer.status_code == 413


def test_a_message_in_chunks_is_kept(tmp_path: Path) -> None:
    content = json.dumps(body()).encode()
    with listener(tmp_path / "store.db") as running:
        chunks = (content[at : at + 10] for at in range(0, len(content), 10))
        assert (
            httpx.post(f"{running.url}/", content=chunks, trust_env=False, verify=NO_CERTIFICATES).status_code
            == 200
        )
    assert rows(tmp_path / "store.db") == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.integers(0, 10**9))
def test_a_corrupted_message_gets_an_answer_and_no_crash(noise: int) -> None:
    dice = random.Random(noise)
    content = bytearray(json.dumps(body()).encode())
    for _ in range(dice.randint(1, 5)):
        place = dice.randrange(len(content))
        content[place : place + dice.randint(0, 3)] = dice.randbytes(dice.randint(0, 3))

    async def post() -> int:
        return await Kept().post(bytes(content))

    assert anyio.run(post) in {200, 400, 401, 422}


# -- sources --------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("source", CARRIER_SOURCES)
async def test_every_published_source_is_allowed(source: str) -> None:
    assert await Kept().post(body(), peer=source) == 200


@pytest.mark.anyio
@pytest.mark.parametrize("source", ["192.0.2.1", "127.0.0.1", "::1", "not an address", "3.87.163.46"])
async def test_another_source_is_refused(source: str) -> None:
    kept = Kept()
    assert await kept.post(body(), peer=source) == 403
    assert kept.messages == []


@pytest.mark.anyio
async def test_a_source_forged_in_a_header_is_not_believed() -> None:
    assert await Kept().post(body(), peer="192.0.2.1", X_Forwarded_For=CARRIER) == 403


@pytest.mark.parametrize(
    ("forwarded_for", "source"),
    [
        (CARRIER, CARRIER),
        (f"192.0.2.9, {CARRIER}", CARRIER),
        (f"{CARRIER}, 192.0.2.9", "192.0.2.9"),
        (f"{CARRIER}, 10.0.0.7", CARRIER),
        ("", "10.0.0.5"),
        (f"{CARRIER}:17085", CARRIER),
        (f"192.0.2.9:1, {CARRIER}:443, 10.0.0.7:80", CARRIER),
        (f'"{CARRIER}:17085"', CARRIER),
        (f' "{CARRIER}" ', CARRIER),
        (f"[::ffff:{CARRIER}]:443", f"::ffff:{CARRIER}"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ('"[2001:db8::7]"', "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        (f"{CARRIER}:17085, 192.0.2.9:17085", "192.0.2.9"),
        (f"{CARRIER}:17085:1", f"{CARRIER}:17085:1"),
        (f"{CARRIER}:port", f"{CARRIER}:port"),
    ],
)
def test_a_trusted_proxy_is_believed_for_one_address_only(forwarded_for: str, source: str) -> None:
    assert access("10.0.0.0/24").source_address("10.0.0.5", forwarded_for) == source


def test_an_ipv4_mapped_ipv6_address_is_the_ipv4_address() -> None:
    assert access().allows(f"::ffff:{CARRIER}")


# -- load and trouble ------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_too_many_waiting_messages_get_503_and_ready_says_so() -> None:
    kept = Kept(max_waiting=2)
    kept.gate = anyio.Event()
    answers: list[int] = []

    async def post() -> None:
        answers.append(await kept.post(body()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(post)
        tasks.start_soon(post)
        await anyio.wait_all_tasks_blocked()
        assert await kept.post(body()) == 503
        assert await kept.get("/ready") == 503
        assert await kept.get("/health") == 200
        kept.gate.set()
    assert answers == [200, 200]
    assert await kept.get("/ready") == 200


@pytest.mark.anyio
async def test_a_message_that_can_not_be_stored_is_not_acknowledged() -> None:
    kept = Kept()
    kept.trouble = StoreError("no room")
    assert await kept.post(body()) == 503
    assert await kept.get("/ready") == 503


@pytest.mark.anyio
async def test_a_flood_of_bad_messages_does_not_flood_the_log() -> None:
    kept = Kept()
    for _ in range(50):
        await kept.post(b"{")
    assert len(kept.logged) < 10


# -- the process -----------------------------------------------------------------------------------------


def post(url: str, content: object) -> int:
    return httpx.post(url, json=content, trust_env=False, verify=NO_CERTIFICATES).status_code


def rows(store: Path) -> int:
    connection = sqlite3.connect(store)
    [(count,)] = connection.execute("SELECT count(*) FROM messages")
    connection.close()
    return int(count)


def test_acknowledged_messages_survive_a_kill_without_duplicates(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with listener(store) as running:
        for number in range(20):
            assert post(running.url, body("r1", f"{number:015d}")) == 200
        running.end(signal.SIGKILL)
    assert rows(store) == 20
    with listener(store) as running:
        assert post(running.url, body("r1", f"{0:015d}")) == 200
    assert rows(store) == 20
    assert stat.S_IMODE(store.stat().st_mode) == 0o600


def test_the_listener_stops_gracefully_and_logs_no_secret(tmp_path: Path) -> None:
    with listener(tmp_path / "store.db") as running:
        assert post(running.url, body(password="planted-guess")) == 401
        code, logged = running.end()
    assert code == 0
    assert "wrong credentials" in logged
    assert PASSWORD not in logged
    assert "planted-guess" not in logged


NOT_HTTP = {
    "garbage": b"garbage\r\n\r\n",
    "a length that is no number": b"POST /callbacks/CarrierService HTTP/1.1\r\nContent-Length: x\r\n\r\n{}",
    "a websocket": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "TLS on a plain port": bytes.fromhex("160301002f0100002b0303") + bytes(50),
    "no callback": b"POST /callbacks/CarrierService HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("sent", NOT_HTTP.values(), ids=NOT_HTTP)
def test_every_line_of_the_log_is_json_whatever_is_sent(tmp_path: Path, sent: bytes) -> None:
    with listener(tmp_path / "store.db") as running:
        address = urlsplit(running.url)
        with socket.create_connection((str(address.hostname), int(address.port or 0))) as connection:
            connection.sendall(sent)
            assert connection.recv(100).startswith(b"HTTP/1.1 4")
        _, logged = running.end()
    lines = [json.loads(line) for line in logged.splitlines()]
    assert lines
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)


def test_a_refused_source_names_the_setting_that_would_allow_it(tmp_path: Path) -> None:
    with listener(tmp_path / "store.db", BATCHLIC_LISTENER_ALLOWED_SOURCES="10.0.0.0/8") as running:
        assert post(running.url, body()) == 403
        _, logged = running.end()
    [line] = map(json.loads, logged.splitlines())
    assert (line["source"], "BATCHLIC_LISTENER_ALLOWED_SOURCES" in line["reason"]) == ("127.0.0.1", True)


def is_open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except ConnectionError:
        return False
    return True


@pytest.mark.slow
def test_a_listener_process_ends_with_its_run(tmp_path: Path) -> None:
    program = (
        "import os, sys; from batchlic.callbacks.server import *\n"
        "with listener_process(ListenerOptions(port=0), sys.argv[1], {}) as url:\n"
        "    print(url, flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "store.db")],
        env={**os.environ, **SETTINGS},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    address = urlsplit(done.stdout.strip())
    until(lambda: not is_open(str(address.hostname), int(address.port or 0)))


def test_twenty_megabytes_are_refused_and_the_next_message_is_kept(tmp_path: Path) -> None:
    with listener(tmp_path / "store.db") as running:
        try:
            status = httpx.post(
                running.url,
                content=b" " * 20_000_000,
                headers={"Content-Type": "application/json"},
                trust_env=False,
            ).status_code
        except httpx.TransportError:
            status = 413  # it hung up on us before we were done
        assert status == 413
        assert post(running.url, body()) == 200


def test_the_listener_serves_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with listener(tmp_path / "store.db", "--tls-cert", str(certificate)) as running:
        assert running.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        with httpx.Client(verify=context, trust_env=False) as http:
            assert http.post(running.url, json=body()).status_code == 200


@pytest.mark.parametrize(
    ("settings_", "options", "expected"),
    [
        ({"BATCHLIC_LISTENER_PASSWORD": ""}, [], "BATCHLIC_LISTENER_PASSWORD"),
        ({"BATCHLIC_LISTENER_ALLOWED_SOURCES": "carrier.example"}, [], "ALLOWED_SOURCES"),
        ({}, ["--tls-cert", "nowhere.pem"], "nowhere.pem"),
        ({}, ["--tls-key", "nowhere.pem"], "--tls-key"),
        ({}, ["--path", "callbacks"], "--path"),
        ({}, ["--trusted-proxy", "proxy"], "--trusted-proxy"),
        ({}, ["--store", "mysql://x/y"], "--store"),
        ({}, ["--store", "/nowhere/store.db"], "/nowhere/store.db"),
        ({}, ["--store", "postgresql://u:p@ss:w0rd@127.0.0.1/db"], "--store"),
        ({}, ["--store", "postgresql://u:p@ssw0rd@127.0.0.1/db"], "%40"),
        ({}, ["--store", "postgresql://u@127.0.0.1/db?password=w0rd"], "before the host"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_listens(
    tmp_path: Path, settings_: dict[str, str], options: list[str], expected: str
) -> None:
    with listener(tmp_path / "store.db", *options, **settings_) as running:
        _, error = running.process.communicate()
        assert running.process.returncode == 2
        assert expected in error
        assert "w0rd" not in error


@pytest.mark.slow
def test_postgresql_stores_messages_as_sqlite_does(tmp_path: Path, postgresql: PostgreSQL) -> None:
    from batchlic.callbacks.store import Store  # noqa: PLC0415
    from batchlic.runs.reconcile import reconcile  # noqa: PLC0415
    from tests.callbacks.builders import messages_of, submitted_run  # noqa: PLC0415

    url = postgresql.new_database("callbacks")
    with listener(url) as running:
        assert post(running.url, body("r1", "864508030109877")) == 200
        assert post(running.url, body("r1", "864508030109877")) == 200
        running.end(signal.SIGKILL)
    with closing(Store.open(url)) as store:
        assert store.extent()[0] >= 1
        folder = submitted_run(tmp_path / "run", 250)
        store.write(messages_of(folder))
        store.write(messages_of(folder))
        assert reconcile(folder, store).statuses == {"confirmed": 250}
