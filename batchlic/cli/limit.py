"""The command that changes the limits of a run at work."""

from typing import Annotated

import typer

from batchlic.cli.arguments import RunDirectory
from batchlic.cli.help import Section, examples
from batchlic.cli.options import Json, percentage
from batchlic.cli.output import print_json, print_result
from batchlic.errors import UsageError

app = typer.Typer()


@app.command(
    rich_help_panel=Section.RECOVER,
    epilog=examples(
        "batchlic limit 20261121T213558Z-a39cc27f --max-rate 10",
        "batchlic limit 20261121T213558Z-a39cc27f --pause",
    ),
)
def limit(
    run_dir: RunDirectory,
    *,
    max_rate: Annotated[
        float | None,
        typer.Option(
            min=0.001, metavar="REQUESTS", help="Most requests per second.", show_default="as it is"
        ),
    ] = None,
    max_concurrency: Annotated[
        int | None,
        typer.Option(
            min=1, max=1000, metavar="REQUESTS", help="Most requests in flight.", show_default="as it is"
        ),
    ] = None,
    headroom: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT",
            help="Share of the carrier's limit to leave to others.",
            show_default="as it is",
        ),
    ] = None,
    pause: Annotated[
        bool, typer.Option("--pause", help="Send nothing new; requests in flight are finished.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="End the pause.")] = False,
    reset: Annotated[
        bool, typer.Option("--reset", help="Return to the limits with which the session began.")
    ] = False,
    json: Json = False,
) -> None:
    """Change the limits of a run at work, within a second and until its session ends.

    A resumed run begins with the limits of its job again. Exit 4: no session is at work.
    """
    from batchlic.cli.format import describe_limits
    from batchlic.objectstore.copies import is_copy
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.live_limits import Changes, change_limits

    if pause and resume:
        raise UsageError("limit: give either --pause or --resume")
    is_paused = True if pause else False if resume else None
    changes = Changes(
        max_rate=max_rate,
        max_concurrency=max_concurrency,
        headroom=percentage("--headroom", headroom),
        is_paused=is_paused,
        is_reset=reset,
    )
    if changes == Changes():
        raise UsageError("limit: give a limit to change, --pause, --resume or --reset")
    if is_copy(run_dir):
        raise UsageError(
            f"limit: can't reach a session whose run folder is in an object store ({run_dir}): stop it, then "
            "resume the run"
        )
    limits = change_limits(RunFolder(run_dir), changes)
    print_json(limits) if json else print_result(describe_limits(limits))
