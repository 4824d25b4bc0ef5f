"""`batchlic check`: finds what would make a run fail, without a license request."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchlic.cli.colors import paint
from batchlic.cli.help import Section, examples
from batchlic.cli.options import Json, OnSandbox
from batchlic.cli.output import open_target, print_json
from batchlic.cli.profiles import with_default_account

if TYPE_CHECKING:
    from batchlic.chunker import PlanGroup
    from batchlic.job import Job
    from batchlic.runs.check import Finding, Report
    from batchlic.settings import Settings

app = typer.Typer()

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}

_CONCURRENCY = 64
"""Requests in flight of a run whose job is not known: the default of `max_concurrency`."""


@app.command(
    rich_help_panel=Section.PREPARE,
    epilog=examples(
        "batchlic check nightly.toml",
        "batchlic check nightly.toml --sandbox",
    ),
)
def check(
    job: Annotated[
        Path | None,
        typer.Argument(
            metavar="JOB.toml",
            help="Job file to check.",
            show_default="only settings, state folder and carrier",
        ),
    ] = None,
    *,
    no_login: Annotated[bool, typer.Option("--no-login", help="Skip the checks that need a login.")] = False,
    whole: Annotated[
        bool,
        typer.Option("--whole", help="Plan inventories of more than 64 MiB, too."),
    ] = False,
    sandbox: OnSandbox = False,
    json: Json = False,
) -> None:
    """Check everything that a run needs, and send no license request.

    Exit 0: no errors, maybe warnings. Exit 3: errors. Exit 5: the carrier rejected the credentials.
    """
    from batchlic.runs.check import Report

    report = Report(lambda finding: None if json else _print(finding))
    _check(report, job, no_login=no_login, whole=whole, on_sandbox=sandbox)
    if json:
        print_json({"exit_code": int(report.exit_code), "checks": report.findings})
    sys.exit(report.exit_code)


def _print(finding: "Finding") -> None:
    from batchlic.logs import printable

    level = paint(finding.level, _STYLES[finding.level], sys.stdout)
    space = " " * (9 - len(finding.level))
    sys.stdout.write(f"{level}{space}{finding.check:<14}{printable(finding.message)}\n")
    sys.stdout.flush()


def _check(report: "Report", path: Path | None, *, no_login: bool, whole: bool, on_sandbox: bool) -> None:
    from batchlic.job import load_job
    from batchlic.runs import check as checks
    from batchlic.settings import load_settings

    settings = report.value("settings", load_settings)
    job = report.value("job", lambda: load_job(path, {})) if path else None
    if job is not None and path is not None:
        report.add("job", partial(checks.check_job, path, job))
        report.add("inventory", partial(checks.check_inventories, job))
    concurrency = job.limits.max_concurrency if job else _CONCURRENCY
    report.add("open files", lambda: checks.check_descriptors(concurrency))
    if settings is None:
        text = "not checked: state folder, ledger, stores and carrier. Correct the settings first"
        report.add("settings", lambda: [checks.warning("settings", text)])
        return
    profile = f"; profile: {settings.profile}" if settings.profile else ""
    usable = f"can be used; carrier: {settings.base_url}{profile}"
    report.add("settings", lambda: [checks.ok("settings", usable)])
    job = with_default_account(job) if job else None
    job, groups = _check_files(report, settings, job, whole=whole, on_sandbox=on_sandbox)
    _check_carrier(report, settings, job, groups, no_login=no_login, on_sandbox=on_sandbox)


def _check_files(
    report: "Report", settings: "Settings", job: "Job | None", *, whole: bool, on_sandbox: bool
) -> "tuple[Job | None, list[PlanGroup]]":
    """Check what the run reads and writes here. Returns the job with its ledger, and the plan's groups."""
    from batchlic.journal import SANDBOX
    from batchlic.runs import check as checks
    from batchlic.state import find_ledger, state_folder

    folder = report.value("state folder", state_folder)
    own = (job.ledger.path or job.store.url) if job else None
    ledger = own or (report.value("ledger", find_ledger) if folder else None)
    devices, groups = None, []
    if job is not None and folder is not None and ledger is not None:
        job = job.with_ledger(ledger)
        rehearsal = checks.Rehearsal(job, folder, SANDBOX if on_sandbox else settings.base_url)
        report.add("plan", lambda: rehearsal.check(whole=whole))
        devices, groups = rehearsal.devices, rehearsal.groups
    if folder is not None:
        kept = len(job.inventory.keep) if job is not None else 0
        report.add("state folder", lambda: checks.check_state_folder(folder, devices, kept))
    if ledger is not None:
        report.add("ledger", lambda: checks.check_ledger_of(job, ledger))
    name = job.with_store(settings.store_name).store.url if job is not None else settings.store_name
    if name is not None:
        report.add("shared store", lambda: checks.check_shared_store(name))
    store = settings.known_callback_store
    is_needed = job is not None and job.limits.require_confirmation
    report.add("store", lambda: checks.check_store(store, is_needed=is_needed))
    return job, groups


def _check_carrier(
    report: "Report",
    settings: "Settings",
    job: "Job | None",
    groups: "list[PlanGroup]",
    *,
    no_login: bool,
    on_sandbox: bool,
) -> None:
    from batchlic.carrier.credentials import Secret
    from batchlic.job import EmbeddedSandbox
    from batchlic.runs.check_carrier import check_login, check_server

    user = settings.listener_username
    listener_user = Secret(user.get_secret_value()) if user else None
    if not on_sandbox:
        report.add("dns", lambda: check_server(settings.base_url))
        if report.value("credentials", settings.credentials) is None or no_login:
            return
    with open_target((job.sandbox if job else EmbeddedSandbox()) if on_sandbox else None) as target:
        if on_sandbox:
            report.add("dns", lambda: check_server(target.base_url))
        if not no_login:
            report.add("login", lambda: check_login(target, job, groups, listener_user=listener_user))
