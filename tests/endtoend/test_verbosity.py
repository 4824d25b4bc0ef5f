"""What goes to which stream, quiet and verbose, and to readers that have gone."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from batchlic.sandbox import LatencyConfig, SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    PATIENCE,
    REPOSITORY,
    Ended,
    batchlic,
    begin,
    end,
    environment_of,
    fleet,
    keys,
    until,
)
from tests.endtoend.terminal import on_terminal
from tests.forking import serving

ASSIGN = ("assign", "fleet.csv", "--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "run")
SLOWLY = ("--batch-size", "10", "--max-concurrency", "1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run against a sandbox."""
    home = tmp_path_factory.mktemp("home")
    fleet(home / "fleet.csv", 20)
    assert batchlic(*ASSIGN, "--sandbox", cwd=home).code == 0
    return home


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("status", "run"), "Finished: 20 accepted"),
        (("resume", "run", "--sandbox"), "Finished: 20 accepted"),
        (("plan", "fleet.csv", *ASSIGN[2:6]), "20 devices in 1 request"),
        ((*ASSIGN[:6], "--dry-run"), "20 devices in 1 request"),
        (("audit", "run", "--verify"), "journal, plan, audit"),
        (("audit", "--device", "864508030000004", "."), "planned"),
        (("runs", "."), "20 accepted"),
        (("ledger", "import", "fleet.csv", *ASSIGN[2:6], "--ledger", "other.db"), "20 devices imported"),
        (("ledger", "show", "--ledger", "other.db"), "20 assigned"),
        (("subscriptions", "--account", ACCOUNT, "--sandbox"), FLEXIBLE),
        (("check", "--no-login", "--sandbox"), "ok"),
        (("report", "run", "--to", "report.html"), "Report: report.html"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_the_result_for_people_is_alone_on_stdout(home: Path, command: tuple[str, ...], says: str) -> None:
    ended = batchlic(*command, cwd=home)
    assert (ended.code, says in ended.out, ended.err) == (0, True, "")


def run_of(folder: Path, *options: str, **settings: str) -> Ended:
    fleet(folder / "fleet.csv", 30)
    return batchlic(*options, *ASSIGN, "--sandbox", settings=settings, cwd=folder)


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--quiet",), ("-q",)])
def test_quiet_waits_for_callbacks_without_a_word(tmp_path: Path, options: tuple[str, ...]) -> None:
    waiting = ("--wait-callbacks", "60s", "--listen-port", "0")
    fleet(tmp_path / "fleet.csv", 3)
    ended = batchlic(*ASSIGN, "--sandbox", *waiting, *options, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert "Finished: 3 confirmed" in ended.out


@pytest.mark.slow
def test_quiet_says_what_is_wrong(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 3)
    ended = batchlic(*ASSIGN, "--sandbox", "-q", "--metrics-file", "missing/x.prom", cwd=tmp_path)
    assert re.fullmatch(r"warning: --metrics-file \S+: can't be written: .*\n", ended.err)
    refused = batchlic("-q", "status", "nowhere", cwd=tmp_path)
    assert (refused.code, refused.err.startswith("batchlic: nowhere: there is no such run")) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "settings"),
    [(("-v",), {}), ((), {"BATCHLIC_VERBOSITY": "verbose"}), (("-v",), {"BATCHLIC_VERBOSITY": "quiet"})],
)
def test_verbose_shows_each_event_of_the_log(
    tmp_path: Path, options: tuple[str, ...], settings: dict[str, str]
) -> None:
    ended = run_of(tmp_path, *options, **settings)
    logged = [json.loads(line)["event"] for line in (tmp_path / "run/run.log").read_text().splitlines()]
    shown = re.findall(r"^\S+Z \[\w+ *\] (\w+)", ended.err, re.MULTILINE)
    assert shown == logged
    assert {"begun", "accepted", "ended"} <= set(shown)
    assert "Finished: 30 accepted" in ended.out


@pytest.mark.slow
def test_verbose_shows_a_warning_once_and_no_secret(tmp_path: Path) -> None:
    with serving(SandboxConfig()) as url:
        fleet(tmp_path / "fleet.csv", 3)
        ended = batchlic(*ASSIGN, "-v", settings=keys(url, BATCHLIC_SERVE_TOKEN="planted"), cwd=tmp_path)
    assert ended.code == 0
    assert "planted" not in ended.err
    assert ended.err.count(" ended ") == 1


def test_an_unknown_verbosity_is_a_usage_error(tmp_path: Path) -> None:
    ended = run_of(tmp_path, BATCHLIC_VERBOSITY="loud")
    assert (ended.code, "BATCHLIC_VERBOSITY" in ended.err) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("command", [("status", "run"), ("runs", "."), ("--help",), ("schema",)])
def test_a_reader_that_has_gone_is_no_error(home: Path, command: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "batchlic", *command],
        env=environment_of({}, home),
        cwd=home,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "has_colors"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_sees_colors_unless_it_wants_none(
    home: Path, settings: dict[str, str], *, has_colors: bool
) -> None:
    for command in (("status", "run"), ("--help",), ("check", "--no-login", "--sandbox")):
        screen = on_terminal(*command, typing={}, settings={"TERM": "xterm", **settings}, cwd=home)
        assert ("\x1b[" in screen.text) == has_colors, command


@pytest.mark.slow
def test_watching_ends_with_the_run_and_prints_a_line_for_each_change(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 60)
    with serving(SandboxConfig(latency=LatencyConfig(base_s=1.5))) as url:
        run = begin(*ASSIGN, *SLOWLY, settings=keys(url), cwd=tmp_path)
        until((tmp_path / "run" / "journal.db").exists)
        watched = end(begin("status", "run", "--watch", settings={}, cwd=tmp_path))
        assert end(run).code == 0
    *changes, last = watched.out.split("\n\n")[0].splitlines()
    assert watched.code == 0, watched.err
    assert len(changes) >= 2
    assert all("At work since" in line for line in changes)
    assert "Finished: 60 accepted" in last


@pytest.mark.slow
def test_a_run_that_has_ended_is_shown_once(home: Path) -> None:
    assert batchlic("status", "run", "--watch", cwd=home) == batchlic("status", "run", cwd=home)


def test_watching_gives_no_json(home: Path) -> None:
    refused = batchlic("status", "run", "--watch", "--json", cwd=home)
    assert (refused.code, "either --watch or --json" in refused.err) == (2, True)


def test_the_version_is_that_of_the_checkout(tmp_path: Path) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert batchlic("--version", cwd=tmp_path).out == f"batchlic {project['version']}\n"
