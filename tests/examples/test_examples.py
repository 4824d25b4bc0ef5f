"""The example scripts and the snippets of docs/reference/carrier-client.md run, against a sandbox."""

import gzip
import importlib
import importlib.util
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import dagster as dg
import pytest

import batchlic
from batchlic import sandbox
from tests.forking import serving
from tests.reader.builders import iccid, imei

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"
PAGE = (DOCS / "reference" / "carrier-client.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
NIGHT = "2026-11-29"
FLEET = f"""\
Asset ID,Site,Device IMEI,SIM ICCID,Status
AS-1,Reno,{imei(1)},{iccid(1)},In service
AS-2,Tulsa,{imei(2)},{iccid(2)},In service
AS-3,Tulsa,unknown,,In service
AS-4,Reno,{imei(4)},{iccid(4)},Retired
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small fleet where the examples expect the sample; sandboxes start fast."""
    (tmp_path / "sample_data").mkdir()
    (tmp_path / "sample_data" / "fleet.csv.gz").write_bytes(gzip.compress(FLEET.encode()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sandbox, "embedded", serving)
    return tmp_path


def run_of(folder: Path) -> batchlic.Run:
    """The only run of the examples."""
    [found] = (folder / "runs").glob("onboard-*")
    return batchlic.Run(found)


def loaded(name: str) -> ModuleType:
    """An example as a module, as a scheduler loads it."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def exit_status_of(name: str) -> object:
    """Run an example to its end. Its name is not `__main__`: new processes would run it, too."""
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="example")
    return ended.value.code


def test_every_example_is_tested() -> None:
    tested = {"airflow_task", "dagster_asset", "duckdb_query", "pandas_frame"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_the_page_about_the_client_names_each_error_with_its_fields() -> None:
    kinds = [kind for name in batchlic.__all__ if isinstance(kind := getattr(batchlic, name), type)]
    errors = {kind.__name__ for kind in kinds if issubclass(kind, Exception) and "carrier" in kind.__module__}
    fields = vars(batchlic.SecurityResultError("")).keys()
    assert errors | fields <= set(re.findall(r"`(\w+)`", PAGE))


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_each_snippet_of_the_page_about_the_client_runs(
    snippet: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(snippet, "carrier-client.md", "exec"), {"__name__": "__main__"})  # noqa: S102 - our own
    assert capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["duckdb_query", "pandas_frame"])
def test_a_script_ends_with_the_exit_status_of_its_run(name: str, folder: Path) -> None:
    assert exit_status_of(name) == batchlic.ExitCode.INCOMPLETE  # one row has no identifier
    assert run_of(folder).summary.statuses == {"accepted": 2}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["duckdb_query", "pandas_frame"])
def test_a_script_that_runs_twice_in_a_night_has_one_run(name: str, folder: Path) -> None:
    ids = []
    for _ in range(2):
        exit_status_of(name)
        ids.append(run_of(folder).id)
    assert ids[0] == ids[1]


@pytest.mark.slow
def test_the_dagster_asset_has_the_devices_by_status_as_metadata(folder: Path) -> None:
    example = loaded("dagster_asset")
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([example.fleet, example.licenses], partition_key=NIGHT, instance=instance)
    [materialized] = done.asset_materializations_for_node("licenses")
    assert materialized.metadata["accepted"].value == 2
    assert materialized.metadata["folder"].value == str(folder / "runs" / f"onboard-{NIGHT}")


def on_dagster(example: ModuleType) -> Callable[[], Any]:
    def attempt() -> object:
        with dg.build_asset_context(partition_key=NIGHT) as context:
            return example.licenses(context, example.fleet())

    return attempt


def on_airflow(example: ModuleType) -> Callable[[], Any]:
    return lambda: example.onboard.function(NIGHT)


class FailForGood(Exception):
    """Stands for AirflowFailException where Airflow is not installed."""


@pytest.fixture
def airflow_failure(monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    """The exception that Airflow does not retry. Without Airflow, decorators that do nothing stand in."""
    if importlib.util.find_spec("airflow") is not None:
        failure: type[Exception] = importlib.import_module("airflow.sdk.exceptions").AirflowFailException
        return failure

    def task(**_: object) -> Callable[[Callable[..., object]], object]:
        class Task(SimpleNamespace):
            def __call__(self, **_: object) -> None: ...

        return lambda function: Task(function=function)

    def dag(**_: object) -> Callable[[Callable[..., object]], object]:
        return lambda function: function

    modules: dict[str, dict[str, object]] = {
        "airflow": {},
        "airflow.sdk": {"dag": dag, "task": task},
        "airflow.sdk.exceptions": {"AirflowFailException": FailForGood},
    }
    for name, names in modules.items():
        module = ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    return FailForGood


@pytest.mark.slow
@pytest.mark.usefixtures("airflow_failure")
def test_the_airflow_task_returns_the_devices_by_status() -> None:
    assert on_airflow(loaded("airflow_task"))() == {"accepted": 3}


@pytest.mark.slow
@pytest.mark.usefixtures("airflow_failure")
@pytest.mark.parametrize(("name", "on"), [("airflow_task", on_airflow), ("dagster_asset", on_dagster)])
def test_a_retry_continues_the_run_though_the_inventory_changed(
    name: str, on: Callable[[ModuleType], Callable[[], Any]], folder: Path
) -> None:
    attempt = on(loaded(name))
    attempt()
    first = run_of(folder).id
    (folder / "sample_data" / "fleet.csv.gz").write_bytes(
        gzip.compress(FLEET.replace(imei(2), imei(5)).encode())
    )
    attempt()
    assert run_of(folder).id == first


@pytest.mark.slow
@pytest.mark.parametrize(("name", "on"), [("airflow_task", on_airflow), ("dagster_asset", on_dagster)])
def test_a_scheduler_retries_a_run_that_stopped_early_and_nothing_else(
    name: str,
    on: Callable[[ModuleType], Callable[[], Any]],
    airflow_failure: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expectations: dict[str, tuple[type[Exception], type[Exception]]] = {
        "airflow_task": (batchlic.StoppedEarly, airflow_failure),
        "dagster_asset": (dg.RetryRequested, dg.Failure),
    }
    retried, failed = expectations[name]
    attempt = on(loaded(name))
    for error, expected in (
        (batchlic.StoppedEarly("a signal"), retried),
        (batchlic.RefusedToStart("a guard"), failed),
        (batchlic.CredentialsRejected("wrong password"), failed),
    ):

        def refuse(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(batchlic, "assign", refuse)
        with pytest.raises(expected):
            attempt()
