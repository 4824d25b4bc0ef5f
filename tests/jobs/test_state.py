"""Each schedule lets its job write the state folder, and the job writes nothing elsewhere."""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchlic.sandbox.config import SandboxConfig
from batchlic.state import ledger_file, state_folder
from tests.endtoend.program import keys, statuses, totals
from tests.forking import serving
from tests.jobs.test_schedules import SCHEDULES, cronjob, text, unit

ROOT = SCHEDULES.parents[1]


@dataclass(frozen=True)
class Schedule:
    """What a schedule gives its job: environment, command, folder to start in, folders that it may write."""

    environment: Mapping[str, str]
    command: list[str]
    cwd: str
    writable: frozenset[str]


def systemd() -> Schedule:
    service = unit("batchlic.service")["Service"]
    assert service["ProtectSystem"] == "strict"
    environment = dict([service["Environment"].replace("%S", "/var/lib").split("=", 1)])
    command = shlex.split(service["ExecStart"].replace("$$", "$").replace("%%", "%"))
    own = f"/var/lib/{service['StateDirectory']}"
    environment["STATE_DIRECTORY"] = own
    return Schedule(
        environment, command, service["WorkingDirectory"].replace("%S", "/var/lib"), frozenset([own])
    )


def cron() -> Schedule:
    content = text("batchlic.cron")
    environment = dict(re.findall(r"^([A-Z_]+)=(.*)$", content, re.MULTILINE))
    [made] = re.findall(r"install -d -o batchlic -m 0700 (\S+)", content)
    [line] = [found for found in content.splitlines() if re.match(r"[0-9*]", found)]
    command = line.split(maxsplit=6)[6].replace("\\%", "%")
    return Schedule(environment, ["/bin/sh", "-c", command], "/", frozenset([made]))


def kubernetes() -> Schedule:
    pod = cronjob()["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    environment = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    command = container["command"]
    for name, value in (environment | {"JOB": "batchlic-onboard-1"}).items():
        command = [argument.replace(f"$({name})", value) for argument in command]
    claims = {volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in claims}
    return Schedule(environment, command, "/", frozenset(mounts))


def airflow() -> Schedule:
    tree = ast.parse(text("airflow_dag.py"))
    constants = {
        ast.unparse(node.targets[0]): ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
    }
    [ran] = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and "subprocess" in ast.unparse(node.func)
    ]
    [given] = [ast.unparse(keyword.value) for keyword in ran.keywords if keyword.arg == "env"]
    assert given == "{**os.environ, 'BATCHLIC_STATE_DIR': STATE}"
    job = f"{Path(constants['JOBS']).parent}/onboard_fleet.toml"  # as the job file of an account
    command = [constants["BATCHLIC"], "run", job, "--run-dir", f"{constants['STATE']}/20261121-account"]
    state = constants["STATE"]
    return Schedule({"BATCHLIC_STATE_DIR": state}, command, "/", frozenset([state]))


ALL = {"systemd": systemd, "cron": cron, "kubernetes": kubernetes, "airflow": airflow}


@pytest.fixture(params=ALL)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return ALL[request.param]()


def run_dir_of(schedule: Schedule) -> str:
    """The run folder that the schedule's command names, with the date of a day."""
    [named] = re.findall(r"--run-dir[ =]\"?([^\" ]+(?: \+%F\))?)", " ".join(schedule.command))
    for name, value in schedule.environment.items():
        named = named.replace(f"${name}", value)
    return str(named).replace("$(date +%F)", "2026-11-21")


def test_the_state_folder_is_one_that_the_job_may_write(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("BATCHLIC_", "XDG_", "STATE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("HOME", raising=False)
    for name, value in schedule.environment.items():
        if name != "BATCHLIC_CREDENTIALS_FILE":
            monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")
    assert str(Path("/") / state_folder()) in schedule.writable
    assert str(ledger_file().parent) in schedule.writable


def test_the_run_folder_is_in_the_state_folder(schedule: Schedule) -> None:
    run_dir = Path(run_dir_of(schedule))
    assert str(run_dir.parent) == schedule.environment["BATCHLIC_STATE_DIR"]
    assert re.search(r"\d", run_dir.name)


@pytest.mark.parametrize("job", sorted((ROOT / "jobs").glob("*.toml")), ids=lambda job: job.name)
def test_no_shipped_job_names_a_ledger(job: Path) -> None:
    assert "path" not in tomllib.loads(job.read_text()).get("ledger", {})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["systemd", "cron", "airflow"])
def test_the_command_as_shipped_writes_only_to_its_state_folder(tmp_path: Path, name: str) -> None:
    schedule = ALL[name]()
    for folder in ("home", "cwd", "bin"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bin" / "batchlic").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m batchlic "$@"\n')
    (tmp_path / "bin" / "batchlic").chmod(0o700)
    state = tmp_path / "state"
    state.mkdir()

    def moved(given: str) -> str:
        given = given.replace("/opt/batchlic/.venv/bin", str(tmp_path / "bin")).replace(
            "/opt/batchlic", str(ROOT)
        )
        for folder in schedule.writable:
            given = given.replace(folder, str(state))
        return given

    with serving(SandboxConfig()) as url:
        settings = {name: moved(value) for name, value in schedule.environment.items()}
        settings.pop("BATCHLIC_CREDENTIALS_FILE", None)
        environment = {"PATH": "/usr/bin:/bin", **settings, **keys(url), "PYTHONPATH": str(ROOT)}
        environment |= {"HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
        ended = subprocess.run(
            list(map(moved, schedule.command)),
            env=environment,
            cwd=tmp_path / "cwd",
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert "exited" not in ended.stdout, ended.stdout
        assert totals(url)["executions"] == 250
    assert [list((tmp_path / folder).iterdir()) for folder in ("home", "cwd")] == [[], []]
    assert (state / "ledger.db").is_file()
    [run] = state.glob("2*")
    assert set(statuses(run).values()) == {"accepted"}
