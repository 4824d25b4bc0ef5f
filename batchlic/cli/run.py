"""Commands that plan, send and show runs.

As in every module here, a command imports what it needs when it runs: `--help` takes less than 0.3 s.
"""

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from batchlic.cli.alerts import alerts
from batchlic.cli.arguments import Inventories, JobFile, RunDirectory
from batchlic.cli.callbacks import check_wait_options, run_listener
from batchlic.cli.completion import complete_skus
from batchlic.cli.help import Panel, Section, examples
from batchlic.cli.observers import observers
from batchlic.cli.options import (
    SYNC_OPTIONS,
    ClusterOptions,
    FlagValues,
    Json,
    MetricsOptions,
    NewLedger,
    Notifying,
    OnSandbox,
    PlanOptions,
    RunOptions,
    with_option_groups,
)
from batchlic.cli.output import (
    ask_on_terminal,
    exit_as,
    open_target,
    print_json,
    print_result,
    print_status,
)
from batchlic.cli.profiles import with_default_account
from batchlic.cli.waiting import after_sending
from batchlic.cli.workers import sending
from batchlic.errors import UsageError

if TYPE_CHECKING:
    from batchlic.chunker import Plan
    from batchlic.job import Job
    from batchlic.runs.estimate import Estimate
    from batchlic.runs.folder import RunFolder
    from batchlic.writer.summary import Summary

app = typer.Typer()


@app.command(
    rich_help_panel=Section.SUBMIT,
    epilog=examples(
        "# As the job file says:",
        "batchlic run jobs/demo.toml --sandbox",
        "# Slower than the job file says, with the credentials of a profile:",
        "batchlic run nightly.toml --max-rate 20 --profile east",
    ),
)
@with_option_groups
def run(job: JobFile, *, options: RunOptions) -> None:
    """Run a job file; options override its values."""
    from batchlic.job import load_job

    _start(load_job(job, options.values()), options)


@app.command(
    rich_help_panel=Section.SUBMIT,
    epilog=examples(
        "# Try it without a carrier:",
        "batchlic assign fleet.csv --account 0000123456-00001 --sku SIMSec-IoT --sandbox",
        "# For real, after a canary of 1% of the devices:",
        "batchlic assign fleet.csv --account 0000123456-00001 --sku SIMSec-IoT --canary 1%",
    ),
)
@partial(with_option_groups, without=SYNC_OPTIONS)
def assign(inventory: Inventories, *, options: RunOptions) -> None:
    """Assign a license to every device of the inventories."""
    _start(_job("assign", inventory, options.values()), options)


@app.command(
    rich_help_panel=Section.SUBMIT,
    epilog=examples(
        "batchlic unassign gone.csv --account 0000123456-00001 --sku SIMSec-IoT",
    ),
)
@partial(with_option_groups, without=SYNC_OPTIONS)
def unassign(inventory: Inventories, *, options: RunOptions) -> None:
    """Unassign the license of every device. Lifetime licenses can't be unassigned."""
    _start(_job("unassign", inventory, options.values()), options)


@app.command(
    rich_help_panel=Section.SUBMIT,
    epilog=examples(
        "batchlic migrate fleet.csv --account 0000123456-00001 --from-sku SIMSec-IoT "
        "--to-sku TS-BUNDLE-KTO-SIMSEC-MRC --restore",
    ),
)
@partial(with_option_groups, without=("sku", *SYNC_OPTIONS))  # --from-sku and --to-sku replace --sku
def migrate(
    inventory: Inventories,
    from_sku: Annotated[
        str,
        typer.Option(
            metavar="SKU",
            help="SKU that the devices have now.",
            autocompletion=complete_skus,
            rich_help_panel=Panel.LICENSE,
        ),
    ],
    to_sku: Annotated[
        str,
        typer.Option(
            metavar="SKU",
            help="SKU that the devices get.",
            autocompletion=complete_skus,
            rich_help_panel=Panel.LICENSE,
        ),
    ],
    *,
    order: Annotated[
        Literal["auto", "unassign-first"],
        typer.Option(
            help="License to handle first; auto: the new one while enough are left.",
            rich_help_panel=Panel.LICENSE,
        ),
    ] = "auto",
    restore: Annotated[
        bool,
        typer.Option(
            "--restore",
            help="Undo the first step if the second one fails.",
            rich_help_panel=Panel.LICENSE,
        ),
    ] = False,
    options: RunOptions,
) -> None:
    """Move devices from one SKU to another, and keep the time without a license short."""
    from batchlic.job import make_job

    license = {"from_sku": from_sku, "to_sku": to_sku, "order": order, "restore": restore}
    content = {"action": "migrate", "inventory": {"files": inventory}, "license": license}
    _start(make_job(content, options.values(), where="options"), options)


