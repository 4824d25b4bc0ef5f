"""The doors: parses arguments, calls the rooms, prints, and turns errors into exit codes.

Everything heavy is imported where it is used, so that `--help` answers at once.
"""

import gc
import os
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from batchlic.cli import callbacks as callbackdoors
from batchlic.cli import ledger as ledgerdoors
from batchlic.cli.callbacks import refuse_unable_to_wait, run_listener, wait
from batchlic.cli.options import Json, OnSandbox, PlanOptions, RunOptions, Yes, flattened
from batchlic.cli.output import carrier, finish, may_be_cut_short, print_summary, put, say
from batchlic.errors import BatchlicError, ExitCode, RefusedToStart, UsageError
from batchlic.logs import printable

if TYPE_CHECKING:
    from batchlic.chunker import Plan
    from batchlic.job import Job

app = typer.Typer(
    name="batchlic",
    help="Assign, move and take back SIM-Secure licenses for very large IoT device inventories.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(ledgerdoors.app, name="ledger")
app.add_typer(callbackdoors.app)

Inventories = Annotated[list[str], typer.Argument(metavar="INVENTORY", help="Files that hold the devices.")]
JobFile = Annotated[Path, typer.Argument(metavar="JOB.toml", help="A job file, as in jobs/.")]
RunDirectory = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")]


OBJECTS_BETWEEN_COLLECTIONS = 20_000
"""Python's 700 cost a tenth of the CPU time of a run: what is imported was gone through again and again."""


def main() -> None:
    """Run the command line; exit with the codes of `batchlic.errors.ExitCode`."""
    os.umask(0o077)  # whatever this process leaves is its owner's alone
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    try:
        app()
    except BatchlicError as error:
        say(f"batchlic: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("batchlic: stopped; a run that had begun to send can be resumed")
        sys.exit(ExitCode.STOPPED)


@app.command()
@flattened
def run(job: JobFile, *, options: RunOptions) -> None:
    """Run a job file; flags win over what it says."""
    from batchlic.job import load_job

    _start(load_job(job, options.overrides()), options)


@app.command()
@flattened
def assign(inventory: Inventories, *, options: RunOptions) -> None:
    """Put a license on every device of the inventories."""
    _start(_job("assign", inventory, options), options)


@app.command()
@flattened
def unassign(inventory: Inventories, *, options: RunOptions) -> None:
    """Take the license back from every device of the inventories; never a Lifetime one."""
    _start(_job("unassign", inventory, options), options)


@app.command()
@flattened
def migrate(
    inventory: Inventories,
    from_sku: Annotated[str, typer.Option(help="SKU to leave.")],
    to_sku: Annotated[str, typer.Option(help="SKU to get.")],
    *,
    order: Annotated[
        Literal["auto", "unassign-first"],
        typer.Option(help="Which license first; auto: the new one, as far as there are enough."),
    ] = "auto",
    restore: Annotated[
        bool, typer.Option("--restore", help="Undo the first step where the second one fails.")
    ] = False,
    options: RunOptions,
) -> None:
    """Move devices from one SKU to another; see docs/migrate.md."""
    from batchlic.job import make_job

    license = {"from_sku": from_sku, "to_sku": to_sku, "order": order, "restore": restore}
    content = {"action": "migrate", "inventory": {"files": inventory}, "license": license}
    _start(make_job(content, options.overrides(), where="options"), options)


@app.command()
@flattened
def plan(inventory: Inventories, *, options: PlanOptions) -> None:
    """Write plan.parquet and rejects.parquet, no more: no network, no credentials.

    A single argument that ends in .toml is read as a job file.
    """
    from batchlic.job import load_job
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.ledger_sync import snapshot_for_plan
    from batchlic.runs.run import new_run_id, plan_only
    from batchlic.settings import load_settings

    if len(inventory) == 1 and inventory[0].endswith(".toml"):
        job = load_job(Path(inventory[0]), options.overrides())
    else:
        job = _job("assign", inventory, options)
    folder = RunFolder(options.run_dir or Path("runs") / new_run_id())
    with snapshot_for_plan(job, folder, load_settings().base_url) as known:
        planned = plan_only(job, folder, known)
    _print_plan(planned, folder.path, as_json=options.json)


@app.command()
def resume(run_dir: RunDirectory, *, sandbox: OnSandbox = False, json: Json = False) -> None:
    """Go on with a run where it ended; a finished one is left as it is."""
    from batchlic.job import Rehearsal
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.run import resume as resume_run

    with carrier(Rehearsal() if sandbox else None) as target:
        summary = resume_run(RunFolder(run_dir), target)
    finish(summary, run_dir, as_json=json)


@app.command()
def status(run_dir: RunDirectory, *, json: Json = False) -> None:
    """Say how a run stands, at work or ended, and what is in doubt and why."""
    from batchlic.cli.format import describe_doubts
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.run import status as status_of

    report = status_of(RunFolder(run_dir))
    print_summary(report, run_dir, as_json=json)
    if report.doubts and not json:
        say(describe_doubts(report.doubts, run_dir))


@app.command()
def settle(
    run_dir: RunDirectory,
    *,
    verdict: Annotated[
        Literal["accepted", "failed", "resend"],
        typer.Option("--as", help="What became of them: accepted, failed, or not known: resend."),
    ],
    reason: Annotated[str, typer.Option(help="How you know. Kept in the journal and the audit.")],
    batch: Annotated[
        list[int] | None, typer.Option(help="Only this batch [all that is in doubt]. Repeatable.")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="Only this IMEI or ICCID [all that is in doubt]. Repeatable.")
    ] = None,
    consent_lifetime: Annotated[
        bool, typer.Option("--consent-lifetime", help="Yes to asking again for a Lifetime license.")
    ] = False,
    json: Json = False,
) -> None:
    """Decide what became of devices in doubt. `resend` only notes it: `batchlic resume` sends."""
    from batchlic.chunker import DeviceStatus
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.settle import settle as settle_doubt

    summary = settle_doubt(
        RunFolder(run_dir),
        DeviceStatus.PENDING if verdict == "resend" else DeviceStatus(verdict),
        reason=reason,
        batches=batch or (),
        devices=device or (),
        consent_lifetime=consent_lifetime,
    )
    finish(summary, run_dir, as_json=json)


@app.command()
def export(
    run_dir: RunDirectory,
    *,
    what: Annotated[
        Literal["rejects", "failed", "in_doubt", "all"], typer.Option(help="Which rows.")
    ] = "rejects",
    format: Annotated[  # noqa: A002 - the option's name
        Literal["csv", "xlsx", "ndjson", "parquet"], typer.Option(help="Written as what.")
    ] = "csv",
    to: Annotated[Path | None, typer.Option(help="The file to write; - or nothing is stdout.")] = None,
) -> None:
    """Write the rows of a run that need a person, as a file that can go back to whoever sent it."""
    from batchlic.runs.export import export as export_rows
    from batchlic.runs.folder import RunFolder
    from batchlic.writer.export import Format, Selection

    target = sys.stdout.buffer if to is None or str(to) == "-" else to
    with may_be_cut_short():
        count = export_rows(RunFolder(run_dir), Selection(what), Format(format), target)
        say(f"{count:,} rows{'' if target is not to else f' in {to}'}")


@app.command()
def rollback(
    run_dir: RunDirectory,
    *,
    by: Annotated[
        Literal["request", "device"],
        typer.Option(help="Undo each accepted request by its X-Request-ID, or unassign the devices."),
    ] = "request",
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Take back what a run has assigned; itself a run, in a folder inside that of the first."""
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.rollback import By
    from batchlic.runs.rollback import rollback as roll_back
    from batchlic.runs.run import new_run_id

    folder = RunFolder(run_dir)
    ask = None if yes or not sys.stdin.isatty() else _ask
    with carrier(None) as target:
        summary = roll_back(folder, By(by), target, run_id=new_run_id(), ask=ask)
    finish(summary, run_dir / f"rollback-by-{by}", as_json=json)


@app.command()
def audit(
    path: Annotated[
        Path, typer.Argument(metavar="[RUN_DIR|RUNS_DIR]", help="A run, or with --device a folder of runs.")
    ] = Path("runs"),
    *,
    verify: Annotated[
        bool, typer.Option("--verify", help="Recompute the chain of a run and hold its files against it.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(metavar="ID", help="Tell the story of an IMEI or ICCID across all runs.")
    ] = None,
    json: Json = False,
) -> None:
    """Check what a run has left (exit 3 if something was changed), or tell one device's story."""
    if verify == (device is not None):
        raise UsageError("audit: give either --verify or --device ID")
    if device is not None:
        from batchlic.cli.format import describe_history
        from batchlic.runs.history import device_history

        events = device_history(device, path)
        put(events) if json else say(describe_history(device, events))
        return
    from batchlic.cli.format import describe_verification
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.verify import verify as verify_run

    verification = verify_run(RunFolder(path))
    put(verification) if json else say(describe_verification(verification, path))
    sys.exit(ExitCode.INCOMPLETE if verification.findings else ExitCode.OK)


@app.command()
def sandbox(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 finds a free one.")] = 0,
    rate: Annotated[float | None, typer.Option(help="Hidden limit, requests/s [none].")] = None,
    limit: Annotated[
        Literal["token-bucket", "fixed-window", "sliding-window"],
        typer.Option(help="How it counts the rate."),
    ] = "token-bucket",
    burst: Annotated[int, typer.Option(help="Requests that a token bucket lets through at once.")] = 20,
    window: Annotated[float, typer.Option(help="Seconds of a window; its quota is rate times this.")] = 1.0,
    max_concurrent: Annotated[int | None, typer.Option(help="Calls inside at once [no limit].")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(metavar="AT=FACTOR", help="From that second on, limits times FACTOR. Repeatable."),
    ] = None,
    retry_hint: Annotated[
        Literal["nothing", "seconds", "date", "next-access-time"],
        typer.Option(help="What a 429 says of when to come back."),
    ] = "seconds",
    quota_headers: Annotated[
        Literal["nothing", "ratelimit", "x-ratelimit", "draft"],
        typer.Option(help="What every answer says of the rate that is left."),
    ] = "nothing",
    throttle_shape: Annotated[
        Literal["gateway", "bare-gateway", "license"], typer.Option(help="Body of a 429.")
    ] = "gateway",
    count_throttled: Annotated[
        bool, typer.Option("--count-throttled", help="Throttled calls count against the rate too.")
    ] = False,
    latency: Annotated[float, typer.Option(help="Seconds that an answer takes.")] = 0.0,
    jitter: Annotated[float, typer.Option(help="Up to so many seconds more.")] = 0.0,
    latency_growth: Annotated[
        float, typer.Option(help="So many seconds more for each other call inside.")
    ] = 0.0,
    access_token_life: Annotated[float, typer.Option(help="Seconds that an access token lives.")] = 3600.0,
    session_idle: Annotated[float, typer.Option(help="Seconds unused that end a session.")] = 1200.0,
    slow_body: Annotated[float, typer.Option(help="Seconds that the fault slow-body takes.")] = 5.0,
    deduplicate: Annotated[
        bool, typer.Option("--deduplicate", help="Execute one X-Request-ID once only.")
    ] = False,
    licenses: Annotated[
        list[str] | None,
        typer.Option(metavar="[SKU=]N", help="Licenses bought, of one or of all SKUs. Repeatable."),
    ] = None,
    account: Annotated[
        list[str] | None, typer.Option(help="An account that exists [all do]. Repeatable.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RATE", help="Share of requests that meet a fault. Repeatable."),
    ] = None,
    exclusive: Annotated[
        bool, typer.Option("--exclusive", help="Refuse a device a second SKU while it holds another.")
    ] = False,
    poison_file: Annotated[
        Path | None, typer.Option(help="Devices that spoil their batch, one a line.")
    ] = None,
    callback_delay: Annotated[float, typer.Option(help="Seconds until an outcome is called back.")] = 0.0,
    callback_jitter: Annotated[float, typer.Option(help="Up to so many more, for each device.")] = 0.0,
    callback_early: Annotated[
        float, typer.Option(min=0, max=1, help="Share of requests called back before their answer.")
    ] = 0.0,
    callback_repeats: Annotated[
        float, typer.Option(min=0, max=1, help="Share of outcomes called back twice.")
    ] = 0.0,
    callback_failures: Annotated[
        float, typer.Option(min=0, max=1, help="Share of devices that are taken, and then fail.")
    ] = 0.0,
    callback_retry: Annotated[
        float, typer.Option(help="Seconds between tries, three more after the first.")
    ] = 300.0,
    seed: Annotated[int, typer.Option(help="Same seed, same requests: same faults and ids.")] = 0,
) -> None:
    """Serve a carrier to rehearse against on 127.0.0.1; its base URL goes to stdout. See docs/sandbox.md."""
    from batchlic.sandbox.config import LimitKind, QuotaHeaders, RetryHint, SandboxConfig, ThrottleShape
    from batchlic.sandbox.options import parse_change, parse_fault, parse_licenses, read_poison_file
    from batchlic.sandbox.server import serve

    config = SandboxConfig(
        seed=seed,
        accounts=tuple(account or ()),
        poison=read_poison_file(poison_file) if poison_file else (),
        exclusive=exclusive,
        rate=rate,
        limit=LimitKind(limit),
        burst=burst,
        window_s=window,
        max_concurrent=max_concurrent,
        changes=tuple(map(parse_change, change or ())),
        count_throttled=count_throttled,
        throttle_shape=ThrottleShape(throttle_shape),
        retry_hint=RetryHint(retry_hint),
        quota_headers=QuotaHeaders(quota_headers),
        latency_s=latency,
        latency_jitter_s=jitter,
        latency_growth_s=latency_growth,
        access_token_s=access_token_life,
        session_idle_s=session_idle,
        slow_body_s=slow_body,
        deduplicate=deduplicate,
        faults=dict(map(parse_fault, fault or ())),
        callback_delay_s=callback_delay,
        callback_jitter_s=callback_jitter,
        callback_early=callback_early,
        callback_repeats=callback_repeats,
        callback_failures=callback_failures,
        callback_retry_s=callback_retry,
    )
    if licenses:
        config = replace(config, licenses=parse_licenses(licenses))
    serve(config, port=port)


def _job(action: Literal["assign", "unassign"], inventory: list[str], options: PlanOptions) -> "Job":
    from batchlic.job import make_job

    content = {"action": action, "inventory": {"files": inventory}}
    return make_job(content, options.overrides(), where="options")


def _start(job: "Job", options: RunOptions) -> None:
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.run import new_run_id, start

    if options.dry_run:
        _rehearse_planning(job, options)
        return
    run_id = new_run_id()
    folder = RunFolder(options.run_dir or Path("runs") / run_id)
    refuse_unable_to_wait(options, folder)
    with (
        carrier(job.sandbox if options.sandbox else None) as target,
        run_listener(options, folder) as listener,
    ):
        ask = None if options.yes or options.sandbox or not sys.stdin.isatty() else _ask
        summary = start(job, folder, target, run_id=run_id, ask=ask, listener=listener)
        if options.wait_callbacks is not None and summary.stopped_because is None:
            summary = wait(options, folder)
    finish(summary, folder.path, as_json=options.json)


def _rehearse_planning(job: "Job", options: RunOptions) -> None:
    from batchlic.journal import SANDBOX
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.ledger_sync import snapshot_for_plan
    from batchlic.runs.run import plan_only
    from batchlic.settings import load_settings

    name = SANDBOX if options.sandbox else load_settings().base_url
    beside = RunFolder(options.run_dir or Path("runs") / "-")
    with TemporaryDirectory(prefix="batchlic-") as folder, snapshot_for_plan(job, beside, name) as known:
        planned = plan_only(job, RunFolder(Path(folder)), known)
        job.require_consent(group.sku_number for group in planned.groups)
        _print_plan(planned, None, as_json=options.json)


def _ask(question: str) -> None:
    if not typer.confirm(printable(question), err=True):
        raise RefusedToStart("nothing was sent")


def _print_plan(planned: "Plan", folder: Path | None, *, as_json: bool) -> None:
    from batchlic.cli.format import describe_plan

    if as_json:
        put(planned)
    else:
        say(describe_plan(planned, folder))
