"""What a person reads: a run in a dozen lines. What inventories and carrier say is shown as data."""

from collections.abc import Mapping
from pathlib import Path

from batchlic.chunker import Plan
from batchlic.errors import ExitCode
from batchlic.writer.summary import Summary

_MEANINGS = {
    ExitCode.OK: "every planned device is licensed as asked",
    ExitCode.INCOMPLETE: "finished, but some devices failed, are in doubt, or were rejected",
    ExitCode.CREDENTIALS: "the carrier rejected the credentials",
    ExitCode.STOPPED: "stopped early",
}
_FILES = {"rejected": "rejects.parquet", "failed": "results.parquet", "in_doubt": "results.parquet"}


def describe(summary: Summary, folder: Path) -> str:
    """The run in figures, for a terminal."""
    lines = [("read", f"{summary.rows_read:,} rows", ", ".join(printable(s.name) for s in summary.sources))]
    lines += [("", "", f"note: {printable(note)}") for note in summary.notes]
    if summary.rejected:
        lines.append(("rejected", _count(sum(summary.rejected.values()), "row"), _listed(summary.rejected)))
    lines.append(("planned", _count(summary.planned, "device"), f"{summary.batches:,} batches"))
    lines += [(status, _count(devices, "device"), "") for status, devices in summary.statuses.items()]
    requests = {name: count for name, count in summary.requests.items() if count and name != "total"}
    lines.append(("requests", f"{summary.requests['total']:,}", _listed(requests)))
    if summary.devices_per_second:
        lines.append(("speed", f"{summary.devices_per_second:,.0f} devices/s", ""))
    width = max(len(figure) for _, figure, _ in lines)
    table = [f"  {name:10}{figure:>{width}}  {rest}".rstrip() for name, figure, rest in lines]
    return "\n".join([_headline(summary), "", *table, "", *_what_now(summary, folder)])


def describe_plan(plan: Plan, folder: Path | None) -> str:
    """A plan in figures, for a terminal."""
    names = ", ".join(printable(source.name) for source in plan.sources)
    lines = [f"{plan.rows_read:,} rows read from {names}"]
    lines += [f"  note: {printable(note)}" for note in plan.notes]
    if plan.rejected:
        lines.append(f"  {_count(sum(plan.rejected.values()), 'row')} rejected: {_listed(plan.rejected)}")
    lines += [
        f"  {_count(group.devices, 'device')} in {group.batches:,} requests: "
        f"account {group.account_name}, SKU {group.sku_number}"
        for group in plan.groups
    ]
    lines.append(f"Files: {folder}/" if folder else "Dry run: nothing was sent, nothing is left.")
    return "\n".join(lines)


def printable(text: str) -> str:
    """Text from outside without control characters, which could rewrite the terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _headline(summary: Summary) -> str:
    meaning = _MEANINGS.get(ExitCode(summary.exit_code), "") if summary.exit_code is not None else "not ended"
    because = f": {printable(summary.stopped_because)}" if summary.stopped_because else ""
    return f"{summary.job}, run {summary.run_id}: {meaning}{because}"


def _what_now(summary: Summary, folder: Path) -> list[str]:
    lines = [f"  Files: {folder}/"]
    trouble = {*summary.statuses, *(["rejected"] if summary.rejected else [])}
    lines += [f"  {name}: see {folder}/{file}" for name, file in _FILES.items() if name in trouble]
    if summary.statuses.get("pending") or summary.exit_code in {ExitCode.STOPPED, ExitCode.CREDENTIALS}:
        lines.append(f"  Go on: batchlic resume {folder}")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _listed(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count:,}" for name, count in ordered)
