"""The text of a notification. What comes from carrier and inventories is data: one line, and harmless."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from batchlic.chunker import DeviceStatus
from batchlic.errors import ExitCode
from batchlic.events import PlanReady, RunEnded, RunStarted
from batchlic.figures import counted, noun_for
from batchlic.logs import masked, printable
from batchlic.monitoring.alerts.troubles import Kind, News, Troubles
from batchlic.objectstore.addresses import is_remote

MAX_REASON = 500
"""Most characters of a reason."""
MAX_LIST = 5
"""Most reasons for rejects that are named."""
REPORT = "report.html"

_ENDS = {
    ExitCode.OK: ("", "The run finished"),
    ExitCode.BUG: ("stopped by an error", "An error stopped the run"),
    ExitCode.USAGE: ("could not run", "The job could not run"),
    ExitCode.INCOMPLETE: ("", "The run finished, but not everything went well"),
    ExitCode.REFUSED: ("refused", "The run was refused"),
    ExitCode.CREDENTIALS: ("credentials rejected", "The carrier rejected the credentials"),
    ExitCode.STOPPED: ("stopped early", "The run stopped early"),
}
"""How a run ended, for a headline and as a sentence."""
_OVER = {
    Kind.FAILURE: "it ran to its end and no device failed",
    Kind.DOUBT: "nothing is in doubt",
    Kind.REJECTS: "no more rows are rejected than the job tolerates",
}
_MENTION = re.compile(r"@(?=everyone|here|channel|all\b)", re.IGNORECASE)


@dataclass(frozen=True)
class Origin:
    """Where messages come from."""

    job: str
    host: str
    command: str
    """The command line that does the same again."""
    secrets: Sequence[str] = ()
    """Texts that no message may show (promise F)."""
    is_rehearsal: bool = False


class Begun(NamedTuple):
    """A run that began. Before it has a plan, nothing of it can be resumed."""

    started: RunStarted
    plan: PlanReady | None = None

    @property
    def folder(self) -> str:
        """The run's folder: an absolute path, or an address in an object store."""
        folder = self.started.folder
        return folder if is_remote(folder) else str(Path(folder).absolute())

    @property
    def earlier_doubts(self) -> int:
        """The devices that are in doubt since an earlier run, where they can be settled."""
        return self.plan.excluded.get(DeviceStatus.IN_DOUBT, 0) if self.plan is not None else 0


class Message(NamedTuple):
    """A message in plain text."""

    title: str
    body: str
    level: Literal["success", "warning", "failure"]


def compose(news: News, troubles: Troubles, ended: RunEnded, begun: Begun | None, origin: Origin) -> Message:
    """The message about the end of a run. `begun` is None if the run was refused before it began."""
    rehearsal = "Rehearsal: " if origin.is_rehearsal else ""
    lines = [
        sentence(ended, origin.secrets),
        *_all_clear(news),
        *figures(ended),
        "",
        *_places(begun, origin),
    ]
    lines += [f"Next: {command}" for command in next_commands(troubles, ended, begun, origin)]
    title = f"{rehearsal}{origin.job}: {_headline(news, ended, troubles)}"
    body = "\n".join(printable(masked(line, origin.secrets)) for line in lines)
    level: Literal["warning", "failure"] = "failure" if Kind.FAILURE in troubles else "warning"
    return Message(masked(title, origin.secrets), body, level if troubles else "success")


def sentence(ended: RunEnded, secrets: Sequence[str]) -> str:
    """What happened, in one sentence."""
    _, end = _ENDS[ExitCode(ended.exit_code)]
    return f"{end}: {as_data(ended.reason, secrets)}" if ended.reason else f"{end}."


def as_data(text: str, secrets: Sequence[str] = ()) -> str:
    """A text from outside, on one line of limited length, without secrets, markup and mentions."""
    line = printable(" ".join(masked(text, secrets).split()))
    line = _MENTION.sub("@ ", line.replace("<", "(").replace(">", ")"))
    return line if len(line) <= MAX_REASON else f"{line[: MAX_REASON - 1]}…"


