"""Help pages: nothing is cut off, types are words, and the examples can be typed."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from batchlic.cli import help as pages
from batchlic.cli.app import app
from batchlic.cli.help import Section, commands_of
from batchlic.errors import ExitCode

ROOT = typer.main.get_command(app)


def tree(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:  # noqa: ANN401
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from tree(inner, (*path, name))


TREE = list(tree(ROOT))
EVERY_COMMAND = pytest.mark.parametrize(
    ("path", "command"), TREE, ids=[" ".join(path) or "batchlic" for path, _ in TREE]
)


def find(words: list[str]) -> tuple[Any, list[str]]:
    command: Any = ROOT
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    return command, words


def page(path: tuple[str, ...], columns: int = 80) -> str:
    command, _ = find([*path])
    name = " ".join(("batchlic", *path))
    # A runner of Typer would force 80 columns.
    return str(command.make_context(name, [], resilient_parsing=True, terminal_width=columns - 2).get_help())


@pytest.mark.parametrize("columns", [80, 100])
@EVERY_COMMAND
def test_no_line_is_cut_off_or_too_long(path: tuple[str, ...], command: Any, columns: int) -> None:  # noqa: ANN401
    shown = page(path, columns)
    assert "…" not in shown
    assert "..." not in re.sub(r"[A-Z]\.\.\.|\[ARGS\]\.\.\.", "", shown)
    assert max(map(len, shown.splitlines())) <= columns
    for param in command.params:
        assert not param.help or param.help.split()[-1] in shown


@EVERY_COMMAND
def test_types_are_words_that_people_understand(path: tuple[str, ...], command: Any) -> None:  # noqa: ANN401
    assert not re.findall(r"<[^>]*>", page(path))
    for param in command.params:
        context = command.make_context("x", [], resilient_parsing=True)
        if value := pages.value_of(param, context):
            assert "|" in value or value == value.upper() or value.endswith((".toml", ".prom", "=STATUS")), (
                value
            )


@EVERY_COMMAND
def test_defaults_and_variables_are_not_written_by_hand(path: tuple[str, ...], command: Any) -> None:  # noqa: ANN401
    texts = [command.help or "", *(param.help or "" for param in command.params)]
    assert not re.findall(r"\[(?!notify\]).*?\]|\(default|default:", "\n".join(texts)), path


@EVERY_COMMAND
def test_each_command_has_an_example_of_its_own(path: tuple[str, ...], command: Any) -> None:  # noqa: ANN401
    if not hasattr(command, "commands") or command.epilog:
        own = [line for line in commands_of(command.epilog) if find(shlex.split(line)[1:])[0] is command]
        assert own or not path


@pytest.mark.parametrize("line", [line for _, command in TREE for line in commands_of(command.epilog)])
def test_the_examples_parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHLIC_PROFILE", "")  # an example may set it
    command, words = find(shlex.split(line, comments=True)[1:])
    assert command is not ROOT
    words = words[: words.index(">")] if ">" in words else words
    command.make_context("batchlic", words)


def test_only_commands_that_read_no_setting_have_no_profile() -> None:
    without = {
        " ".join(path) for path, command in TREE if "profile" not in {param.name for param in command.params}
    }
    assert without == {"", "callbacks", "ledger", "sandbox", "schema", "store"}


def test_commands_are_in_sections() -> None:
    headings = [line[:-1] for line in page(()).splitlines() if line.endswith(":") and line[0] != " "]
    assert headings[: len(Section)] == [str(section) for section in Section]
    assert "Commands" not in headings


def test_options_of_assign_are_in_groups() -> None:
    headings = [line[:-1] for line in page(("assign",)).splitlines() if re.match(r"[A-Z]\w+:$", line)]
    assert headings[:4] == ["Arguments", "Options", "License", "Inventory"]
    assert {"Limits", "Canary", "Ledger", "Callbacks", "Output"} <= set(headings)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["asign", "x"], "No such command 'asign'. Did you mean 'assign'"),
        (["ledger", "shw"], "No such command 'shw'. Did you mean 'show'?"),
        (["assign", "x", "--skuu", "y"], "No such option: --skuu. Did you mean --sku?"),
        (["runs", "--sinc", "7d"], "No such option: --sinc. Did you mean --since?"),
    ],
)
def test_a_mistyped_word_is_exit_2_with_a_suggestion(words: list[str], says: str) -> None:
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == ExitCode.USAGE
    assert says in refused.stderr


IMPORTS = "import sys; from batchlic.cli import app; app.app(standalone_mode=False); print(*sys.modules)"


def test_help_imports_nothing_that_takes_long() -> None:
    slow = {"httpx", "jinja2", "polars", "pydantic", "rich", "sqlalchemy", "structlog", "uvicorn"}
    shown = subprocess.run(
        [sys.executable, "-c", IMPORTS, "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "Examples:" in shown
    assert not slow & set(shown.splitlines()[-1].split())
