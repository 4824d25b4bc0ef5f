"""What is known of one device: its history in the runs, and the records of the ledger."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from batchlic.errors import BatchlicError
from batchlic.ledger.files import find_device, inspect_existing
from batchlic.runs.history import HistoryEvent, found_history
from batchlic.web.catalog import Entry

MAX_LENGTH = 64
"""Characters of an IMEI or ICCID, or of a rejected cell, that can be searched for."""

_SEPARATORS = re.compile(r"[\s./-]+")

_EVENTS = {
    "planned": "Planned",
    "rejected": "Rejected",
    "sent": "Request sent",
    "answered": "Answered",
    "taken_back": "Taken back",
    "settled": "Decided",
    "called_back": "Callback",
}


@dataclass(frozen=True, slots=True)
class RunEvents:
    """The events of a device in one run. `entry` is None if the run has changed its place meanwhile."""

    run_dir: str
    run_id: str
    entry: Entry | None
    events: list[HistoryEvent]


@dataclass(frozen=True, slots=True)
class Device:
    """What is known of one device."""

    device: str
    runs: list[RunEvents]
    """The newest run first."""
    problems: list[str]
    """Why some runs can't be searched."""
    records: list[dict[str, object]]
    """Records of the ledger (keys: batchlic.ledger.files.EXPORT)."""
    ledger_problem: str | None
    """Why the ledger can't be searched."""


def cleaned(given: str) -> str:
    """An IMEI or ICCID as it is planned: without separators if nothing but digits is left."""
    text = given.strip()
    digits = _SEPARATORS.sub("", text)
    return digits if digits.isascii() and digits.isdigit() else text


def look_up(device: str, entries: Sequence[Entry], ledger: Path | str) -> Device:
    """Search the runs and the ledger. What can't be read is part of the result."""
    history = found_history(device, [entry.folder for entry in entries if entry.folder is not None])
    closed = [entry.run.problem or entry.run.run_dir for entry in entries if entry.folder is None]
    by_dir = {entry.run.run_dir: entry for entry in entries}
    in_order = sorted(history.events, key=lambda event: event.run_dir)
    runs = [
        RunEvents(run_dir, (found := list(events))[0].run_id, by_dir.get(run_dir), found)
        for run_dir, events in groupby(in_order, key=lambda event: event.run_dir)
    ]
    runs.sort(key=lambda one: one.events[0].at, reverse=True)
    records: list[dict[str, object]] = []
    problem = None
    try:
        with inspect_existing(ledger) as opened:
            records = find_device(opened, device)
    except (BatchlicError, OSError) as error:
        problem = str(error)
    return Device(device, runs, [*history.problems, *closed], records, problem)


def title_of(event: HistoryEvent) -> str:
    """The event in a word or two."""
    return _EVENTS.get(event.event, event.event)


def details_of(event: HistoryEvent) -> list[tuple[str, str]]:
    """What else the event says, by name."""
    place = None if event.source is None else f"row {event.row:,} of {event.source}"
    answer = " ".join(
        str(part) for part in (event.http_status and f"HTTP {event.http_status}", event.error_code) if part
    )
    pairs = {
        "outcome": event.outcome,
        "where": place,
        "batch": None if event.batch_id is None else f"{event.batch_id}",
        "SKU": event.sku_number,
        "account": event.account_name,
        "attempt": None if event.attempt is None else f"{event.attempt}",
        "answer": answer or None,
        "message": event.message or event.error_message,
        "reason": event.reason,
        "by": event.settled_by,
        "X-Request-ID": event.x_request_id if event.event == "sent" else None,
        "requestId": event.request_id,
    }
    shown = pairs if event.event in {"planned", "rejected"} else pairs | {"SKU": None, "account": None}
    return [(name, value) for name, value in [*shown.items(), *event.kept.items()] if value]


def tone_of(event: HistoryEvent) -> str:
    """The status whose color suits the event, or `none`."""
    if event.event == "rejected":
        return "failed"
    known = {
        "accepted": "accepted",
        "confirmed": "confirmed",
        "failed": "failed",
        "refused": "failed",
        "ambiguous": "in_doubt",
        "in_doubt": "in_doubt",
        "skipped": "skipped",
        "none": "in_doubt",
        "throttled": "pending",
        "unavailable": "pending",
        "resend": "pending",
    }
    return known.get(event.outcome or "", "none")