def figures(ended: RunEnded) -> list[str]:
    """The devices by status, the rejected rows and the throttled share, a line for each that there is."""
    lines = []
    if ended.statuses:
        by_status = ", ".join(f"{count:,} {_words(status)}" for status, count in ended.statuses.items())
        lines.append(f"Devices: {by_status}")
    if rejected := sum(ended.rejected.values()):
        rows = counted(ended.rows_read, "row")
        lines.append(f"Rejected: {rejected:,} of {rows} ({_largest(ended.rejected)})")
    if ended.requests:
        share = ended.throttled / ended.requests
        lines.append(f"Requests: {ended.requests:,}, {share:.1%} throttled")
    return lines


def next_commands(troubles: Troubles, ended: RunEnded, begun: Begun | None, origin: Origin) -> list[str]:
    """The commands that help now, the most urgent first."""
    is_over = ended.exit_code in {ExitCode.OK, ExitCode.INCOMPLETE}
    if begun is None or begun.plan is None:
        return [] if is_over else [f"{origin.command}   (after the cause is fixed)"]
    folder = shlex.quote(begun.folder)
    commands = []
    if not is_over:
        commands.append(f"batchlic resume {folder}{' --sandbox' if origin.is_rehearsal else ''}")
    if (doubt := troubles.get(Kind.DOUBT)) is not None:
        if doubt.cause == "confirmations":
            commands.append(f"batchlic reconcile {folder}")
        if ended.statuses.get(DeviceStatus.IN_DOUBT, 0) > begun.earlier_doubts:
            commands.append(f"batchlic status {folder}")
            commands.append(f"batchlic settle {folder} --as accepted|failed|resend --reason …")
        if begun.earlier_doubts:
            commands.append(f"batchlic export {folder} --what in_doubt --to in-doubt.csv")
            commands.append(
                "batchlic ledger show --device DEVICE   (names the earlier run: resume or settle that one)"
            )
    if ended.statuses.get(DeviceStatus.FAILED):
        commands.append(f"batchlic export {folder} --what failed --to failed.csv")
    if Kind.REJECTS in troubles:
        commands.append(f"batchlic export {folder} --what rejects --to rejects.csv")
    return commands


def _headline(news: News, ended: RunEnded, troubles: Troubles) -> str:
    end, _ = _ENDS[ExitCode(ended.exit_code)]
    parts = [end] if end else []
    if failed := ended.statuses.get(DeviceStatus.FAILED):
        parts.append(f"{counted(failed, 'device')} failed")
    if (doubt := troubles.get(Kind.DOUBT)) is not None:
        state = "not confirmed" if doubt.cause == "confirmations" else "in doubt"
        parts.append(f"{counted(doubt.count, 'device')} {state}")
    if (rejects := troubles.get(Kind.REJECTS)) is not None:
        parts.append(f"{counted(rejects.count, 'row')} rejected")
    if not parts:
        return "recovered"
    beginning = "recovered in part; " if not news.kinds else ""
    return f"{beginning}{', '.join(parts)} (exit {int(ended.exit_code)})"


def _all_clear(news: News) -> list[str]:
    over = [text for kind, text in _OVER.items() if kind in news.over]
    return [f"Since the last message: {', '.join(over)}."] if over else []


def _places(begun: Begun | None, origin: Origin) -> list[str]:
    if begun is None:
        return [f"Host: {origin.host}"]
    started, folder = begun.started, begun.folder
    lines = [f"Run: {started.run_id} at {as_data(started.carrier, origin.secrets)}, on {origin.host}"]
    if begun.plan is None:
        return lines
    lines.append(f"Folder: {folder}")
    if is_remote(folder):
        lines.append(f"Report: batchlic report {shlex.quote(folder)} --to {REPORT}")
    elif os.path.isfile(Path(folder, REPORT)):  # noqa: PTH113 - no error without access
        lines.append(f"Report: {Path(folder, REPORT)}")
    return lines


def _largest(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    named = [f"{as_data(name)} {count:,}" for name, count in ordered[:MAX_LIST]]
    rest = len(ordered) - MAX_LIST
    return ", ".join([*named, f"{rest} more {noun_for(rest, 'reason')}"] if rest > 0 else named)


def _words(status: DeviceStatus) -> str:
    return status.replace("_", " ")
