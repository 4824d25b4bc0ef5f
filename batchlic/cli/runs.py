"""`batchlic runs` lists the runs of a folder, and `batchlic runs prune` deletes old ones.

The first word after `runs` is a command if it is `prune`, and otherwise the folder: a folder of that name is
written as a path (`./prune`).
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from batchlic.cli.help import Group, examples
from batchlic.cli.options import Json, Yes, parse_age
from batchlic.cli.output import (
    ask_or_refuse,
    print_json,
    print_notice,
    print_result,
    print_under_headline,
    print_warning,
)
from batchlic.errors import ExitCode, UsageError


class _Runs(Group):
    """A group with options and an argument of its own, which may come in any order."""

    allow_interspersed_args = True

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401 - the class is private to typer
        """The parameters; none for the usage of a command of the group, which comes before them."""
        return super().get_params(ctx) if ctx.command is self else []

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - as above
        if args and args[0] in self.commands:
            super().parse_args(ctx, [])  # sets the defaults
            ctx._protected_args, ctx.args = args[:1], args[1:]  # noqa: SLF001 - as the method of typer does
            return args[1:]
        super().parse_args(ctx, args)
        if further := [*ctx._protected_args, *ctx.args]:  # noqa: SLF001 - as above
            raise UsageError(f"runs: give one folder, and not also {' '.join(further)}")
        return []


app = typer.Typer(
    cls=_Runs,
    help="List the runs of a folder, newest first, or delete old ones.",
    invoke_without_command=True,
    epilog=examples(
        "# The runs of the last week that need attention:",
        "batchlic runs --since 7d --failed",
    ),
    subcommand_metavar="| prune --keep DURATION [FOLDER]",
)


def runs_folder(given: str) -> Path:
    """The folder of runs, with what a list of them shows."""
    from batchlic.objectstore.addresses import is_remote
    from batchlic.objectstore.copies import local_runs
    from batchlic.runs.folder import is_wanted_in_a_list
    from batchlic.state import remember_store

    remember_store()
    return local_runs(given, is_wanted_in_a_list) if is_remote(given) else Path(given)


Folder = Annotated[
    Path | None,
    typer.Argument(
        metavar="FOLDER",
        help="Folder of runs: a path, or an address such as s3://BUCKET/PATH.",
        show_default="the state folder",
        parser=runs_folder,
    ),
]


@app.callback()
def runs(
    context: typer.Context,
    folder: Folder = None,
    *,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="Only runs that began in this time: 7d, 12h.", show_default="all"
        ),
    ] = None,
    failed: Annotated[
        bool,
        typer.Option(
            "--failed", help="Only runs that need attention: exit code not 0, interrupted or damaged."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """List the runs of a folder and below, newest first. Exit 3: a run can't be read.

    A folder named `prune` is written ./prune.
    """
    if context.invoked_subcommand:
        return
    from batchlic.cli.run_tables import runs_table
    from batchlic.runs.listing import UNKNOWN, list_runs

    place = _place(folder)
    earliest = None if since is None else parse_age(since, "--since")
    listed = [] if place is None else list_runs(place, since=earliest, failed=failed)
    if json:
        print_json(listed)
    elif listed and place is not None:
        print_under_headline(runs_table(listed, place).rstrip("\n"), "bold")
        for run in listed:
            if run.problem:
                print_warning(f"{run.run_dir}: {run.problem.removeprefix(f'{run.run_dir}: ')}")
    else:
        which = "such run" if since or failed else "run"
        print_notice(f"There is no {which} in {place or 'the state folder'}.")
    sys.exit(ExitCode.INCOMPLETE if any(run.state in UNKNOWN for run in listed) else ExitCode.OK)


@app.command(
    epilog=examples(
        "# See what would be deleted, then delete it:",
        "batchlic runs prune --keep 90d --dry-run",
        "batchlic runs prune --keep 90d",
    ),
)
def prune(
    folder: Folder = None,
    *,
    keep: Annotated[
        str, typer.Option(metavar="DURATION", help="Keep the runs that ended in this time: 30d, 12h.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be deleted, and change nothing.")
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Delete the old runs of a folder that nobody needs any more, and say why others are kept.

    Try it with --dry-run first. Exit 3: a run can't be read or deleted.
    """
    from batchlic.cli.run_tables import describe_pruning
    from batchlic.objectstore.copies import is_copy
    from batchlic.runs.prune import Pruning
    from batchlic.runs.prune import prune as prune_runs
    from batchlic.settings import load_settings

    ended_before = parse_age(keep, "--keep")
    place = _place(folder)
    if place is not None and is_copy(place / "any"):
        raise UsageError(
            f"runs prune: deletes nothing in an object store ({place}): delete the objects below a run's "
            "address, or let a lifecycle rule of the bucket do so"
        )
    if place is None:
        done = Pruning(folder="", dry_run=dry_run, deleted=[], kept=[])
    else:
        done = prune_runs(
            place,
            ended_before=ended_before,
            dry_run=dry_run,
            has_store=load_settings().known_callback_store is not None,
            ask=None if yes else ask_or_refuse("--yes or --dry-run"),
        )
    print_json(done) if json else print_result(describe_pruning(done))
    sys.exit(ExitCode.INCOMPLETE if any(run.is_trouble for run in done.kept) else ExitCode.OK)


def _place(folder: Path | None) -> Path | None:
    """The folder of the runs; None if that is the state folder, and it does not exist yet."""
    from batchlic.state import state_folder

    if folder is not None:
        return folder
    state = state_folder()
    return state if state.exists() else None
