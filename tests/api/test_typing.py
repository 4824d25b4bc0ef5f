"""The types of the API, as mypy sees them in a program of a user."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_mypy_accepts_right_uses_and_refuses_wrong_ones() -> None:
    program = ROOT / "tests" / "api" / "typed_program.py"
    # An ignore that nothing needs is an error, too: then a wrong use would be accepted.
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--explicit-package-bases", str(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
