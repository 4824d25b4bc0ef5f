"""The sandbox over TCP: how it starts, shows its books and ends."""

import json
import os
import signal
import subprocess
import sys
import time
from http.client import HTTPConnection

import httpx
import psutil
import pytest

from batchlic.errors import UsageError
from batchlic.sandbox.config import Fault, LimitConfig, LimitKind, Poison, SandboxConfig
from batchlic.sandbox.embedded import embedded
from batchlic.sandbox.sockets import listen
from tests.sandbox.caller import (
    GRANT,
    ICCID,
    IMEI,
    KEYS,
    LICENSES,
    LOGIN,
    OAUTH,
    OTHER_IMEI,
    USER,
    device,
    request_body,
)


def log_in(http: httpx.Client) -> dict[str, str]:
    token = http.post(OAUTH, data=GRANT, auth=KEYS).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    headers["VZ-M2M-Token"] = http.post(LOGIN, json=USER, headers=headers).json()["sessionToken"]
    return headers


def refuses_connections(url: str) -> bool:
    """Within five seconds, since a process may take a moment to go."""
    for _ in range(500):
        try:
            httpx.get(url, trust_env=False)
        except httpx.TransportError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.slow
def test_an_embedded_sandbox_shows_its_books_until_the_block_ends() -> None:
    poison = (Poison(identifier=OTHER_IMEI, named=False),)
    with embedded(
        SandboxConfig(poison=poison, limits=LimitConfig(kind=LimitKind.FIXED_WINDOW, rate=1000))
    ) as url:
        with httpx.Client(base_url=url, trust_env=False) as http:
            headers = log_in(http)
            good = request_body(device(IMEI, ICCID))
            assert http.post(LICENSES, json=good, headers=headers).status_code == 200
            bad = request_body(device(OTHER_IMEI))
            assert http.post(LICENSES, json=bad, headers=headers).status_code == 400
            books = http.get(http.base_url.join("/sandbox/books"))
            totals = http.get(http.base_url.join("/sandbox/totals")).json()
        root = str(http.base_url)
    rows = [json.loads(line) for line in books.text.splitlines()]
    assert [(row["imei"], row["iccid"], row["sku_number"], row["refused"]) for row in rows] == [
        (IMEI, ICCID, "SIMSec-IoT", 0),
        (OTHER_IMEI, None, None, 1),
    ]
    assert (totals["requests"], totals["devices"], totals["executions"]) == ({"200": 1, "400": 1}, 2, 1)
    assert refuses_connections(root)


@pytest.mark.slow
def test_an_embedded_sandbox_dies_with_the_process_that_started_it() -> None:
    program = """
import os, signal
from batchlic.sandbox.config import SandboxConfig
from batchlic.sandbox.embedded import embedded
with embedded(SandboxConfig()) as url:
    print(url, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert refuses_connections(ended.stdout.strip())


def test_ctrl_c_on_the_terminal_does_not_reach_an_embedded_sandbox() -> None:
    before = {child.pid for child in psutil.Process().children()}
    with embedded(SandboxConfig()):
        [server] = {child.pid for child in psutil.Process().children()} - before
        assert os.getpgid(server) != os.getpgid(0)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_served_sandbox_ends_cleanly_while_a_call_hangs(stop: signal.Signals) -> None:
    program = """
from batchlic.sandbox.config import Fault, SandboxConfig
from batchlic.sandbox.server import serve
serve(SandboxConfig(faults={Fault.HANG_AFTER: 1.0}))
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = json.loads(process.stdout.readline())["base_url"]
        shown = [process.stderr.readline() for _ in range(12)]
        assert f"export BATCHLIC_BASE_URL={url}\n" in shown
        assert shown[-1] == "\n"
        with httpx.Client(base_url=url, trust_env=False) as http:
            hanging = HTTPConnection(http.base_url.host, http.base_url.port)
            headers = log_in(http) | {"Content-Type": "application/json"}
            hanging.request("POST", f"/api{LICENSES}", json.dumps(request_body(device(IMEI))), headers)
            while http.get(http.base_url.join("/sandbox/totals")).json()["executions"] == 0:
                pass
        os.kill(process.pid, stop)
        assert process.wait(300) == 0
        hanging.close()
        assert process.stderr.read() == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "carrier.example"])  # noqa: S104 - refused
def test_other_than_loopback_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="loopback"):
        listen(host, 0)


def test_a_port_in_use_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=str(port)):
            listen("127.0.0.1", port)


@pytest.mark.slow
def test_the_child_process_gets_the_whole_configuration() -> None:
    config = SandboxConfig(
        faults={Fault.EMPTY_503: 1.0}, limits=LimitConfig(changes=((1.0, 0.5),)), accounts=("acc",)
    )
    with embedded(config) as url, httpx.Client(base_url=url, trust_env=False) as http:
        headers = log_in(http)
        assert http.post(LICENSES, json={}, headers=headers).status_code == 503
