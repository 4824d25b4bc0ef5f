"""The schedules are valid for their tools, and handle exit codes as errors.py defines them."""

import configparser
import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from cronsim import CronSim

from batchlic.errors import ExitCode

SCHEDULES = Path(__file__).parents[2] / "jobs" / "schedule"
OPERATOR_SCHEMA = Path(__file__).with_name("dask_operator.schema.yaml")
"""The schema of a DaskJob, from the sources of the Dask operator. Kubernetes defines the rest."""
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


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text(name))
    return found


def cronjob() -> dict[str, Any]:
    return manifest("cronjob.yaml")


def accepted_by_kubernetes(content: dict[str, Any]) -> bool:
    """Whether the strict schema of the latest version accepts it; otherwise it raises ValidationError."""
    kubernetes_validate.validate(content, kubernetes_validate.latest_version(), strict=True)
    return True


def as_object(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A spec of the operator as the object of Kubernetes that the operator makes of it."""
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": "any"}, "spec": spec}


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


@pytest.mark.parametrize("name", ["cronjob.yaml", "indexed_job.yaml"])
def test_the_kubernetes_schema_accepts_the_jobs(name: str) -> None:
    assert accepted_by_kubernetes(manifest(name))


def test_each_account_of_the_indexed_job_has_a_job_file_and_a_folder() -> None:
    spec = manifest("indexed_job.yaml")["spec"]["jobTemplate"]["spec"]
    assert spec["completionMode"] == "Indexed"
    [container] = spec["template"]["spec"]["containers"]
    assert container["command"][2] == "/job/$(INDEX).toml"
    assert container["command"][-1].endswith("/$(JOB)/$(INDEX)")
    fields = {entry["name"]: entry["valueFrom"]["fieldRef"]["fieldPath"] for entry in container["env"]}
    assert "job-completion-index" in fields["INDEX"]


def test_the_indexed_job_retries_an_account_after_exit_6_and_while_its_lease_lasts() -> None:
    spec = manifest("indexed_job.yaml")["spec"]["jobTemplate"]["spec"]
    rule = spec["podFailurePolicy"]["rules"][0]
    assert rule["action"] == "FailIndex"
    assert set(rule["onExitCodes"]["values"]) == set(map(int, FAILURES - {ExitCode.REFUSED}))
    assert spec["backoffLimitPerIndex"] >= 3, "a new pod starts after 10, 20 and 40 s; a lease lasts 30 s"


def test_the_schemas_accept_the_job_of_the_dask_operator() -> None:
    job = manifest("dask_job.yaml")
    jsonschema.validate(job, yaml.safe_load(OPERATOR_SCHEMA.read_text()))
    cluster = job["spec"]["cluster"]["spec"]
    for pod in (job["spec"]["job"]["spec"], cluster["worker"]["spec"], cluster["scheduler"]["spec"]):
        assert accepted_by_kubernetes(as_object("Pod", pod))
    assert accepted_by_kubernetes(as_object("Service", cluster["scheduler"]["service"]))


def test_the_dask_scheduler_has_no_credentials() -> None:
    cluster = manifest("dask_job.yaml")["spec"]["cluster"]["spec"]
    assert "secretRef" in str(cluster["worker"])
    assert "secretRef" not in str(cluster["scheduler"])


def test_the_dask_worker_has_one_thread_so_one_shard_at_a_time() -> None:
    worker = manifest("dask_job.yaml")["spec"]["cluster"]["spec"]["worker"]["spec"]
    [container] = worker["containers"]
    assert container["command"][-3:-1] == ["--nthreads", "1"]


@pytest.mark.parametrize("name", ["indexed_job.yaml", "dask_job.yaml", "cronjob.yaml"])
def test_no_pod_runs_as_root_or_writes_outside_of_its_volumes(name: str) -> None:
    for pod in pods_in(manifest(name)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {mount["name"] for c in pod["containers"] for mount in c["volumeMounts"]} == {
            volume["name"] for volume in pod["volumes"]
        }


def pods_in(content: object) -> Iterator[dict[str, Any]]:
    """The specs of pods anywhere in a manifest."""
    if isinstance(content, dict):
        if "containers" in content:
            yield content
        for value in content.values():
            yield from pods_in(value)


def test_airflow_starts_the_dag_every_night() -> None:
    [schedule] = re.findall(r'schedule="([^"]+)"', text("airflow_dag.py"))
    assert first_three(schedule) == NIGHTLY


class _Mapped:
    """A task of stand-in Airflow: it runs when it is called, and for each value of `expand`."""

    def __init__(self, function: Callable[..., object], **options: object) -> None:
        self.function, self.options = function, options
        self.failures: dict[str, Exception] = {}

    def __call__(self) -> object:
        return self.function()

    def expand(self, account: list[str]) -> None:
        tasks.append(self)
        for name in account:
            try:
                self.function(account=name, ds_nodash="20261130")
            except (RetryError, FailForGoodError) as error:
                self.failures[name] = error


class RetryError(Exception):
    """Stands in for AirflowException."""


class FailForGoodError(Exception):
    """Stands in for AirflowFailException."""


tasks: list[_Mapped] = []


@pytest.fixture
def dag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], _Mapped]:
    """Runs the DAG on stand-in Airflow and a program that exits with the number in the job file."""

    def task(function: Callable[..., object] | None = None, **options: object) -> object:
        return _Mapped(function) if function else lambda wrapped: _Mapped(wrapped, **options)

    modules: dict[str, dict[str, object]] = {
        "airflow": {},
        "airflow.sdk": {"dag": lambda **_: lambda function: lambda: function, "task": task},
        "airflow.sdk.exceptions": {"AirflowException": RetryError, "AirflowFailException": FailForGoodError},
    }
    for name, names in modules.items():
        module = ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    program = tmp_path / "batchlic"
    program.write_text('#!/bin/sh\necho "$@" >> "$BATCHLIC_STATE_DIR/calls"\nexit "$(cat "$2")"\n')
    program.chmod(0o755)

    def run() -> _Mapped:
        spec = importlib.util.spec_from_file_location("airflow_dag", SCHEDULES / "airflow_dag.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        names = {"BATCHLIC": str(program), "JOBS": str(tmp_path), "STATE": str(tmp_path)}
        vars(module).update(names)
        module.onboard_fleet()()
        return tasks.pop()

    return run


def test_airflow_runs_a_task_for_each_account_in_a_folder_of_its_own(
    dag: Callable[[], _Mapped], tmp_path: Path
) -> None:
    for account in ("a-1", "b-2"):
        (tmp_path / f"{account}.toml").write_text("0")
    assert dag().failures == {}
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    assert [Path(call[1]).stem for call in calls] == ["a-1", "b-2"]
    assert [Path(call[3]).name for call in calls] == ["20261130-a-1", "20261130-b-2"]


@pytest.mark.parametrize("code", sorted(set(ExitCode) - {ExitCode.OK}))
def test_airflow_retries_an_account_after_exit_6_and_nothing_else(
    dag: Callable[[], _Mapped], tmp_path: Path, code: int
) -> None:
    (tmp_path / "good.toml").write_text("0")
    (tmp_path / "bad.toml").write_text(str(code))
    failures = dag().failures
    expected = RetryError if code == ExitCode.STOPPED else FailForGoodError
    assert {account: type(error) for account, error in failures.items()} == {"bad": expected}


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
