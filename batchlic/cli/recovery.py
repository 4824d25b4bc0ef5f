"""Commands for after a run: settle devices in doubt, roll back, export rows, report, check files."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from batchlic.cli.arguments import RunDirectory, find_runs_folder, refuse_unusable_target
from batchlic.cli.completion import complete_runs
from batchlic.cli.help import Section, examples
from batchlic.cli.observers import observers
from batchlic.cli.options import Json, MetricsOptions, Yes, with_option_groups
from batchlic.cli.output import (
    ask_on_terminal,
    ask_or_refuse,
    exit_as,
    open_target,
    print_json,
    print_notice,
    print_result,
)
from batchlic.cli.streams import results_on_stdout
from batchlic.errors import ExitCode, UsageError
from batchlic.figures import counted

app = typer.Typer()

FileToWrite = Annotated[
    Path | None, typer.Option(metavar="PATH", help="File to write.", show_default="stdout")
]


@app.command(
    rich_help_panel=Section.RECOVER,
    epilog=examples(
        "batchlic settle 20261121T213558Z-a39cc27f --as accepted --batch 7 --reason 'seen in the portal'",
    ),
)
def settle(
    run_dir: RunDirectory,
    *,
    outcome: Annotated[
        Literal["accepted", "failed", "resend"],
        typer.Option("--as", help="Outcome of the devices; resend: send them again."),
    ],
    reason: Annotated[
        str,
        typer.Option(metavar="TEXT", help="How you know the outcome; recorded in journal and audit."),
    ],
    batch: Annotated[
        list[int] | None,
        typer.Option(metavar="BATCH", help="Only this batch. Repeatable.", show_default="all in doubt"),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Only this IMEI or ICCID. Repeatable.", show_default="all in doubt"),
    ] = None,
    consent_lifetime: Annotated[
        bool,
        typer.Option("--consent-lifetime", help="Allow sending Lifetime licenses again (irrevocable)."),
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Record the outcome of devices in doubt. After `resend`, `batchlic resume` sends them again.

    Without --batch and --device, the outcome is that of all devices in doubt: batchlic asks first.
    """
    from batchlic.chunker import DeviceStatus
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.settle import settle as settle_devices

    summary = settle_devices(
        RunFolder(run_dir),
        DeviceStatus.PENDING if outcome == "resend" else DeviceStatus(outcome),
        reason=reason,
        batches=batch or (),
        devices=device or (),
        consent_lifetime=consent_lifetime,
        ask=None if yes or batch or device else ask_or_refuse("--yes, --batch or --device"),
    )
    exit_as(summary, run_dir, as_json=json)


@app.command(
    rich_help_panel=Section.INSPECT,
    epilog=examples(
        "# Correct the rejected rows, and plan them again:",
        "batchlic export 20261121T213558Z-a39cc27f --what rejects --to rejects.csv",
    ),
)
def export(
    run_dir: RunDirectory,
    *,
    what: Annotated[
        Literal["rejects", "failed", "in_doubt", "resent", "all"],
        typer.Option(help="Rows to export; resent: sent again after a lost answer."),
    ] = "rejects",
    format: Annotated[  # noqa: A002 - the option's name
        Literal["csv", "xlsx", "ndjson", "parquet"] | None,
        typer.Option(help="File format.", show_default="by the ending of --to; csv on stdout"),
    ] = None,
    to: FileToWrite = None,
) -> None:
    """Export rejects, or devices by status, with reasons. A corrected file can be planned again."""
    from batchlic.runs.export import export as export_rows
    from batchlic.runs.folder import RunFolder
    from batchlic.writer.export import Format, Selection, format_of

    folder, selection = RunFolder(run_dir), Selection(what)
    if to is None or str(to) == "-":
        form = Format(format or Format.CSV)
        with results_on_stdout() as stdout:
            count = export_rows(folder, selection, form, stdout)
            print_notice(counted(count, "row"))
    else:
        form = Format(format) if format else format_of(to)
        refuse_unusable_target(to)
        count = export_rows(folder, selection, form, to)
        print_result(f"{counted(count, 'row')} in {to}")


@app.command(
    rich_help_panel=Section.INSPECT,
    epilog=examples(
        "batchlic report 20261121T213558Z-a39cc27f --to report.html",
    ),
)
def report(
    run_dir: RunDirectory,
    *,
    to: FileToWrite = None,
) -> None:
    """Make the report of a run as it stands now: one HTML file that needs no network."""
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.report import report as report_of
    from batchlic.writer.report.page import draw_and_render, write_report

    folder = RunFolder(run_dir)
    if to is None or str(to) == "-":
        if sys.stdout.isatty():
            raise UsageError("report: a terminal can't show HTML; give a file, such as --to report.html")
        with results_on_stdout() as stdout:
            stdout.write(draw_and_render(report_of(folder)).encode())
    else:
        refuse_unusable_target(to)
        write_report(to, report_of(folder))
        print_result(f"Report: {to}")


@app.command(
    rich_help_panel=Section.RECOVER,
    epilog=examples(
        "batchlic rollback 20261121T213558Z-a39cc27f",
    ),
)
@with_option_groups
def rollback(
    run_dir: RunDirectory,
    *,
    by: Annotated[
        Literal["request", "device"],
        typer.Option(help="Undo each accepted request by its X-Request-ID, or each accepted device."),
    ] = "request",
    metrics: MetricsOptions,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Take back the licenses that a run assigned. This is a new run, in a folder inside RUN_DIR."""
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.rollback import By
    from batchlic.runs.rollback import rollback as roll_back
    from batchlic.runs.run import new_run_id
    from batchlic.runs.run_events import observed

    folder = RunFolder(run_dir)
    ask = None if yes else ask_on_terminal()
    with open_target(None) as target, observers(metrics.table()) as events:
        summary = observed(
            events,
            lambda: roll_back(folder, By(by), target, run_id=new_run_id(), ask=ask, events=events),
        )
    exit_as(summary, run_dir / f"rollback-by-{by}", as_json=json)


@app.command(
    rich_help_panel=Section.INSPECT,
    epilog=examples(
        "# Have the files changed since the run?",
        "batchlic audit 20261121T213558Z-a39cc27f --verify",
        "# What happened to a device, in all runs:",
        "batchlic audit --device 353456789012348",
    ),
)
def audit(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN_DIR|RUNS_DIR",
            help="Run folder, or with --device a folder of runs.",
            show_default="the state folder",
            parser=find_runs_folder,
            autocompletion=complete_runs,
        ),
    ] = None,
    *,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Recompute the audit chain, and compare the files with the journal."),
    ] = False,
    device: Annotated[
        str | None, typer.Option(metavar="ID", help="Show the history of an IMEI or ICCID across runs.")
    ] = None,
    json: Json = False,
) -> None:
    """Check the files of a run, or show the history of a device. Exit 3: a file has changed."""
    if verify == (device is not None):
        raise UsageError("audit: give either --verify or --device ID")
    if device is not None:
        from batchlic.cli.format import describe_history
        from batchlic.runs.history import device_history
        from batchlic.state import state_folder

        events = device_history(device, path or state_folder())
        print_json(events) if json else print_result(describe_history(device, events))
        return
    if path is None:
        raise UsageError("audit --verify: name the run folder")
    from batchlic.cli.format import describe_verification
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.verify import verify as verify_run

    verification = verify_run(RunFolder(path))
    print_json(verification) if json else print_result(describe_verification(verification, path))
    sys.exit(ExitCode.INCOMPLETE if verification.findings else ExitCode.OK)
