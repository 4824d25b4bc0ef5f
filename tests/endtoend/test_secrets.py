"""Promise F with a real process: the carrier echoes every secret, and no file or stream shows one."""

import subprocess
import uuid
from itertools import count
from pathlib import Path

import psutil

from tests.carrier.script import LICENSES, Exchange, Script
from tests.endtoend.carrier import answering
from tests.endtoend.program import ACCOUNT, FLEXIBLE, begin_as_a_shell_does, end, fleet, statuses
from tests.postgresql import PASSWORD, WITH_PASSWORD, PostgreSQL

PLANTED = {
    "BATCHLIC_CLIENT_ID": "planted-id-4711",
    "BATCHLIC_CLIENT_SECRET": "planted-secret-4711",
    "BATCHLIC_USERNAME": "planted-user-4711",
    "BATCHLIC_PASSWORD": "planted-password-4711",
}
BASIC = "cGxhbnRlZC1pZC00NzExOnBsYW50ZWQtc2VjcmV0LTQ3MTE="
TOKENS = ("access-1", "session-1", "access-2", "session-2")
ANSWERS = (503, 429, 400, 401, 500)


def echoing_script() -> Script:
    """Each refusal quotes the credentials, and the headers with their tokens."""
    number = count()
    secrets = " ".join([*PLANTED.values(), BASIC])

    async def refuse_some(exchange: Exchange) -> None:
        if (at := next(number)) >= len(ANSWERS):
            await exchange.say(200, {"requestId": str(uuid.uuid4())})
            return
        echo = f"{exchange.request.headers} {secrets}"
        body = {"errorCode": f"UnifiedWebService.REQUEST_FAILED.{secrets}", "errorMessage": echo}
        await exchange.say(ANSWERS[at], body, f"X-Echo: {secrets}")

    return refuse_some


def arguments_of(process: subprocess.Popen[str]) -> list[str]:
    """The command lines of a process and its children."""
    parent = psutil.Process(process.pid)
    processes = (parent, *parent.children(recursive=True))
    return [argument for process in processes for argument in process.cmdline()]


def test_f_no_secret_is_in_files_streams_or_the_process_list(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 100)
    options = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--batch-size", "10", "--run-dir", "run")
    with answering(echoing_script()) as carrier:
        settings = {"BATCHLIC_BASE_URL": carrier.url, **PLANTED}
        process = begin_as_a_shell_does(
            "assign", "fleet.csv", *options, "--json", settings=settings, cwd=tmp_path
        )
        listed = arguments_of(process)
        ended = end(process)
    assert "accepted" in statuses(tmp_path / "run").values()
    texts = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    texts |= {"stdout": ended.out.encode(), "stderr": ended.err.encode(), "list": " ".join(listed).encode()}
    assert b"[hidden]" in texts["run.log"]
    for secret in (*PLANTED.values(), BASIC, *TOKENS):
        assert [name for name, content in texts.items() if secret.encode() in content] == [], secret
    assert LICENSES.encode() not in texts["list"]


def test_f_the_password_of_a_store_is_in_no_file_stream_or_table(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    postgresql.new_database("guarded_runs")
    postgresql.execute(f"ALTER DATABASE guarded_runs OWNER TO {WITH_PASSWORD}")
    fleet(tmp_path / "fleet.csv", 100)
    options = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--batch-size", "10", "--run-dir", "run")
    with answering(echoing_script()) as carrier:
        store = {"BATCHLIC_STORE": postgresql.url("guarded_runs", f"{WITH_PASSWORD}:{PASSWORD}")}
        settings = {"BATCHLIC_BASE_URL": carrier.url, **PLANTED, **store}
        process = begin_as_a_shell_does(
            "-v", "assign", "fleet.csv", *options, settings=settings, cwd=tmp_path
        )
        listed = arguments_of(process)
        ended = end(process)
    assert "accepted" in statuses(tmp_path / "run").values()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    texts = {path.name: path.read_bytes() for path in files}
    texts |= {"stdout": ended.out.encode(), "stderr": ended.err.encode(), "list": " ".join(listed).encode()}
    for table in ("journals", "leases", "answers", "session_ends"):
        texts[table] = repr(postgresql.execute(f"TABLE {table}", "guarded_runs")).encode()
    assert b"postgresql://guarded@" in texts["store.json"]
    assert b"guarded@" in texts["journals"]
    assert {name for name, text in texts.items() if PASSWORD.encode() in text} == set()
