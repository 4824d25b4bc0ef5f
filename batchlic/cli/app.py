"""The `batchlic` command: its command groups, and how errors become exit codes."""

import gc
import os
import sys
import warnings
from typing import Annotated, Any

import typer

from batchlic.atomic import refuse_undecodable
from batchlic.cli import (
    alerts,
    callbacks,
    check,
    init,
    ledger,
    limit,
    recovery,
    retry,
    review,
    run,
    runs,
    sandbox,
    schema,
    serve,
    store,
)
from batchlic.cli.help import WIDEST, Command, Group, Section, examples
from batchlic.cli.options import offer
from batchlic.cli.output import print_error
from batchlic.cli.profiles import ProfileName
from batchlic.cli.start import COMPLETES
from batchlic.cli.streams import guard_standard_streams
from batchlic.cli.verbosity import Quiet, Verbose
from batchlic.errors import BatchlicError, ExitCode
from batchlic.objectstore import copies
from batchlic.runs import signals
from batchlic.runs.explained import explained


class _Commands(Group):
    """The commands; typer itself would turn a signal into exit code 130 before `main` sees it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - the class is private to typer
        with explained():
            for argument in args:
                refuse_undecodable(argument)
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> object:  # noqa: ANN401 - as above
        try:
            with explained():
                return super().invoke(ctx)
        finally:
            copies.close()


app = typer.Typer(
    cls=_Commands,
    name="batchlic",
    epilog=examples(
        "# Try an inventory without a carrier:",
        "batchlic assign fleet.csv --account 0000123456-00001 --sku SIMSec-IoT --sandbox",
        "# Write a job file by answering questions, check it, and run it:",
        "batchlic init nightly.toml",
        "batchlic check nightly.toml",
        "batchlic run nightly.toml",
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST},
)


def _show_version(is_given: bool) -> None:  # noqa: FBT001 - Typer's signature
    if is_given:
        from batchlic.cli.version import version

        typer.echo(f"batchlic {version()}")
        raise typer.Exit


@app.callback()
def batchlic(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Assign, unassign and migrate SIM-Secure licenses of very large IoT device inventories."""


_GROUPS = {
    init.app: None,
    run.app: None,
    limit.app: None,
    review.app: None,
    runs.app: ("runs", Section.INSPECT),
    check.app: None,
    recovery.app: None,
    retry.app: None,
    sandbox.app: None,
    ledger.app: ("ledger", Section.INSPECT),
    store.app: ("store", Section.INSPECT),
    callbacks.app: None,
    callbacks.callbacks: ("callbacks", Section.CALLBACKS),
    serve.app: None,
    alerts.app: None,
    schema.app: None,
}
"""The groups of commands, with name and section; None: their commands are commands of batchlic itself."""

_WITHOUT_SETTINGS = {sandbox.app, schema.app}
"""Groups whose commands read no setting, not even the state folder, and have no profile."""
_SENDING = {"run", "assign", "unassign", "migrate", "sync", "resume", "apply", "retry", "rollback"}
"""Commands with a log of what they send."""
_WITHOUT_NOTICES = {"listen", "sandbox", "schema"}
"""Commands that say nothing that could be left out."""


def _add(group: typer.Typer, place: tuple[str, Section] | None) -> None:
    """Add a group of commands, with the options that all of them have, and help pages of our own."""
    for command in group.registered_commands:
        command.cls = Command
        name = command.name or getattr(command.callback, "__name__", "")
        if name not in _WITHOUT_NOTICES:
            offer({"quiet": Quiet} | ({"verbose": Verbose} if name in _SENDING else {}), command)
    settings = {} if group in _WITHOUT_SETTINGS else {"profile": ProfileName}
    offer(settings, *group.registered_commands)
    if group.registered_callback is not None:
        offer({"quiet": Quiet} | settings, group.registered_callback)
    if place is None:
        app.add_typer(group)
    else:
        app.add_typer(group, name=place[0], rich_help_panel=place[1])


for _group, _place in _GROUPS.items():
    _add(_group, _place)

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
            app(prog_name="batchlic")  # also as `python -m batchlic`: completion is installed by this name
        except KeyboardInterrupt:  # before a command begins: commands raise Interrupted
            if COMPLETES not in os.environ:
                print_error(str(signals.interruption()))
            sys.exit(ExitCode.STOPPED)
        except BatchlicError as error:
            print_error(str(error))
            sys.exit(error.exit_code)
        finally:
            gc.freeze()  # otherwise the collector scans all imported modules at the end, for 0.2 s
