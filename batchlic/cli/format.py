"""Texts for people: runs, plans, ledgers and devices in a few lines.

Text from inventories and the carrier is made safe for the terminal before it is shown.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from batchlic.callbacks.unjudged import UnjudgedCallback
from batchlic.carrier.messages import Subscription
from batchlic.chunker import DeviceStatus, Plan
from batchlic.errors import ExitCode
from batchlic.figures import counted, duration, noun_for, time_on_terminal
from batchlic.job import as_share
from batchlic.journal.store_state import StoreState
from batchlic.ledger.files import Count, Forgotten, Imported
from batchlic.logs import printable
from batchlic.objectstore.copies import is_copy
from batchlic.runs.estimate import Estimate, describe_licenses, describe_time
from batchlic.runs.folder import RunFolder
from batchlic.runs.history import HistoryEvent
from batchlic.runs.live_limits import LimitsInForce
from batchlic.runs.related import RelatedRun, Relation
from batchlic.runs.status import AtWork, LastAnswer, StatusReport
from batchlic.runs.verify import Verification
from batchlic.writer.export import Selection
from batchlic.writer.in_doubt import Doubt
from batchlic.writer.summary import STOPS, Summary

DOUBTS_SHOWN = 10
"""Most requests in doubt that are shown."""

UNJUDGED_SHOWN = 10
"""Most callbacks that could not be judged that are shown."""

_FILES = {"rejected": "rejects.parquet", "failed": "results.parquet", "in_doubt": "results.parquet"}
_SELECTIONS = {"rejected": Selection.REJECTS, "failed": Selection.FAILED, "in_doubt": Selection.IN_DOUBT}


def describe(summary: Summary, folder: Path) -> str:
    """The run in figures, for a terminal."""
    lines = [
        Line(
            "read",
            summary.rows_read,
            f"{noun_for(summary.rows_read, 'row')} from "
            + ", ".join(printable(s.name) for s in summary.sources),
        )
    ]
    lines += [Line("", None, f"note: {printable(note)}") for note in summary.notes]
    rejected = noun_for(sum(summary.rejected.values()), "row")
    lines += _with_parts("rejected", rejected, summary.rejected)
    lines.append(
        Line(
            "planned",
            summary.planned,
            f"{noun_for(summary.planned, 'device')} in {counted(summary.batches, 'batch')}",
        )
    )
    lines += [
        Line(status, devices, noun_for(devices, "device")) for status, devices in summary.statuses.items()
    ]
    requests = {name: count for name, count in summary.requests.items() if count and name != "total"}
    lines += _with_parts("requests", "sent", requests)
    if summary.devices_per_second:
        speed = round(summary.devices_per_second)
        lines.append(Line("speed", speed, f"{noun_for(speed, 'device')} per second"))
    return "\n".join([headline(summary), "", *_aligned(lines), "", *_next_steps(summary, folder)])


def describe_status(report: StatusReport, folder: Path) -> str:
    """The state of a run: figures, devices in doubt, and callbacks that settle nothing, for a terminal."""
    parts = [describe(report, folder)]
    if report.doubts:
        parts.append(describe_doubts(report.doubts, folder))
    if report.undecided or report.unjudged:
        parts.append(describe_unsettled(report, folder))
    return "\n".join(parts)


def describe_plan(plan: Plan, folder: Path | None, expected: Estimate) -> str:
    """A plan in figures, for a terminal."""
    names = ", ".join(printable(source.name) for source in plan.sources)
    lines = [f"{counted(plan.rows_read, 'row')} read from {names}"]
    lines += [f"  note: {printable(note)}" for note in plan.notes]
    if plan.rejected:
        lines.append(f"  {counted(sum(plan.rejected.values()), 'row')} rejected: {_listed(plan.rejected)}")
    lines += [
        f"  {counted(devices, 'device')} {status.replace('_', ' ')} according to the ledger"
        for status, devices in plan.excluded.items()
    ]
    lines += [
        f"  {f'{group.action} ' if group.action else ''}{counted(group.devices, 'device')} in "
        f"{counted(group.batches, 'request')}: account {printable(group.account_name)}, "
        f"SKU {printable(group.sku_number)}"
        for group in plan.groups
    ]
    if plan.groups:
        lines.append(f"  expected: {printable(describe_time(expected))}")
        lines += [f"  {printable(line)}" for line in describe_licenses(expected)]
    else:
        lines.append("  nothing to do" if not plan.rows_read else "  nothing to send")
    lines.append(f"Files: {folder}/" if folder else "Dry run: nothing was sent, and no file was kept.")
    return "\n".join(lines)


def describe_plan_exit(plan: Plan, code: ExitCode, *, max_rejects: int) -> str:
    """Why a plan has another exit code than 0, for a terminal."""
    reasons = [
        f"{counted(devices, 'device')} {status.replace('_', ' ')}"
        for status, devices in plan.excluded.items()
        if status != DeviceStatus.SKIPPED
    ]
    if (rejected := sum(plan.rejected.values())) > max_rejects:
        reasons.append(f"{counted(rejected, 'row')} rejected (--max-rejects {max_rejects})")
    return f"Exit code {int(code)}, as the run would have: {', '.join(reasons)}"


def describe_doubts(doubts: Sequence[Doubt], folder: Path) -> str:
    """The devices in doubt by request, and how to settle them."""
    lines = ["", "In doubt, because answers were lost:"]
    for doubt in doubts[:DOUBTS_SHOWN]:
        shown = ", ".join(doubt.devices[:2]) + (", …" if len(doubt.devices) > 2 else "")
        lines.append(
            f"  batch {doubt.batch_id}, {counted(len(doubt.devices), 'device')} ({shown}), "
            f"{doubt.sku_number}, sent {time_on_terminal(doubt.sent_at)}: {printable(doubt.reason)}"
        )
    if len(doubts) > DOUBTS_SHOWN:
        lines.append(f"  and {counted(len(doubts) - DOUBTS_SHOWN, 'more request')}: --json shows all")
    lines.append(
        f"  Settle: batchlic settle {RunFolder(folder).argument} --as accepted|failed|resend --reason …"
    )
    return "\n".join(lines)


def describe_unsettled(report: StatusReport, folder: Path) -> str:
    """The callbacks that settle nothing: devices with another status, and messages about no known device."""
    lines = [""]
    if report.undecided:
        lines.append("Callbacks that report neither success nor failure:")
        lines += [
            f"  {counted(devices, 'device')}: {printable(reported)}"
            for reported, devices in report.undecided.items()
        ]
    if report.unjudged:
        lines.append(f"{counted(len(report.unjudged), 'message')} could not be judged:")
        for message in report.unjudged[:UNJUDGED_SHOWN]:
            fault = " ".join(filter(None, (message.error_code, message.error_message)))
            at, request_id = time_on_terminal(message.received_at), printable(message.request_id)
            told = f" ({printable(fault)})" if fault else ""
            lines.append(f"  {at}, request {request_id}: {message.reason}{told}")
        if len(report.unjudged) > UNJUDGED_SHOWN:
            lines.append(
                f"  and {counted(len(report.unjudged) - UNJUDGED_SHOWN, 'more message')}: --json shows all"
            )
        lines.append("  The messages as they came: batchlic callbacks unjudged")
    lines.append(f"  See {folder}/outcomes.parquet")
    return "\n".join(lines)


def describe_unjudged(messages: Sequence[UnjudgedCallback]) -> str:
    """The stored messages that settle nothing by themselves, two lines a message."""
    return "\n".join(
        line
        for message in messages
        for line in (
            "  ".join(
                (
                    time_on_terminal(message.received_at),
                    f"request {printable(message.request_id)}",
                    printable(message.reason),
                )
            ),
            f"  {printable(message.raw)}",
        )
    )


def describe_verification(verification: Verification, folder: Path) -> str:
    """The differences between a run's files and its journal, or that there are none."""
    if verification.findings:
        lines = [f"{folder}: these files have changed since the run:"]
        return "\n".join(
            [*lines, *(f"  {found.file}: {printable(found.what)}" for found in verification.findings)]
        )
    head = f"; the head of the chain is {verification.head}" if verification.head else ""
    agreement = f"{folder}: journal, plan, audit, results, rejects and summary agree{head}"
    notes = (f"  not compared: {note.file} {printable(note.what)}" for note in verification.notes)
    return "\n".join([agreement, *notes])


