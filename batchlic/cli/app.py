"""The `batchlic` command: its command groups, and how errors become exit codes."""

import gc
import os
import sys
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from batchlic.atomic import refuse_undecodable
from batchlic.cli import alerts, callbacks, ledger, limit, recovery, run, runs, sandbox, serve
from batchlic.cli.output import print_message
from batchlic.cli.streams import guard_standard_streams
from batchlic.errors import BatchlicError
from batchlic.runs import signals
from batchlic.runs.explained import explained


class _Commands(TyperGroup):
    """The commands; typer itself would turn a signal into exit code 130 before `main` sees it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - the class is private to typer
        for argument in args:
            refuse_undecodable(argument)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> object:  # noqa: ANN401 - as above
        with explained():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    name="batchlic",
    help="Assign, unassign and migrate SIM-Secure licenses of very large IoT device inventories.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(run.app)
app.add_typer(limit.app)
app.add_typer(runs.app, name="runs")
app.add_typer(recovery.app)
app.add_typer(sandbox.app)
app.add_typer(ledger.app, name="ledger")
app.add_typer(callbacks.app)
app.add_typer(serve.app)
app.add_typer(alerts.app)

OBJECTS_BETWEEN_COLLECTIONS = 20_000
"""Allocations between garbage collections. Python's default of 700 costs a tenth of a run's CPU time."""


def main() -> None:
    """Run the command line; exit with the codes of `batchlic.errors.ExitCode`."""
    guard_standard_streams()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries, for developers: python -W default -m batchlic
    os.umask(0o077)  # nobody but the owner may read what this process writes
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    with signals.hearing():
        try:
            app()
        except BatchlicError as error:
            print_message(f"batchlic: {error}")
            sys.exit(error.exit_code)
