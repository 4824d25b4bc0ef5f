"""The Makefile: make can't pass exit codes on, so its targets say the code, and the command that has it."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TARGETS = {
    "onboard": ["INVENTORY=Ann's fleet.csv", "ACCOUNT=0000123456-00001", "SKU=SIMSec-IoT"],
    "migrate": [
        "INVENTORY=Ann's fleet.csv",
        "ACCOUNT=0000123456-00001",
        "FROM_SKU=SIMSec-IoT",
        "TO_SKU=Other",
    ],
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder like a checkout. Its `batchlic` lists its arguments, and exits with the code in a file."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".ci").mkdir()
    for name in ("pyproject.toml", ".ci/requirements.txt", ".ci/program.txt"):
        (tmp_path / name).touch()
    command = tmp_path / ".venv" / "bin" / "batchlic"
    command.parent.mkdir(parents=True)
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >arguments\nexit "$(cat code)"\n')
    command.chmod(0o700)
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/usr/bin/env", "make", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("code", [2, 3, 4, 5, 6])
@pytest.mark.parametrize(("target", "variables"), TARGETS.items())
def test_a_target_says_the_exit_code_and_a_command_that_has_it(
    checkout: Path, target: str, variables: list[str], code: int
) -> None:
    (checkout / "code").write_text(f"{code}\n")
    made = make(checkout, target, *variables, "OPTIONS=--max-rejects 7")
    assert made.returncode == 2
    assert f"make {target}: batchlic exited {code}" in made.stderr
    assert f"Error {code}" in made.stderr
    arguments = (checkout / "arguments").read_text().splitlines()
    assert {"Ann's fleet.csv", "--max-rejects", "7"} <= set(arguments)
    shown = made.stderr.split("own exit code:\n")[1].splitlines()[0]
    again = subprocess.run(["/bin/sh", "-c", shown], cwd=checkout, check=False)
    assert again.returncode == code
    assert (checkout / "arguments").read_text().splitlines() == arguments
    assert shlex.split(shown)[0] == ".venv/bin/batchlic"


@pytest.mark.parametrize(("target", "variables"), TARGETS.items())
def test_a_target_that_succeeds_says_nothing(checkout: Path, target: str, variables: list[str]) -> None:
    (checkout / "code").write_text("0\n")
    made = make(checkout, target, *variables)
    assert (made.returncode, made.stderr) == (0, "")


@pytest.mark.parametrize("target", TARGETS)
def test_a_missing_variable_starts_nothing(checkout: Path, target: str) -> None:
    made = make(checkout, target, "ACCOUNT=0000123456-00001")
    assert (made.returncode, "is missing" in made.stderr) == (2, True)
    assert not (checkout / "arguments").exists()
