"""What shells complete; the shells' scripts are Typer's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from batchlic.cli.app import app
from batchlic.cli.completion import complete_profiles, complete_runs, complete_skus

OLD, NEW = "20261120T000000Z-00000000", "20261121T000000Z-00000000"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in (OLD, NEW):
        (tmp_path / run).mkdir()
        (tmp_path / run / "plan.parquet").touch()
    (tmp_path / "no-run").mkdir()
    monkeypatch.setenv("BATCHLIC_STATE_DIR", str(tmp_path))


@pytest.mark.usefixtures("state")
def test_runs_of_the_state_folder_are_completed_newest_first() -> None:
    assert complete_runs("") == [NEW, OLD]
    assert complete_runs("20261120") == [OLD]


@pytest.mark.parametrize("wrong", ["relative", "/nowhere"])
def test_completion_never_fails(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHLIC_STATE_DIR", wrong)
    monkeypatch.setenv("BATCHLIC_PROFILES_FILE", wrong)
    assert complete_runs("") == complete_profiles("") == []


def test_skus_and_profiles_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHLIC_PROFILE__EAST__USERNAME", "x")
    assert "SIMSec-IoT" in complete_skus("SIM")
    assert complete_profiles("ea") == ["east"]


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("batchlic sta", ["status"]),
        ("batchlic assign fleet.csv --sku TSS", ["TSS-IOT-INTLG-TIERED-SIMSEC"]),
        ("batchlic status 20261121", [NEW]),
        ("batchlic assign fle", []),  # the shell completes files
    ],
)
@pytest.mark.usefixtures("state")
def test_bash_gets_what_it_asks_for(words: str, completed: list[str]) -> None:
    asks = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    runner = CliRunner(env={**asks, "_BATCHLIC_COMPLETE": "complete_bash"})
    ended = runner.invoke(app, [], prog_name="batchlic")
    assert (ended.exit_code, ended.stdout.split(), ended.stderr) == (0, completed, "")


@pytest.mark.slow
def test_the_program_has_its_name_also_if_python_starts_it() -> None:
    asks = {"_BATCHLIC_COMPLETE": "complete_bash", "COMP_WORDS": "batchlic sta", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "batchlic"], env=os.environ | asks, capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["status"], "")


INTERRUPTED = """
import batchlic.cli.app as program
def complete(**_):
    raise KeyboardInterrupt
program.app = complete
program.main()
"""


def test_ctrl_c_ends_a_completion_without_a_traceback() -> None:
    asks = {"_BATCHLIC_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        env=os.environ | asks,
        capture_output=True,
        check=False,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (6, "", "")