def describe_limits(limits: LimitsInForce) -> str:
    """The limits of a session at work, and who changed them."""
    bounds = limits.bounds
    rates = [rate for rate in (limits.fixed_rate, bounds.max_rate) if rate is not None]
    each = " for each account" if limits.scope == "account" else ""
    parts = [
        "paused" if bounds.is_paused else "",
        f"at most {min(rates):,.6g} requests per second{each}" if rates else "",
        f"at most {counted(bounds.max_concurrency, 'request')} in flight",
        f"headroom {bounds.headroom}" if as_share(bounds.headroom) else "",
    ]
    at = time_on_terminal(limits.changed_at) if limits.changed_at else ""
    changed = f" (changed by {printable(limits.changed_by)}, {at})" if limits.changed_by else ""
    return f"Limits: {', '.join(filter(None, parts))}{changed}"


def describe_history(device: str, events: Sequence[HistoryEvent]) -> str:
    """The history of a device, one line per event."""
    if not events:
        return f"{printable(device)}: no run in this folder has planned or rejected this device"
    return "\n".join([printable(device), *map(_event_line, events)])


def _event_line(event: HistoryEvent) -> str:
    match event.event:
        case "planned":
            excluded = f", {event.outcome} according to the ledger" if event.outcome else ""
            details = f"to {event.action} at {event.carrier}, row {event.row} of {event.source}{excluded}"
        case "rejected":
            details = (
                f"row {event.row} of {event.source}, for {event.carrier}: {event.reason}, {event.message}"
            )
        case "sent":
            details = (
                f"{event.action} at {event.carrier}, request {event.x_request_id}, attempt {event.attempt}"
            )
        case "settled":
            details = f"as {event.outcome} by {event.settled_by}: {event.reason}"
        case _:
            parts = (event.outcome, event.request_id, event.error_code, event.error_message)
            details = ", ".join(filter(None, parts))
    details = ", ".join([details, *(f"{name} {cell}" for name, cell in event.kept.items())])
    license = " ".join(filter(None, (event.account_name, event.sku_number))) or "no account"
    at = time_on_terminal(event.at)
    return f"  {at}  {event.event:11}  {event.run_dir}  {printable(license)}  {printable(details)}"


