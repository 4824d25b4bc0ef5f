"""What the entry point of the command line sets for the whole process."""

import subprocess
import sys

import pytest

from batchlic.errors import NOT_ON_WINDOWS

WARNING = (
    "import warnings; from batchlic.cli import app; app.app = lambda **_: warnings.warn('old'); app.main()"
)


@pytest.mark.parametrize(("options", "shown"), [((), 0), (("-W", "default"), 1)])
def test_warnings_of_libraries_are_shown_to_developers_only(options: tuple[str, ...], shown: int) -> None:
    ended = subprocess.run(
        [sys.executable, *options, "-c", WARNING], capture_output=True, text=True, check=True
    )
    assert ended.stderr.count("UserWarning: old") == shown


WINDOWS = "import sys; sys.platform, sys.modules['fcntl'], sys.modules['pwd'] = 'win32', None, None; "


@pytest.mark.parametrize(
    ("code", "status", "line"),
    [
        ("from batchlic.cli.app import main; main()", 2, f"batchlic: {NOT_ON_WINDOWS}"),
        ("import batchlic; batchlic.assign", 1, f"ImportError: {NOT_ON_WINDOWS}"),
    ],
)
def test_windows_is_refused_with_a_message(code: str, status: int, line: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WINDOWS + code], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (status, line)
