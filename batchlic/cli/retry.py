"""`batchlic retry`: send the failed devices of a run again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchlic.cli.arguments import RunDirectory, find_new_run_folder
from batchlic.cli.help import Panel, Section, examples
from batchlic.cli.observers import observers
from batchlic.cli.options import (
    CanaryOptions,
    Json,
    MetricsOptions,
    NewLedger,
    OnSandbox,
    Yes,
    with_option_groups,
)
from batchlic.cli.output import ask_on_terminal, exit_as, open_target

if TYPE_CHECKING:
    from batchlic.writer.summary import Summary

app = typer.Typer()


@app.command(
    rich_help_panel=Section.RECOVER,
    epilog=examples(
        "batchlic retry 20261121T213558Z-a39cc27f",
    ),
)
@with_option_groups
def retry(
    run_dir: RunDirectory,
    *,
    code: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE", help="Only devices with this error code. Repeatable.", show_default="all"
        ),
    ] = None,
    where: Annotated[
        str,
        typer.Option(metavar="status=STATUS", help="Devices to send again; only status=failed is possible."),
    ] = "status=failed",
    to: Annotated[
        Path | None,
        typer.Option(
            "--run-dir",
            metavar="NEW_RUN_DIR",
            help="Folder of the new run.",
            parser=find_new_run_folder,
            show_default="beside RUN_DIR",
            rich_help_panel=Panel.OUTPUT,
        ),
    ] = None,
    consent_lifetime: Annotated[
        bool,
        typer.Option(
            "--consent-lifetime",
            help="Allow Lifetime licenses (irrevocable), again.",
            rich_help_panel=Panel.LICENSE,
        ),
    ] = False,
    new_ledger: NewLedger = False,
    canary: CanaryOptions,
    metrics: MetricsOptions,
    yes: Yes = False,
    sandbox: OnSandbox = False,
    json: Json = False,
) -> None:
    """Retry the failed devices of a run, as a new run with the same options."""
    from batchlic.job import EmbeddedSandbox
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.retry import refuse_other_status
    from batchlic.runs.retry import retry as retry_run
    from batchlic.runs.run import new_run_id
    from batchlic.runs.run_events import observed

    run_id = new_run_id()
    folder = RunFolder(run_dir)
    refuse_other_status(where, folder)
    new = RunFolder(to or run_dir.parent / run_id)
    ask = None if yes or sandbox else ask_on_terminal()
    with (
        open_target(EmbeddedSandbox() if sandbox else None) as target,
        observers(metrics.table()) as events,
    ):

        def work() -> "Summary":
            return retry_run(
                folder,
                target,
                new,
                run_id=run_id,
                codes=code or (),
                consent_lifetime=consent_lifetime,
                allow_new_ledger=new_ledger,
                canary=canary.values(),
                ask=ask,
                events=events,
            )

        summary = observed(events, work)
    exit_as(summary, new.path, as_json=json)