def describe_counts(counts: Sequence[Count]) -> str:
    """The devices of a ledger by account, SKU and state."""
    lines = [
        f"{printable(count.account_name)}  {printable(count.sku_number)}  {count.assigned:,} assigned, "
        f"{count.unassigned:,} unassigned, {count.in_doubt:,} in doubt  ({printable(count.carrier)})"
        for count in counts
    ]
    return "\n".join(lines) or "The ledger has no devices."


def describe_store(state: StoreState) -> str:
    """The store in figures: server, schema, runs, and who holds a lease until when."""
    schema = state.schema_version or "no tables yet"
    needed = f"; this version of batchlic needs {state.needed_schema_version}"
    is_current = state.schema_version == state.needed_schema_version
    lines = [
        f"{printable(state.store)}: {'runs can use it' if not state.problems else 'runs cannot use it'}",
        f"  server  PostgreSQL {printable(state.server)}",
        f"  schema  {schema}{'' if is_current else needed}",
        f"  runs    {state.runs:,}",
        *(
            f"  lease   {printable(lease.of)}: {printable(lease.holder)}, until {lease.expires_at} "
            f"({lease.expires_in_s:.0f} s) unless it is renewed"
            for lease in state.leases
        ),
        *(f"  problem: {printable(problem)}" for problem in state.problems),
    ]
    return "\n".join(lines)


def describe_device(device: str, records: Sequence[Mapping[str, object]]) -> str:
    """The records of one device."""
    lines = [
        printable(
            f"{row['account_name']}  {row['sku_number']}  {row['state']} ({row['action']} {row['status']}) "
            f"by run {row['run_id']}, request {row['request_id'] or row['x_request_id'] or 'unknown'}, "
            f"{time_on_terminal(str(row['at'])) if row['at'] else 'time unknown'}"
        )
        for row in records
    ]
    return "\n".join(lines) or f"The ledger has no device {printable(device)}."


