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


IS_LOADED = """
import os, signal, sys
class Loader:
    def find_spec(self, name, path, target=None):
        if name == "batchlic.cli.app":
            os.kill(os.getpid(), signal.{name})
sys.meta_path.insert(0, Loader())
import batchlic.__main__
"""
IS_PARSED = """
import os, signal
from batchlic.cli import app, start
app.refuse_undecodable = lambda _: os.kill(os.getpid(), signal.{name})
start.main()
"""
IS_BUILT = """
import os, signal
from batchlic.cli import app, start
app.app = lambda **_: os.kill(os.getpid(), signal.{name})
start.main()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("code", [IS_LOADED, IS_BUILT, IS_PARSED])
def test_a_signal_before_the_command_begins_is_exit_6(code: str, name: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", code.format(name=name), "runs"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (6, f"batchlic: stopped by {name}\n")


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
