"""Runs the program as a scheduler does: with an environment, files and an exit code."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import polars as pl

from batchlic.journal import Attempt
from batchlic.runs.folder import RunFolder
from tests.forking import Program

ACCOUNT = "0000123456-00001"
FLEXIBLE, LIFETIME = "SIMSec-IoT", "SIMSec-IoT-Lt"
REPOSITORY = Path(__file__).parents[2]
PATIENCE = 120.0
"""Seconds until a test gives up, on a machine that is as busy as it can be."""


@dataclass(frozen=True)
class Ended:
    """Exit code and output of a process."""

    code: int
    out: str
    err: str


def keys(url: str, **changes: str) -> dict[str, str]:
    """Settings that log in to the sandbox at `url`."""
    names = ("CLIENT_ID", "CLIENT_SECRET", "USERNAME", "PASSWORD")
    return {"BATCHLIC_BASE_URL": url, **{f"BATCHLIC_{name}": "sandbox" for name in names}, **changes}


def begin(*arguments: str | Path, settings: Mapping[str, str], cwd: Path) -> Program:
    """Start `batchlic` with these settings and no others."""
    return Program(list(map(str, arguments)), environment_of(settings, cwd), cwd)


def begin_as_a_shell_does(
    *arguments: str | Path, settings: Mapping[str, str], cwd: Path
) -> subprocess.Popen[str]:
    """Like `begin`, as a new interpreter: for tests of the command line, and of its start and end."""
    return subprocess.Popen(
        [sys.executable, "-m", "batchlic", *map(str, arguments)],
        env=environment_of(settings, cwd),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def environment_of(settings: Mapping[str, str], cwd: Path) -> dict[str, str]:
    """The environment of a process with these settings and no others; its state folder is `runs` in `cwd`."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    state = {"BATCHLIC_STATE_DIR": str(cwd.absolute() / "runs")}
    return {**inherited, "PYTHONPATH": str(REPOSITORY), **state, **settings}


def end(process: Program | subprocess.Popen[str]) -> Ended:
    """Wait for a process."""
    with process:
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode is not None
    return Ended(process.returncode, out, err)


def batchlic(*arguments: str | Path, settings: Mapping[str, str] | None = None, cwd: Path) -> Ended:
    """Run `batchlic` to its end."""
    return end(begin(*arguments, settings=settings or {}, cwd=cwd))


def bound(*arguments: str | Path, settings: Mapping[str, str] | None = None, cwd: Path) -> Ended:
    """Like `batchlic`, as a process that permissions bind, also if the tests run as root."""
    environment = environment_of(settings or {}, cwd)
    return end(Program(list(map(str, arguments)), environment, cwd, is_privileged=False))


def as_user(
    user: tuple[int, int], *arguments: str | Path, settings: Mapping[str, str] | None = None, cwd: Path
) -> Ended:
    """Like `batchlic`, as another user and group: their numbers."""
    return end(Program(list(map(str, arguments)), environment_of(settings or {}, cwd), cwd, user=user))


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, by polling."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s"
        time.sleep(0.02)


def imei(number: int) -> str:
    """The IMEI of a device: type, number, check digit."""
    body = f"86450803{number:06}"
    doubled = [int(digit) * (1 + at % 2) for at, digit in enumerate(body)]
    return f"{body}{-sum(d // 10 + d % 10 for d in doubled) % 10}"


def fleet(path: Path, devices: int, *broken: str) -> Path:
    """An inventory of `devices` devices, and some broken cells."""
    path.write_text("\n".join(["IMEI", *map(imei, range(devices)), *broken, ""]))
    return path


def books(url: str) -> dict[str, dict[str, Any]]:
    """The sandbox's record of each device, by IMEI."""
    return {record["imei"]: record for record in map(json.loads, _ask(url, "books").splitlines())}


def totals(url: str) -> dict[str, Any]:
    """The sandbox's counters."""
    found: dict[str, Any] = json.loads(_ask(url, "totals"))
    return found


def _ask(url: str, what: str) -> bytes:
    with build_opener(ProxyHandler({})).open(url.removesuffix("/api") + f"/sandbox/{what}") as answer:
        return bytes(answer.read())


def statuses(folder: Path) -> dict[str, str]:
    """The status of each device in results.parquet, by IMEI."""
    results = pl.read_parquet((folder / "results.parquet").read_bytes())  # polars reads a path as a pattern
    return dict(zip(results["imei"], results["status"], strict=True))


def summary(folder: Path) -> dict[str, Any]:
    """The content of summary.json."""
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def attempts(folder: Path) -> list[Attempt]:
    """All attempts in the journal of a run."""
    with RunFolder(folder).journal.inspect() as journal:
        return list(journal.attempts())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