def describe_import(imported: Imported) -> str:
    """The devices of an import, and what it left out."""
    lines = [f"{counted(imported.devices, 'device')} imported"]
    lines += [f"  run {run_id} is in the ledger already: left as it is" for run_id in imported.known_runs]
    lines += [f"  run {run_id} ran against a sandbox: left out" for run_id in imported.rehearsals]
    lines += [
        f"  run {run_id} did not end: the next run records it from its journal"
        for run_id in imported.unfinished_runs
    ]
    lines += [f"  note: {printable(note)}" for note in imported.notes]
    if imported.rejected:
        rejected = sum(imported.rejected.values())
        lines.append(f"  {counted(rejected, 'row')} rejected: {_listed(imported.rejected)}")
    return "\n".join(lines)


def describe_forgotten(forgotten: Forgotten) -> str:
    """What the ledger keeps of a run that was closed, and what is not known of it."""
    run = f"Run {printable(forgotten.run_id)}"
    kept = [
        f"  {counted(found.devices, 'device')} of account {printable(found.account_name)}, "
        f"SKU {printable(found.sku_number)}: the records stay"
        for found in forgotten.recorded
    ] or ["  It has no records of devices."]
    if not forgotten.was_open:
        return "\n".join([f"{run} was closed already: nothing has changed.", *kept])
    unknown = "  What it sent and did not record is unknown now: other runs may send those devices again."
    return "\n".join([f"{run} at {printable(forgotten.carrier)} is closed.", *kept, unknown])


