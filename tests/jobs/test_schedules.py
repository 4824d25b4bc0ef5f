"""The schedules are valid for their tools, and handle exit codes as errors.py defines them."""

import ast
import configparser
import importlib
import importlib.util
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cronsim import CronSim

from batchlic.errors import ExitCode

SCHEDULES = Path(__file__).parents[2] / "jobs" / "schedule"
NIGHTLY = [datetime(2026, 1, day, 2, 10) for day in (1, 2, 3)]  # noqa: DTZ001 - local time, as cron has it
FAILURES = set(ExitCode) - {ExitCode.OK, ExitCode.STOPPED}


def shipped() -> list[Path]:
    """The schedules, without what tools leave beside them, such as `__pycache__`."""
    kinds = {".cron", ".md", ".py", ".service", ".timer", ".yaml"}
    return sorted(path for path in SCHEDULES.iterdir() if path.suffix in kinds and path.is_file())


def text(name: str) -> str:
    return (SCHEDULES / name).read_text()


def first_three(expression: str) -> list[datetime]:
    times = CronSim(expression, datetime(2025, 12, 31, 12))  # noqa: DTZ001 - as above
    return [next(times) for _ in range(3)]


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names of units are case-sensitive
    parser.read(SCHEDULES / name)
    return parser


def cronjob() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text("cronjob.yaml"))
    return found


def test_cron_starts_the_job_every_night_as_its_own_user() -> None:
    [line] = [found for found in text("batchlic.cron").splitlines() if re.match(r"[0-9*]", found)]
    *when, user, command = line.split(maxsplit=6)
    assert first_three(" ".join(when)) == NIGHTLY
    assert user == "batchlic"
    assert not re.search(r"(?<!\\)%", command), "cron ends a command at a bare %"
    shell = command.replace(r"\%", "%")
    assert subprocess.run(["/bin/sh", "-n", "-c", shell], check=False).returncode == 0
    assert "run /opt/batchlic/jobs/onboard_fleet.toml" in shell


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize(
    "name", ["batchlic.service", "batchlic.timer", "batchlic-failed.service", "batchlic-serve.service"]
)
def test_systemd_accepts_its_units(name: str) -> None:
    verified = subprocess.run(
        ["systemd-analyze", "verify", f"./{name}"],  # noqa: S607 - found above
        cwd=SCHEDULES,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (verified.returncode, verified.stderr) == (0, "")


def test_systemd_restarts_after_exit_6_only_and_alarms_otherwise() -> None:
    service = unit("batchlic.service")
    assert service["Service"]["Restart"] == "no"
    assert service["Service"]["RestartForceExitStatus"] == str(int(ExitCode.STOPPED))
    assert service["Unit"]["OnFailure"] == "batchlic-failed.service"


def test_kubernetes_retries_after_exit_6_only_in_the_same_folder() -> None:
    job = cronjob()
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "CronJob")
    assert first_three(job["spec"]["schedule"]) == NIGHTLY
    spec = job["spec"]["jobTemplate"]["spec"]
    rule = spec["podFailurePolicy"]["rules"][0]
    assert (rule["action"], rule["onExitCodes"]["operator"]) == ("FailJob", "In")
    assert set(rule["onExitCodes"]["values"]) == set(map(int, FAILURES))
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "podFailurePolicy asks for it"
    [container] = pod["containers"]
    assert container["command"][-2:] == ["--run-dir", "$(BATCHLIC_STATE_DIR)/$(JOB)"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_the_kubernetes_schema_accepts_the_cronjob() -> None:
    schema = pytest.importorskip("kubernetes_validate", reason="the schema is not installed")
    schema.validate(cronjob(), schema.latest_version(), strict=True)


def test_airflow_retries_after_exit_6_only() -> None:
    tree = ast.parse(text("airflow_dag.py"))
    constants = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert constants["STOPPED_EARLY"] == ExitCode.STOPPED
    [schedule] = [
        keyword.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "schedule" and isinstance(keyword.value, ast.Constant)
    ]
    assert first_three(str(schedule)) == NIGHTLY


@pytest.mark.skipif(importlib.util.find_spec("airflow") is None, reason="Airflow is not installed")
def test_airflow_imports_the_dag() -> None:
    spec = importlib.util.spec_from_file_location("airflow_dag", SCHEDULES / "airflow_dag.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_every_schedule_runs_a_job_file_that_exists() -> None:
    assert len(shipped()) >= 7
    for path in shipped():
        for job in re.findall(r"/opt/batchlic/(jobs/\w+\.toml)", path.read_text()):
            assert (SCHEDULES.parents[1] / job).is_file(), (path.name, job)
