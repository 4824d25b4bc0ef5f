"""What the entry point of the command line sets for the whole process."""

import subprocess
import sys

import pytest

WARNING = "import warnings; from batchlic.cli import app; app.app = lambda: warnings.warn('old'); app.main()"


@pytest.mark.parametrize(("options", "shown"), [((), 0), (("-W", "default"), 1)])
def test_warnings_of_libraries_are_shown_to_developers_only(options: tuple[str, ...], shown: int) -> None:
    ended = subprocess.run(
        [sys.executable, *options, "-c", WARNING], capture_output=True, text=True, check=True
    )
    assert ended.stderr.count("UserWarning: old") == shown
