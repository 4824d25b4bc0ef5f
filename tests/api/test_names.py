"""What `import batchlic` offers, and what it costs."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from pydantic import BaseModel

import batchlic
from batchlic.api.options import PLACES, AnyOptions
from batchlic.job import Job, Syncing
from batchlic.settings import Settings, SettingValues

ARGUMENTS = {"account", "sku", "consent_lifetime"}
"""Options of a job that are arguments of every function."""
NOT_OFFERED = {"metrics", "notify", "sandbox", "store"}
"""Tables of a job for the command line, one that is an argument, and one that is a setting."""
TWINS = ("apply", "assign", "migrate", "plan", "resume", "run", "sync", "unassign")


def test_every_public_name_can_be_loaded() -> None:
    loaded = {name: getattr(batchlic, name) for name in batchlic.__all__}
    assert dir(batchlic) == list(batchlic.__all__)
    assert loaded.keys() == {*batchlic._HOMES, "__version__"}


def test_type_checkers_see_the_names_that_are_loaded() -> None:
    tree = ast.parse(Path(batchlic.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert seen == batchlic._HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'asign'"):
        getattr(batchlic, "asign")  # noqa: B009 - mypy would refuse the name


def test_the_import_loads_no_library() -> None:
    script = "import sys, batchlic; print({'polars', 'pydantic', 'anyio', 'typer'}.isdisjoint(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize("name", TWINS)
def test_an_async_twin_takes_the_same_arguments(name: str) -> None:
    function, twin = getattr(batchlic, name), getattr(batchlic, f"{name}_async")
    assert inspect.signature(twin) == inspect.signature(function)
    assert inspect.iscoroutinefunction(twin)


def test_every_option_has_a_place_and_a_type() -> None:
    typed = get_type_hints(AnyOptions)
    assert typed.keys() | ARGUMENTS == PLACES.keys()


def test_every_key_of_a_job_has_an_option() -> None:
    tables: dict[str, type[BaseModel]] = {
        name: table
        for name, field in Job.model_fields.items()
        if isinstance(table := field.annotation, type) and issubclass(table, BaseModel)
    }
    tables["sync"] = Syncing
    keys = {
        (name, key) for name, table in tables.items() for key in table.model_fields if name not in NOT_OFFERED
    }
    assert set(PLACES.values()) == keys - {("inventory", "files")}


def test_settings_can_be_given_by_name() -> None:
    assert get_type_hints(SettingValues).keys() == Settings.model_fields.keys()
