"""The walkthrough of docs/how-to/callbacks.md: its commands, and the settings that the sandbox prints."""

import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchlic.settings import load_settings
from tests.endtoend.program import PATIENCE, REPOSITORY, environment_of, summary

pytestmark = pytest.mark.slow

PAGE = (REPOSITORY / "docs" / "how-to" / "callbacks.md").read_text()
SECTION = PAGE.split("## Try it on one machine\n")[1].split("\n## ")[0]
FIRST, SECOND = re.findall(r"```console\n(.*?)```", SECTION, re.DOTALL)


def commands(block: str) -> list[str]:
    return [line.removeprefix("$ ") for line in block.splitlines()]


@dataclass(frozen=True)
class Sandbox:
    """The first terminal of the walkthrough, with a free port."""

    url: str
    block: str
    port: int


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    [command] = commands(FIRST)
    arguments = shlex.split(re.sub(r"--port \d+", "--port 0", command))
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=environment_of({}, tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            url = json.loads(process.stdout.readline())["base_url"]
            lines = iter(process.stderr.readline, "")
            assert next(lines).startswith(f"Sandbox at {url}. ")
            assert next(lines) == "\n"
            block = "".join(iter(lambda: next(lines), "\n"))
            yield Sandbox(url, block, int(url.split(":")[2].split("/")[0]))
        finally:
            process.kill()


def test_the_walkthrough_works_as_printed(tmp_path: Path, sandbox: Sandbox) -> None:
    """The second terminal, as a script of a shell, with free ports and the start of the sample fleet."""
    (tmp_path / "sample_data").mkdir()
    with gzip.open(REPOSITORY / "sample_data" / "fleet.csv.gz", "rt") as fleet:
        rows = [next(fleet) for _ in range(301)]
    with gzip.open(tmp_path / "sample_data" / "fleet.csv.gz", "wt") as start:
        start.writelines(rows)
    text = "\n".join(
        [
            "set -m",
            "PS1=",
            sandbox.block,
            *commands(SECOND),
            "wait",
        ]
    )
    text = text.replace("batchlic listen 2> listener.log &", _listen_on_a_free_port())
    text = text.replace("127.0.0.1:9001", "127.0.0.1:$PORT")
    text = text.replace("\nbatchlic ", f"\n{sys.executable} -m batchlic ")
    ended = subprocess.run(
        ["/bin/bash", "-c", text],
        env=environment_of({}, tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    written = summary(tmp_path / "runs" / "called-back")
    assert written["statuses"] == {"confirmed": written["planned"]}, ended.stderr
    assert f"Finished: {written['planned']} confirmed" in ended.stdout
    assert all(json.loads(line) for line in (tmp_path / "listener.log").read_text().splitlines())


def _listen_on_a_free_port() -> str:
    python = shlex.quote(sys.executable)
    address = "listener.url"
    read = f"import json; print(json.load(open('{address}'))['url'].split(':')[2].split('/')[0])"
    return (
        f"{python} -m batchlic listen --port 0 > {address} 2> listener.log &\n"
        f"until test -s {address}; do sleep 0.1; done\n"
        f'PORT=$({python} -c "{read}")'
    )


def test_the_block_of_settings_can_be_pasted_into_a_shell(tmp_path: Path, sandbox: Sandbox) -> None:
    shown = subprocess.run(
        ["/bin/sh", "-euc", f"{sandbox.block}env"],
        env={"PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    found = dict(line.split("=", 1) for line in shown.stdout.splitlines() if line.startswith("BATCHLIC_"))
    assert found["BATCHLIC_BASE_URL"] == sandbox.url
    assert found["BATCHLIC_LISTENER_ALLOWED_SOURCES"] == "127.0.0.1"
    assert len(found) == sandbox.block.count("\n")


def test_the_block_of_settings_can_be_a_settings_file(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("BATCHLIC_")]:
        monkeypatch.delenv(name)
    (tmp_path / ".env").write_text(sandbox.block)
    (tmp_path / ".env").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.base_url == sandbox.url
    assert settings.callback_store(None) == "callbacks.db"
    assert settings.credentials().can_open_session
    assert settings.access().allows("127.0.0.1")
    assert not settings.access().allows("3.87.163.45")


def test_the_commands_of_the_page_begin_with_batchlic() -> None:
    assert all(line.startswith("$ ") for line in (FIRST + SECOND).splitlines())
    assert [command.split()[0] for command in commands(FIRST + SECOND)] == ["batchlic"] * 4 + ["kill"]
