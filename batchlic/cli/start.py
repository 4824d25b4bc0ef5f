"""The start of the command: while its modules load, a signal ends it with the documented exit code.

This module imports little, so that its handlers are set early. By default, process 1 of a container would not
even notice a SIGTERM.
"""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

from batchlic.errors import ExitCode

COMPLETES = "_BATCHLIC_COMPLETE"
"""The variable with which a shell asks typer to complete a command line; a message would spoil the line."""


def main() -> None:
    """Load and run the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    from batchlic.cli import app

    app.main()


def _stop(number: int, _frame: FrameType | None) -> None:
    """End the process: nothing was begun, and an exception could get lost in the import of a module."""
    if sys.stderr is not None and COMPLETES not in os.environ:
        with suppress(OSError):
            os.write(2, f"batchlic: stopped by {signal.Signals(number).name}\n".encode())
    os._exit(ExitCode.STOPPED)
