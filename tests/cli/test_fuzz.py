"""Whatever the command line, and whatever is in the folders: an exit code of the list, and no traceback."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from batchlic.callbacks.store import Store
from batchlic.chunker import DeviceStatus
from batchlic.cli.app import app
from batchlic.errors import BatchlicError, ExitCode
from batchlic.runs.folder import RunFolder
from batchlic.runs.reconcile import reconcile
from batchlic.runs.settle import settle
from tests.privileges import without_privileges
from tests.recovery.builders import ACCOUNT, FLEXIBLE, LOSES_ANSWERS, carrier, imei, in_doubt

EXIT_CODES = {code.value for code in ExitCode} - {ExitCode.BUG}
JOB = f"""
action = "assign"
[inventory]
files = ["fleet.csv"]
[license]
account = "{ACCOUNT}"
sku = "{FLEXIBLE}"
"""

SERVERS = {("listen",), ("sandbox",), ("serve",)}
"""Commands that would serve until they are stopped, and change what signals do in this process."""
ENDLESS = {"--watch", "--sandbox"}
"""Options with which a command waits, or starts a server."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with one of each file."""
    home = tmp_path_factory.mktemp("home")
    with carrier(faults=LOSES_ANSWERS) as at:
        in_doubt(home, at)
    settle(RunFolder(home / "run"), DeviceStatus.FAILED, reason="the portal says no", devices=[])
    store = Store.open(str(home / "callbacks.db"))
    reconcile(RunFolder(home / "run"), store)
    store.close()
    (home / "job.toml").write_text(JOB)
    return home


# -- damage ---------------------------------------------------------------------------------------------


def _truncated(path: Path, dice: random.Random, _: list[Path]) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: dice.randrange(len(content) + 1)])


def _emptied(path: Path, _: random.Random, __: list[Path]) -> None:
    path.write_bytes(b"")


def _overwritten(path: Path, dice: random.Random, _: list[Path]) -> None:
    content = bytearray(path.read_bytes())
    for _times in range(dice.randrange(1, 4) if content else 0):
        at = dice.randrange(len(content))
        content[at : at + 4] = dice.randbytes(len(content[at : at + 4]))
    path.write_bytes(content)


def _swapped(path: Path, dice: random.Random, others: list[Path]) -> None:
    shutil.copyfile(other, path) if (other := dice.choice(others)) != path else path.write_text("{}")


def _removed(path: Path, _: random.Random, __: list[Path]) -> None:
    path.unlink()


def _made_a_folder(path: Path, _: random.Random, __: list[Path]) -> None:
    path.unlink()
    path.mkdir()


def _made_a_link_to_itself(path: Path, _: random.Random, __: list[Path]) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _made_a_link_to_nothing(path: Path, _: random.Random, __: list[Path]) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _closed(path: Path, _: random.Random, __: list[Path]) -> None:
    path.chmod(0)


def _folder_closed(path: Path, dice: random.Random, _: list[Path]) -> None:
    path.parent.chmod(dice.choice([0o000, 0o400, 0o500, 0o100]))


def _beside_a_name_that_is_not_utf_8(path: Path, _: random.Random, __: list[Path]) -> None:
    odd = os.path.join(os.fsencode(path.parent), b"\xff" + os.fsencode(path.name))  # noqa: PTH118 - bytes
    shutil.copyfile(os.fsencode(path), odd)


DAMAGES: list[Callable[[Path, random.Random, list[Path]], None]] = [
    _truncated,
    _emptied,
    _overwritten,
    _swapped,
    _removed,
    _made_a_folder,
    _made_a_link_to_itself,
    _made_a_link_to_nothing,
    _closed,
    _folder_closed,
    _beside_a_name_that_is_not_utf_8,
]


def damage(home: Path, seed: int) -> None:
    """Damage up to three files in a home or its run."""
    dice = random.Random(seed)
    files = sorted(path for path in home.rglob("*") if path.is_file())
    for _ in range(dice.choice([0, 1, 1, 1, 2, 3])):
        path = dice.choice(files)
        if path.is_file():
            dice.choice(DAMAGES)(path, dice, [file for file in files if file.is_file()])


# -- command lines --------------------------------------------------------------------------------------


def _commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:  # noqa: ANN401
    for name, command in group.commands.items():  # classes of click, which typer keeps private
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = [found for found in _commands(typer.main.get_command(app)) if found[0] not in SERVERS]

PLACES = ["run", ".", "fleet.csv", "job.toml", "run/plan.parquet", "run/results.parquet", "ledger.db"]
PLACES += ["callbacks.db", "run/journal.db", "run/audit.parquet", "nowhere", "nowhere/deeper", "run/run.log"]
ODD = ["", "-", "nan", "-1", "0", "9" * 30, "\udcff", "x" * 5000, "é\u202e", "*", "a=b", "=", "1e999", "{}"]
ODD += [
    "5m",
    "-5s",
    "100%",
    ACCOUNT,
    FLEXIBLE,
    imei(1),
    "http://127.0.0.1:9/api",
    "postgresql://u@127.0.0.1:9/x",
]
VALUES = st.sampled_from([*PLACES, *PLACES, *ODD]) | st.text(
    st.characters(exclude_characters="\0/", exclude_categories=()), max_size=8
)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command of the program with some of its options; most values are of the right kind."""
    path, command = draw(st.sampled_from(COMMANDS))
    words = [*path]
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [
        param for param in command.params if param.param_type_name == "option" and param.name != "help"
    ]
    for argument in arguments:
        if argument.name in {"run_dir", "path"}:
            words.append(draw(st.sampled_from(["run", "run", "run", "."]) | VALUES))
        elif argument.name == "job":
            words.append(draw(st.just("job.toml") | VALUES))
        else:
            words.append(draw(st.just("fleet.csv") | VALUES))
    required = [option for option in options if option.required]
    others = [option for option in options if not option.required and not ENDLESS & {*option.opts}]
    chosen = draw(st.lists(st.sampled_from(others), max_size=4)) if others else []
    for option in (*required, *chosen):
        words.append(draw(st.sampled_from(option.opts)))
        if not option.is_flag:
            kind = option.type_descriptor.annotation
            right = st.sampled_from(get_args(kind)) if get_origin(kind) is Literal else VALUES
            words.append(draw(right | VALUES))
    if path[0] in {"run", "assign", "unassign", "migrate"}:
        words.append("--dry-run")
    return words


@given(command_lines(), st.integers(0, 2**32))
def test_no_command_line_and_no_damaged_folder_is_a_bug(home: Path, words: list[str], seed: int) -> None:
    with TemporaryDirectory() as scratch:
        copy = shutil.copytree(home, Path(scratch) / "a" / "home")
        damage(copy, seed)
        try:
            with chdir(copy), without_privileges():
                environment = {"BATCHLIC_STATE_DIR": str(copy), "HOME": str(copy)}
                result = CliRunner().invoke(app, words, env=environment, catch_exceptions=True)
        finally:
            for folder in (copy, copy / "run"):
                folder.chmod(0o700)
    code, error = result.exit_code, result.exception
    if isinstance(error, BatchlicError):
        code = error.exit_code
    elif error is not None and not isinstance(error, SystemExit):
        raise error
    assert code in EXIT_CODES, (words, result.output)
