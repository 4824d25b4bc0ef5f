"""The report of a run as HTML: a whole page, or its parts for another page.

Texts of inventories and of the carrier are hostile: Jinja2 escapes them for HTML, and `printable` shows
control characters, such as those that reverse the direction of writing. The page has no script, and its
policy forbids any.
"""

import shlex
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from batchlic.atomic import replacing
from batchlic.chunker import DeviceStatus
from batchlic.errors import ExitCode
from batchlic.figures import counted, duration, noun_for, time_on_terminal
from batchlic.journal import SANDBOX
from batchlic.logs import printable
from batchlic.writer.report.data import Interval, Report, Timeline, shown
from batchlic.writer.report.plots import Plots, PlotsMissing, draw, time_unit
from batchlic.writer.summary import STOPS

NO_PLOTS = Plots()

STATUS_ORDER = (
    DeviceStatus.CONFIRMED,
    DeviceStatus.ACCEPTED,
    DeviceStatus.SKIPPED,
    DeviceStatus.PENDING,
    DeviceStatus.IN_DOUBT,
    DeviceStatus.FAILED,
)

STATUS_MEANINGS = {
    DeviceStatus.CONFIRMED: "a callback of the carrier reported success",
    DeviceStatus.ACCEPTED: "the carrier accepted the request",
    DeviceStatus.SKIPPED: "already done, according to the ledger: nothing was sent",
    DeviceStatus.PENDING: "still to be sent",
    DeviceStatus.IN_DOUBT: "may have been executed: the answer was lost",
    DeviceStatus.FAILED: "the carrier refused it, or reported a failure",
}

_TEXT_SHOWN = 1000
"""Characters of a note, or of the reason of a stop, that the page shows."""

_TABLE_ROWS = 16
"""Most rows of the table that stands in for the plots over time."""


def write_report(path: Path, report: Report, *, with_plots: bool = True) -> None:
    """Write the report to a file that is whole or absent. Raises StoppedEarly if the disk fails."""
    page = draw_and_render(report) if with_plots else render(report)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def draw_and_render(report: Report) -> str:
    """The page with plots; if they can't be drawn, with a sentence that says how to get them."""
    try:
        return render(report, draw(report))
    except PlotsMissing as missing:
        return render(report, missing=missing)


def render(report: Report, plots: Plots = NO_PLOTS, *, missing: PlotsMissing | None = None) -> str:
    """The whole page. `missing` is why it has no plots although it should."""
    return _environment().get_template("page.html").render(_context(report, plots, missing))


def render_parts(report: Report, plots: Plots = NO_PLOTS) -> Markup:
    """The sections of the page, for another page that has `style()`."""
    parts = _environment().get_template("parts.html").render(_context(report, plots))
    return Markup(parts)  # noqa: S704 - rendered with autoescape


def style() -> str:
    """The style sheet of the sections."""
    return _environment().get_template("style.css").render()


def outcome(report: Report) -> str:
    """The outcome of the run in one sentence."""
    summary = report.summary
    figures = [_figure(status, report.devices(status)) for status in STATUS_ORDER if report.devices(status)]
    if rejected := sum(summary.rejected.values()):
        figures.append(f"{counted(rejected, 'row')} rejected")
    told = ", ".join(figures) or "nothing to do"
    if report.is_at_work:
        return f"At work: {told}"
    if summary.exit_code is None:
        return f"Interrupted: {told}"
    if stop := STOPS.get(ExitCode(summary.exit_code)):
        return f"{stop}: {told}"
    return f"Finished: {told}"


def tone(report: Report) -> str:
    """How the run stands: `good`, `mixed`, `bad`, or `open` for one at work."""
    if report.is_at_work:
        return "open"
    match report.summary.exit_code:
        case ExitCode.OK:
            return "good"
        case ExitCode.INCOMPLETE:
            return "mixed"
        case _:
            return "bad"


def _figure(status: DeviceStatus, devices: int) -> str:
    return f"{counted(devices, 'device')} {status.replace('_', ' ')}"


def _context(report: Report, plots: Plots, missing: PlotsMissing | None = None) -> dict[str, object]:
    statuses = [(status, report.devices(status)) for status in STATUS_ORDER if report.devices(status)]
    return {
        "report": report,
        "summary": report.summary,
        "plots": plots,
        "missing": missing,
        "outcome": outcome(report),
        "tone": tone(report),
        "statuses": statuses,
        "segments": _segments(statuses),
        "commands": _Commands(report),
        "times": _times(report.timeline) if report.timeline else [],
        "unit": time_unit(report.timeline)[0] if report.timeline else "",
    }