@app.command(
    rich_help_panel=Section.SUBMIT,
    epilog=examples(
        "# See what would change:",
        "batchlic sync fleet.csv --account 0000123456-00001 --sku SIMSec-IoT --dry-run",
        "# Do it, if at most 200 devices lose their license:",
        "batchlic sync fleet.csv --account 0000123456-00001 --sku SIMSec-IoT --max-removals 200",
    ),
)
@partial(with_option_groups, without=("no_ledger",))
def sync(inventory: Inventories, *, options: RunOptions) -> None:
    """Make the licenses equal to the inventories.

    Devices of the inventories without a license get one. Devices that are gone from the inventories, and are
    licensed according to the ledger, lose theirs.
    """
    _start(_job("sync", inventory, options.values()), options)


@app.command(
    rich_help_panel=Section.SUBMIT,
    epilog=examples(
        "batchlic plan fleet.csv --account 0000123456-00001 --sku SIMSec-IoT --run-dir runs/friday",
        "batchlic apply runs/friday",
    ),
)
@with_option_groups
def plan(
    inventory: Inventories,
    *,
    licenses: Annotated[
        bool,
        typer.Option("--licenses", help="Ask the carrier how many licenses are left (needs credentials)."),
    ] = False,
    sandbox: OnSandbox = False,
    options: PlanOptions,
) -> None:
    """Write plan.parquet and rejects.parquet, and send nothing. No credentials needed.

    `batchlic apply` sends the plan later. A single argument that ends in .toml is read as a job file. The
    exit code is that of the run, if the carrier accepts every request.
    """
    from batchlic.job import load_job
    from batchlic.journal import SANDBOX
    from batchlic.runs.apply import plan_for_review
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.ledger_sync import snapshot_for_plan
    from batchlic.runs.run import new_run_id
    from batchlic.settings import load_settings
    from batchlic.state import with_state

    if len(inventory) == 1 and inventory[0].endswith(".toml") and "://" not in inventory[0]:
        job = load_job(Path(inventory[0]), options.values())
    else:
        job = _job("assign", inventory, options.values())
    folder = RunFolder(_run_path(options, new_run_id()))
    job = with_state(with_default_account(job), folder, run_dir=options.run_dir)
    carrier = SANDBOX if sandbox else load_settings().base_url
    with (
        open_target(job.sandbox if sandbox else None) if licenses else nullcontext() as target,
        snapshot_for_plan(job, folder, carrier) as snapshot,
    ):
        planned, expected = plan_for_review(job, folder, carrier, snapshot, target=target)
    _exit_as_planned(job, planned, expected, folder.path, as_json=options.json)


@app.command(
    rich_help_panel=Section.RECOVER,
    epilog=examples(
        "batchlic resume 20261121T213558Z-a39cc27f",
    ),
)
@with_option_groups
def resume(
    run_dir: RunDirectory,
    *,
    new_ledger: NewLedger = False,
    canary_failures: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="DEVICES",
            help="Send the others if at most so many devices of the canary failed or are in doubt, with or "
            "without callbacks.",
            rich_help_panel=Panel.CANARY,
        ),
    ] = None,
    metrics: MetricsOptions,
    cluster: ClusterOptions,
    sandbox: OnSandbox = False,
    notify: Notifying = None,
    json: Json = False,
) -> None:
    """Continue a run that stopped. A finished run is left as it is."""
    from batchlic.job import EmbeddedSandbox
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.identity import recorded_job
    from batchlic.runs.run import resume as resume_run
    from batchlic.runs.run_events import observed

    folder = RunFolder(run_dir)
    job = recorded_job(folder)
    measured = metrics.table(None if job is None or sandbox else job.metrics)
    with (
        observers(measured, job) as events,
        alerts(events, job, run_dir, is_wanted=notify, on_sandbox=sandbox) as check,
    ):

        def work() -> "Summary":
            check()
            with (
                sending(cluster, folder, on_sandbox=sandbox) as send,
                open_target(EmbeddedSandbox() if sandbox else None) as target,
            ):
                return resume_run(
                    folder,
                    target,
                    allow_new_ledger=new_ledger,
                    canary_failures=canary_failures,
                    canary_confirmed=None if canary_failures is None else False,
                    events=events,
                    send=send,
                )

        summary = observed(events, work)
    exit_as(summary, run_dir, as_json=json)