def describe_subscriptions(subscriptions: Sequence[Subscription]) -> str:
    """License counts as a table, for a terminal."""
    head = ("SKU", "license", "purchased", "assigned", "available")
    rows = [
        (
            printable(subscription.sku_number),
            printable(subscription.license_type),
            *(
                "unknown" if number is None else f"{number:,}"
                for number in (
                    subscription.license_purchased,
                    subscription.license_assigned,
                    subscription.license_available,
                )
            ),
        )
        for subscription in subscriptions
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for sku, license, *numbers in (head, *rows):
        right = "  ".join(f"{number:>{width}}" for number, width in zip(numbers, widths[2:], strict=True))
        lines.append(f"{sku:{widths[0]}}  {license:{widths[1]}}  {right}")
    return "\n".join(lines)


class Line(NamedTuple):
    """One line of figures."""

    label: str
    number: int | None
    unit: str


def _with_parts(label: str, unit: str, counts: Mapping[str, int]) -> list[Line]:
    """A total with its parts below it, largest first; no lines without parts."""
    if not counts:
        return []
    parts = sorted(counts.items(), key=lambda item: -item[1])
    return [
        Line(label, sum(counts.values()), unit),
        *(Line("", count, f"  {name}") for name, count in parts),
    ]


def _aligned(lines: list[Line]) -> list[str]:
    numbers = ["" if line.number is None else f"{line.number:,}" for line in lines]
    width = max(map(len, numbers))
    return [
        f"  {line.label:10}{number:>{width}}  {line.unit}"
        for line, number in zip(lines, numbers, strict=True)
    ]


def headline(summary: Summary) -> str:
    """A run in one line: its job, how it ended or what it does, and its figures."""
    return f"{summary.job}, run {summary.run_id}: {_outcome(summary)}"


def _outcome(summary: Summary) -> str:
    """The run in one sentence: how it ended or what it does, and the figures."""
    figures = _figures(summary)
    if isinstance(summary, StatusReport) and summary.at_work:
        return f"{_activity(summary.at_work)}: {figures}"
    if summary.exit_code is None:
        return f"Interrupted (killed, or the machine stopped): {figures}"
    if stop := STOPS.get(ExitCode(summary.exit_code)):
        reason = summary.stopped_because or "devices are still pending"
        return f"{stop}: {printable(reason)}; {figures}"
    return f"Finished: {figures}"


def _activity(at_work: AtWork) -> str:
    speed = round(at_work.devices_per_second)
    left = "unknown" if at_work.seconds_left is None else duration(at_work.seconds_left)
    return (
        f"At work since {at_work.since} (pid {at_work.pid} on {printable(at_work.host)}), "
        f"{at_work.percent}% done, {counted(speed, 'device')} per second, ETA {left}"
    )


def _figures(summary: Summary) -> str:
    rejected = sum(summary.rejected.values())
    figures = [_statuses(summary.statuses), f"{counted(rejected, 'row')} rejected" if rejected else ""]
    return ", ".join(filter(None, figures)) or "nothing to do"


def _where(name: str, folder: Path) -> str:
    """Where the devices or rows of a status are. An object store has the files under other names."""
    if is_copy(folder):
        return f"batchlic export {RunFolder(folder).argument} --what {_SELECTIONS[name]}"
    return f"see {folder}/{_FILES[name]}"


def _next_steps(summary: Summary, folder: Path) -> list[str]:
    lines = [f"  Files: {folder}/"]
    is_at_work = False
    if isinstance(summary, StatusReport):
        is_at_work = summary.at_work is not None
    run = RunFolder(folder)
    if run.report.is_file() and not is_at_work:
        command = f"batchlic report {run.argument} --to report.html"
        lines.append(f"  Report: {command if is_copy(folder) else run.report}")
    if isinstance(summary, StatusReport):
        if summary.limits is not None and summary.limits.changed_by is not None:
            lines.append(f"  {describe_limits(summary.limits)}")
        lines += map(_related_line, summary.related)
        if summary.last_answer and not is_at_work:
            lines.append(_last_answer_line(summary.last_answer))
    trouble = {*summary.statuses, *(["rejected"] if summary.rejected else [])}
    if summary.unconfirmed:
        lines.append(f"  {_unconfirmed(summary.unconfirmed)}: batchlic reconcile {run.argument}")
    lines += [f"  {name}: {_where(name, folder)}" for name in _FILES if name in trouble]
    is_stopped = summary.exit_code in {ExitCode.STOPPED, ExitCode.CREDENTIALS, ExitCode.BUG, ExitCode.USAGE}
    is_resumable = bool(summary.statuses.get(DeviceStatus.PENDING)) or is_stopped
    has_advice = "batchlic resume " in (summary.stopped_because or "")  # with the folder
    if is_resumable and not is_at_work and not has_advice:
        lines.append(f"  Continue: {run.resuming(summary.carrier)}")
    return lines


_RELATIONS = {
    Relation.ROLLED_BACK_BY: "Rolled back by",
    Relation.ROLLBACK_OF: "Rollback of",
    Relation.RETRIED_BY: "Retried by",
    Relation.RETRY_OF: "Retry of",
    Relation.FOLLOWED_BY: "Its files are the inventory of",
    Relation.FOLLOW_UP_OF: "Its inventory is from",
}


def _unconfirmed(devices: int) -> str:
    verb = "is" if devices == 1 else "are"
    return (
        f"{counted(devices, 'device')} {verb} accepted but not confirmed, and the job requires confirmation"
    )


def _related_line(run: RelatedRun) -> str:
    is_ended = run.exit_code is not None and run.statuses is not None
    end = f" (exit code {run.exit_code}: {_statuses(run.statuses or {})})" if is_ended else ""
    return f"  {_RELATIONS[run.relation]}: {run.action} run {printable(run.run_id)}{end}, {run.run_dir}/"


def _last_answer_line(answer: LastAnswer) -> str:
    """The last answer, with its status and words."""
    status = "no answer" if answer.http_status is None else f"HTTP {answer.http_status}"
    words = " ".join(filter(None, (answer.error_code, answer.error_message)))
    said = f", {printable(words)}" if words else ""
    return f"  Last answer: {time_on_terminal(answer.at)}, {status}, {answer.outcome}{said}"


def _statuses(statuses: Mapping[DeviceStatus, int]) -> str:
    figures = [f"{devices:,} {status.replace('_', ' ')}" for status, devices in statuses.items()]
    return ", ".join(figures)


def _listed(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count:,}" for name, count in ordered)
