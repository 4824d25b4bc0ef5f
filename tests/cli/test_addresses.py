"""Every parameter that names a run folder or a ledger takes an address in an object store, or refuses it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from batchlic.cli.app import app
from batchlic.cli.arguments import (
    find_new_run_folder,
    find_run_folder,
    find_runs_folder,
    ledger_location,
    path_on_disk,
)
from batchlic.cli.runs import runs_folder
from batchlic.errors import UsageError

OF_RUNS = {find_new_run_folder, find_run_folder, find_runs_folder, runs_folder}


def _parameters(command: Any, name: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - private to typer
    """The parameters of a command and its subcommands, each with a name that has that of its command."""
    yield from ((f"{name} {one.opts[0]}", one) for one in command.params)
    for inner, other in getattr(command, "commands", {}).items():
        yield from _parameters(other, f"{name} {inner}")


def _parser(parameter: Any) -> object:  # noqa: ANN401 - as above
    return parameter.type_descriptor.parameter_info.parser


PARAMETERS = dict(_parameters(get_command(app), "batchlic"))
FOLDERS = [
    name
    for name, one in PARAMETERS.items()
    if one.metavar in {"RUN_DIR", "NEW_RUN_DIR", "RUN_DIR|RUNS_DIR", "FOLDER"} or "--run-dir" in one.opts
]
LEDGERS = [name for name, one in PARAMETERS.items() if "--ledger" in one.opts]


def test_the_commands_about_runs_are_found() -> None:
    assert {"batchlic run --run-dir", "batchlic resume run_dir", "batchlic serve folder"} <= {*FOLDERS}
    assert "batchlic ledger show --ledger" in LEDGERS


@pytest.mark.parametrize("name", FOLDERS)
def test_a_run_folder_may_be_an_address(name: str) -> None:
    assert _parser(PARAMETERS[name]) in OF_RUNS


@pytest.mark.parametrize("name", LEDGERS)
def test_a_ledger_is_on_a_disk_or_in_a_database(name: str) -> None:
    assert _parser(PARAMETERS[name]) is ledger_location


def test_a_ledger_is_not_in_an_object_store() -> None:
    for given in ("ledger.db", "postgresql://me@db.example/licenses"):
        assert ledger_location(given) == given
    with pytest.raises(UsageError, match=r"s3://bucket/ledger.db: this can't be in an object store"):
        ledger_location("s3://bucket/ledger.db")


def test_an_address_is_not_taken_for_a_path() -> None:
    assert path_on_disk("runs/s3") == Path("runs/s3")
    with pytest.raises(UsageError, match=r"s3://bucket/ledger.db: this can't be in an object store"):
        path_on_disk("s3://bucket/ledger.db")