@app.command(
    rich_help_panel=Section.INSPECT,
    epilog=examples(
        "batchlic status 20261121T213558Z-a39cc27f",
        "# Follow a run at work until it ends:",
        "batchlic status 20261121T213558Z-a39cc27f --watch",
    ),
)
def status(
    run_dir: RunDirectory,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show the state again and again until the run ends.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the state of a run, its devices in doubt, and callbacks that settle nothing.

    With --watch, Ctrl-C ends the view and not the run. Without a terminal, each change is a line.
    """
    from batchlic.cli.watching import watch as watch_run
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.status import status as status_of

    if watch and json:
        raise UsageError("status: give either --watch or --json")
    report = watch_run(run_dir) if watch else status_of(RunFolder(run_dir))
    print_json(report) if json else print_status(report, run_dir)


def _job(action: Literal["assign", "unassign", "sync"], inventory: list[str], flags: FlagValues) -> "Job":
    from batchlic.job import make_job

    content = {"action": action, "inventory": {"files": inventory}}
    return make_job(content, flags, where="options")


def _run_path(options: PlanOptions, run_id: str) -> Path:
    """The run folder: as given, or in the state folder."""
    from batchlic.state import state_folder

    return options.run_dir or state_folder() / run_id


def _prepared(job: "Job", options: RunOptions, run_id: str) -> "tuple[Job, RunFolder]":
    """The job with ledger and account, and the run folder. Raises UsageError for options that don't fit."""
    from batchlic.runs.folder import RunFolder
    from batchlic.state import with_state

    folder = RunFolder(_run_path(options.plan, run_id))
    check_wait_options(options.wait, folder)
    job = with_default_account(job)
    return with_state(job, folder, run_dir=options.plan.run_dir, ledger=not options.sandbox), folder


def _start(job: "Job", options: RunOptions) -> None:
    from batchlic.runs.run import new_run_id, start
    from batchlic.runs.run_events import observed

    run_id, on_sandbox = new_run_id(), options.sandbox
    if options.wait.wait_callbacks is not None:
        job = job.with_canary(confirmed=True)
    if options.dry_run:
        _dry_run(*_prepared(job, options, run_id), options)
        return
    paths: list[Path] = []
    measured = options.metrics.table(None if on_sandbox else job.metrics)
    with (
        observers(measured, job) as events,
        alerts(events, job, options.plan.run_dir, is_wanted=options.notify, on_sandbox=on_sandbox) as check,
    ):

        def work() -> "Summary":
            check()
            ready, folder = _prepared(job, options, run_id)
            paths.append(folder.path)
            with (
                sending(options.cluster, folder, ready.store.url, on_sandbox=on_sandbox) as send,
                open_target(job.sandbox if on_sandbox else None) as target,
                run_listener(options.wait, folder, on_sandbox=on_sandbox) as listener,
            ):
                ask = None if options.yes or on_sandbox else ask_on_terminal()
                summary = start(
                    ready,
                    folder,
                    target,
                    run_id=run_id,
                    ask=ask,
                    listener=listener,
                    events=events,
                    send=send,
                )
                return after_sending(options.wait, ready, folder, target, summary, events=events, send=send)

        summary = observed(events, work)
    exit_as(summary, paths[0], as_json=options.plan.json)


def _dry_run(job: "Job", folder: "RunFolder", options: RunOptions) -> None:
    from batchlic.journal import SANDBOX
    from batchlic.runs.estimate import estimate
    from batchlic.runs.guards import guards_of
    from batchlic.runs.ledger_sync import snapshot_for_plan
    from batchlic.runs.run import dry_run
    from batchlic.settings import load_settings

    carrier = SANDBOX if options.sandbox else load_settings().base_url
    with snapshot_for_plan(job, folder, carrier) as snapshot:
        planned = dry_run(job, folder, guards_of(job, folder, carrier), snapshot)
    expected = estimate(job, folder, carrier, planned.groups)
    _exit_as_planned(job, planned, expected, None, as_json=options.plan.json)


def _exit_as_planned(
    job: "Job", planned: "Plan", expected: "Estimate", folder: Path | None, *, as_json: bool
) -> None:
    """Print a plan, and exit with the code that its run would have if the carrier accepts every request."""
    import msgspec

    from batchlic.cli.format import describe_plan, describe_plan_exit
    from batchlic.errors import ExitCode
    from batchlic.runs.run import expected_exit_code

    if as_json:
        print_json(msgspec.to_builtins(planned) | {"estimate": expected})
    else:
        print_result(describe_plan(planned, folder, expected))
    job.require_consent(group.sku_number for group in planned.groups)
    code = expected_exit_code(job, planned)
    if code is not ExitCode.OK and not as_json:
        print_result(describe_plan_exit(planned, code, max_rejects=job.limits.max_rejects))
    sys.exit(code)
