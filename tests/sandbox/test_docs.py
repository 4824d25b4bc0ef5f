"""docs/how-to/sandbox.md describes the sandbox completely."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from batchlic.cli.app import app
from batchlic.sandbox.config import (
    Fault,
    LimitConfig,
    LimitKind,
    QuotaHeaders,
    RetryHint,
    SandboxConfig,
    ThrottleShape,
)
from batchlic.sandbox.options import parse_change, parse_fault, read_poison_file
from tests.sandbox.test_faults import SEEN

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "sandbox.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(command)[2:]
    for command in re.findall(r"^\$ (batchlic sandbox .*)$", TEXT.replace("\\\n", " "), re.MULTILINE)
]
COMMAND = typer.main.get_command(app).commands["sandbox"]  # type: ignore[attr-defined]  # it is a group


def test_the_docs_list_every_fault_and_whether_it_executes() -> None:
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (yes|no) \|", TEXT, re.MULTILINE))
    assert rows == {fault.value: "yes" if SEEN[fault][0] else "no" for fault in Fault}


def test_the_docs_explain_exactly_the_options_of_the_command() -> None:
    named = set(re.findall(r"--[a-z][a-z-]+", TEXT))
    options = {option for parameter in COMMAND.params for option in parameter.opts if option.startswith("--")}
    elsewhere = {"--sandbox", "--sku", "--help"}
    assert options - elsewhere <= named
    assert named <= options | elsewhere


@pytest.mark.parametrize("kind", [*LimitKind, *RetryHint, *ThrottleShape, *QuotaHeaders])
def test_the_docs_explain_every_limit_and_hint(kind: str) -> None:
    assert re.search(rf"`(--limit )?{kind}`", TEXT)


@pytest.mark.parametrize("arguments", COMMANDS)
def test_the_command_line_accepts_every_example_of_the_docs(arguments: list[str]) -> None:
    options = COMMAND.make_context("sandbox", [*arguments]).params
    assert options["port"] == 8641
    SandboxConfig(
        faults=dict(map(parse_fault, options["fault"] or ())),
        limits=LimitConfig(changes=tuple(map(parse_change, options["change"] or ()))),
    )


def test_the_poison_file_of_the_docs_can_be_read(tmp_path: Path) -> None:
    [example] = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "poison.csv").write_text(example)
    assert [poison.named for poison in read_poison_file(tmp_path / "poison.csv")] == [True, False, True]