class _Segment(NamedTuple):
    """A status in the bar of all devices; `x` and `width` are in thousandths of the bar."""

    status: DeviceStatus
    x: float
    width: float


def _segments(statuses: list[tuple[DeviceStatus, int]]) -> list[_Segment]:
    """The bar of all devices. Each status is wide enough to be seen, and what remains is divided."""
    total = sum(devices for _, devices in statuses)
    least, gap = 6.0, 3.0
    free = 1000 - least * len(statuses) - gap * (len(statuses) - 1)
    segments: list[_Segment] = []
    x = 0.0
    for status, devices in statuses:
        width = least + free * devices / total
        segments.append(_Segment(status, round(x, 2), round(width, 2)))
        x += width + gap
    return segments


class _Commands:
    """The commands for this run, ready to paste into a shell."""

    def __init__(self, report: Report) -> None:
        self._run = shlex.quote(report.run_dir)
        sandbox = " --sandbox" if report.summary.carrier == SANDBOX else ""
        consent = " --consent-lifetime" if report.doubts.is_lifetime else ""
        self.resume = f"batchlic resume {self._run}{sandbox}"
        self.reconcile = f"batchlic reconcile {self._run}"
        self.status = f"batchlic status {self._run}"
        self.report = f"batchlic report {self._run} --to report.html"
        self.rejects = f"batchlic export {self._run} --what rejects --to rejects.csv"
        self.failed = f"batchlic export {self._run} --what failed --to failed.csv"
        self.in_doubt = f"batchlic export {self._run} --what in_doubt --to in-doubt.csv"
        self.as_accepted = self._settle("accepted")
        self.as_failed = self._settle("failed")
        self.as_resend = self._settle(f"resend{consent}")

    def _settle(self, decision: str) -> str:
        return f"batchlic settle {self._run} --as {decision} --reason 'how you know'"


class _Time:
    """One row of the table over time: several intervals together."""

    def __init__(self, intervals: list[Interval], unit_s: float) -> None:
        self.start = intervals[0].start_s / unit_s
        self.devices_per_s = sum(one.devices_per_s for one in intervals) / len(intervals)
        self.requests_per_s = sum(one.requests_per_s for one in intervals) / len(intervals)
        self.throttled = sum(one.throttled for one in intervals)
        rates = [one.limiter_rate for one in intervals if one.limiter_rate is not None]
        self.rate = sum(rates) / len(rates) if rates else None


def _times(timeline: Timeline) -> list[_Time]:
    size = -(-len(timeline.intervals) // _TABLE_ROWS)
    _, unit_s = time_unit(timeline)
    starts = range(0, len(timeline.intervals), size)
    return [_Time(timeline.intervals[start : start + size], unit_s) for start in starts]


@cache
def _environment() -> Environment:
    return environment("batchlic.writer.report")


def environment(package: str) -> Environment:
    """The templates of a package, which escape all texts, with the filters of the report."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        number="{:,}".format,
        rate=_rate,
        cut=lambda text: shown(text, _TEXT_SHOWN),
        share=_share,
        signed=_signed,
        words=_words,
        time=time_on_terminal,
        duration=duration,
        counted=counted,
        noun=noun_for,
        with_code=_with_code,
        milliseconds=_milliseconds,
    )
    environment.globals.update(meanings=STATUS_MEANINGS)
    return environment


def _shown(value: object) -> object:
    """What an expression of a template shows: texts without control characters, whatever they are about."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _words(name: str) -> str:
    return name.replace("_", " ")


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _milliseconds(value: float) -> str:
    return f"{value:,.0f} ms" if value < 10_000 else f"{value / 1000:,.1f} s"


def _signed(number: int) -> str:
    return "0" if number == 0 else f"{number:+,}".replace("-", "\N{MINUS SIGN}")


def _share(part: int, whole: int) -> str:
    """A percentage that says 0% and 100% only of none and all."""
    if not part or not whole:
        return "0%"
    percent = 100 * part / whole
    return "100%" if part == whole else f"{min(99.9, max(0.1, percent)):.1f}%"


def _with_code(text: str) -> Markup:
    """A text of batchlic with the parts in backticks as code."""
    parts = [escape(part) for part in printable(text).split("`")]
    marked = [Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts)]
    return Markup("").join(marked)
