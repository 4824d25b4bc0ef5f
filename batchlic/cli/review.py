"""Commands about plans that are reviewed before they are sent: `approve` and `apply`."""

from typing import TYPE_CHECKING

import typer

from batchlic.cli.alerts import alerts
from batchlic.cli.arguments import RunDirectory
from batchlic.cli.callbacks import check_wait_options, run_listener
from batchlic.cli.help import Section, examples
from batchlic.cli.observers import observers
from batchlic.cli.options import (
    ClusterOptions,
    Json,
    MetricsOptions,
    Notifying,
    OnSandbox,
    WaitOptions,
    Yes,
    with_option_groups,
)
from batchlic.cli.output import (
    ask_on_terminal,
    ask_or_refuse,
    exit_as,
    open_target,
    print_before_question,
    print_json,
    print_result,
)
from batchlic.cli.waiting import after_sending
from batchlic.cli.workers import sending

if TYPE_CHECKING:
    from batchlic.writer.summary import Summary

app = typer.Typer()


@app.command(
    rich_help_panel=Section.SUBMIT,
    epilog=examples(
        "batchlic apply runs/friday",
    ),
)
@with_option_groups
def apply(
    run_dir: RunDirectory,
    *,
    wait: WaitOptions,
    metrics: MetricsOptions,
    cluster: ClusterOptions,
    yes: Yes = False,
    sandbox: OnSandbox = False,
    notify: Notifying = None,
    json: Json = False,
) -> None:
    """Send exactly the plan that `batchlic plan` wrote, unless it is out of date."""
    from batchlic.runs.apply import apply as apply_plan
    from batchlic.runs.apply import job_to_apply
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.run import new_run_id
    from batchlic.runs.run_events import observed

    folder = RunFolder(run_dir)
    check_wait_options(wait, folder)
    job = job_to_apply(folder)
    if wait.wait_callbacks is not None:
        job = job.with_canary(confirmed=True)
    with (
        observers(metrics.table(None if sandbox else job.metrics), job) as events,
        alerts(events, job, run_dir, is_wanted=notify, on_sandbox=sandbox) as check,
    ):

        def work() -> "Summary":
            check()
            with (
                sending(cluster, folder, on_sandbox=sandbox) as send,
                open_target(job.sandbox if sandbox else None) as target,
                run_listener(wait, folder, on_sandbox=sandbox) as listener,
            ):
                ask = None if yes or sandbox else ask_on_terminal()
                summary = apply_plan(
                    folder,
                    target,
                    run_id=new_run_id(),
                    ask=ask,
                    listener=listener,
                    waits=wait.wait_callbacks is not None,
                    events=events,
                    send=send,
                )
                return after_sending(wait, job, folder, target, summary, events=events, send=send)

        summary = observed(events, work)
    exit_as(summary, run_dir, as_json=json)


@app.command(
    rich_help_panel=Section.SUBMIT,
    epilog=examples(
        "batchlic approve runs/friday",
    ),
)
def approve(run_dir: RunDirectory, *, yes: Yes = False, json: Json = False) -> None:
    """Approve a plan that another user made, so that `batchlic apply` may send it."""
    from batchlic.cli.format import describe_plan
    from batchlic.figures import counted
    from batchlic.runs.approval import approve as approve_plan
    from batchlic.runs.approval import read_for_approval
    from batchlic.runs.estimate import estimate
    from batchlic.runs.finalize import now
    from batchlic.runs.folder import RunFolder

    folder = RunFolder(run_dir)
    record, sha256 = read_for_approval(folder)
    job = record.planned_job
    if not json:
        expected = estimate(job, folder, record.carrier, record.plan.groups, record.licenses)
        print_before_question(describe_plan(record.plan, folder.path, expected))
    if not yes:
        to_send = sum(group.devices for group in record.groups)
        ask = ask_or_refuse("--yes")
        ask(f"Approve this plan: {job.action} {counted(to_send, 'device')} at {record.carrier}?")
    approval = approve_plan(folder, record, sha256, approved_at=now())
    if json:
        print_json(approval)
    else:
        print_result(f"Approved by {approval.approver}. Send it: batchlic apply {folder.argument}")
