"""What a person reads: a run in a dozen lines. What inventories and carrier say is shown as data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from batchlic.carrier.messages import Subscription
from batchlic.chunker import DeviceStatus, Plan
from batchlic.errors import ExitCode
from batchlic.ledger.files import Count, Imported
from batchlic.runs.history import HistoryEvent
from batchlic.runs.verify import Verification
from batchlic.terminal import printable
from batchlic.writer.in_doubt import Doubt
from batchlic.writer.summary import Summary

_MEANINGS = {
    ExitCode.OK: "the carrier accepted every planned device",
    ExitCode.INCOMPLETE: "finished, but some devices failed, are in doubt, or were rejected",
    ExitCode.REFUSED: "refused",
    ExitCode.CREDENTIALS: "the carrier rejected the credentials",
    ExitCode.STOPPED: "stopped early",
}
DOUBTS_SHOWN = 10
"""Requests in doubt that a person is shown."""

_FILES = {"rejected": "rejects.parquet", "failed": "results.parquet", "in_doubt": "results.parquet"}


def describe(summary: Summary, folder: Path) -> str:
    """The run in figures, for a terminal."""
    lines = [
        Line("read", summary.rows_read, "rows from " + ", ".join(printable(s.name) for s in summary.sources))
    ]
    lines += [Line("", None, f"note: {printable(note)}") for note in summary.notes]
    lines += _with_parts("rejected", "rows", summary.rejected)
    lines.append(Line("planned", summary.planned, f"devices in {summary.batches:,} batches"))
    lines += [Line(status, devices, "devices") for status, devices in summary.statuses.items()]
    requests = {name: count for name, count in summary.requests.items() if count and name != "total"}
    lines += _with_parts("requests", "sent", requests)
    if summary.devices_per_second:
        lines.append(Line("speed", round(summary.devices_per_second), "devices a second"))
    return "\n".join([_headline(summary), "", *_aligned(lines), "", *_what_now(summary, folder)])


def describe_plan(plan: Plan, folder: Path | None) -> str:
    """A plan in figures, for a terminal."""
    names = ", ".join(printable(source.name) for source in plan.sources)
    lines = [f"{plan.rows_read:,} rows read from {names}"]
    lines += [f"  note: {printable(note)}" for note in plan.notes]
    if plan.rejected:
        lines.append(f"  {_count(sum(plan.rejected.values()), 'row')} rejected: {_listed(plan.rejected)}")
    lines += [
        f"  {_count(devices, 'device')} {status} by the ledger" for status, devices in plan.excluded.items()
    ]
    lines += [
        f"  {_count(group.devices, 'device')} in {group.batches:,} requests: "
        f"account {printable(group.account_name)}, SKU {printable(group.sku_number)}"
        for group in plan.groups
    ]
    lines.append(f"Files: {folder}/" if folder else "Dry run: nothing was sent, nothing is left.")
    return "\n".join(lines)


def describe_doubts(doubts: Sequence[Doubt], folder: Path) -> str:
    """What is in doubt, request by request, and how to settle it."""
    lines = ["", "In doubt, because the answer was lost:"]
    for doubt in doubts[:DOUBTS_SHOWN]:
        some = ", ".join(doubt.devices[:2]) + (" …" if len(doubt.devices) > 2 else "")
        lines.append(
            f"  batch {doubt.batch_id}, {_count(len(doubt.devices), 'device')} ({some}), "
            f"{doubt.sku_number}, sent {doubt.sent_at}: {printable(doubt.reason)}"
        )
    if len(doubts) > DOUBTS_SHOWN:
        lines.append(f"  and {len(doubts) - DOUBTS_SHOWN:,} requests more: --json has them all")
    lines.append(f"  Settle: batchlic settle {folder} --as accepted|failed|resend --reason …")
    return "\n".join(lines)


def describe_verification(verification: Verification, folder: Path) -> str:
    """What holding a run's files against each other has shown."""
    if verification.findings:
        lines = [f"{folder}: not as the run left it"]
        return "\n".join(
            [*lines, *(f"  {found.file}: {printable(found.what)}" for found in verification.findings)]
        )
    head = f"; the head of the chain is {verification.head}" if verification.head else ""
    return f"{folder}: journal, plan, audit, results, rejects and summary agree{head}"


def describe_history(device: str, events: Sequence[HistoryEvent]) -> str:
    """One device's story, a line an event."""
    if not events:
        return f"{printable(device)}: no run has planned it"
    return "\n".join([printable(device), *map(_told, events)])


