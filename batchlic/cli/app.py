"""The `batchlic` command: its command groups, and how errors become exit codes."""

import gc
import os
import sys

import typer

from batchlic.cli import callbacks, ledger, recovery, run, sandbox
from batchlic.cli.output import print_message
from batchlic.cli.streams import guard_standard_streams
from batchlic.errors import BatchlicError, ExitCode

app = typer.Typer(
    name="batchlic",
    help="Assign, unassign and migrate SIM-Secure licenses of very large IoT device inventories.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(run.app)
app.add_typer(recovery.app)
app.add_typer(sandbox.app)
app.add_typer(ledger.app, name="ledger")
app.add_typer(callbacks.app)

OBJECTS_BETWEEN_COLLECTIONS = 20_000
"""Allocations between garbage collections. Python's default of 700 costs a tenth of a run's CPU time."""


def main() -> None:
    """Run the command line; exit with the codes of `batchlic.errors.ExitCode`."""
    guard_standard_streams()
    os.umask(0o077)  # nobody but the owner may read what this process writes
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    try:
        app()
    except BatchlicError as error:
        print_message(f"batchlic: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print_message("batchlic: stopped. If requests were sent, continue with `batchlic resume RUN_DIR`.")
        sys.exit(ExitCode.STOPPED)