def _told(event: HistoryEvent) -> str:
    match event.event:
        case "planned":
            held = f", {event.outcome} by the ledger" if event.outcome else ""
            words = f"to {event.action}, row {event.row} of {event.source}{held}"
        case "sent":
            words = f"{event.action}, request {event.x_request_id}, attempt {event.attempt}"
        case "settled":
            words = f"as {event.outcome} by {event.settled_by}: {event.reason}"
        case _:
            details = (event.request_id, event.error_code, event.error_message)
            words = ", ".join([str(event.outcome), *filter(None, details)])
    license = f"{event.account_name} {event.sku_number}"
    return f"  {event.at}  {event.event:11}  {event.run_dir}  {license}  {printable(words)}"


def describe_counts(counts: Sequence[Count]) -> str:
    """What the ledger knows, in figures."""
    lines = [
        f"{printable(count.account_name)}  {printable(count.sku_number)}  {count.assigned:,} assigned, "
        f"{count.unassigned:,} unassigned, {count.in_doubt:,} in doubt  ({printable(count.carrier)})"
        for count in counts
    ]
    return "\n".join(lines) or "The ledger knows of no device."


def describe_device(device: str, known: Sequence[Mapping[str, object]]) -> str:
    """What the ledger knows of one device."""
    lines = [
        printable(
            f"{row['account_name']}  {row['sku_number']}  {row['state']} ({row['action']} {row['status']}) "
            f"by run {row['run_id']}, request {row['request_id'] or row['x_request_id'] or 'unknown'}, "
            f"{row['at'] or 'time unknown'}"
        )
        for row in known
    ]
    return "\n".join(lines) or f"The ledger knows of no device {printable(device)}."


def describe_import(imported: Imported) -> str:
    """What became of an import."""
    lines = [f"{_count(imported.devices, 'device')} taken in"]
    lines += [f"  run {run_id} is known from itself, and was left as it is" for run_id in imported.known_runs]
    lines += [f"  run {run_id} was against an embedded sandbox: left out" for run_id in imported.rehearsals]
    if imported.rejected:
        rejected = sum(imported.rejected.values())
        lines.append(f"  {_count(rejected, 'row')} rejected: {_listed(imported.rejected)}")
    return "\n".join(lines)


def describe_subscriptions(found: Sequence[Subscription]) -> str:
    """License counts as a table, for a terminal."""
    head = ("SKU", "license", "purchased", "assigned", "available")
    rows = [
        (
            printable(one.sku_number),
            printable(one.license_type),
            *(f"{n:,}" for n in (one.license_purchased, one.license_assigned, one.license_available)),
        )
        for one in found
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for sku, license, *numbers in (head, *rows):
        right = "  ".join(f"{number:>{width}}" for number, width in zip(numbers, widths[2:], strict=True))
        lines.append(f"{sku:{widths[0]}}  {license:{widths[1]}}  {right}")
    return "\n".join(lines)


class Line(NamedTuple):
    """A row of figures."""

    label: str
    number: int | None
    words: str


def _with_parts(label: str, words: str, counts: Mapping[str, int]) -> list[Line]:
    """A total and, below it, what it is made of, largest first; nothing where it is 0."""
    if not counts:
        return []
    parts = sorted(counts.items(), key=lambda item: -item[1])
    return [
        Line(label, sum(counts.values()), words),
        *(Line("", count, f"  {name}") for name, count in parts),
    ]


def _aligned(lines: list[Line]) -> list[str]:
    numbers = ["" if line.number is None else f"{line.number:,}" for line in lines]
    width = max(map(len, numbers))
    return [
        f"  {line.label:10}{number:>{width}}  {line.words}"
        for line, number in zip(lines, numbers, strict=True)
    ]


def _headline(summary: Summary) -> str:
    meaning = _MEANINGS.get(ExitCode(summary.exit_code), "") if summary.exit_code is not None else "not ended"
    because = f": {printable(summary.stopped_because)}" if summary.stopped_because else ""
    return f"{summary.job}, run {summary.run_id}: {meaning}{because}"


def _what_now(summary: Summary, folder: Path) -> list[str]:
    lines = [f"  Files: {folder}/"]
    trouble = {*summary.statuses, *(["rejected"] if summary.rejected else [])}
    lines += [f"  {name}: see {folder}/{file}" for name, file in _FILES.items() if name in trouble]
    if summary.statuses.get(DeviceStatus.PENDING) or summary.exit_code in {
        ExitCode.STOPPED,
        ExitCode.CREDENTIALS,
    }:
        lines.append(f"  Go on: batchlic resume {folder}")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _listed(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count:,}" for name, count in ordered)
