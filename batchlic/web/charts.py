"""The shapes of small drawings, for SVG in templates: numbers only, never text of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from batchlic.errors import ExitCode
from batchlic.runs.listing import UNKNOWN, ListedRun, RunState
from batchlic.web.catalog import Entry, Job


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height of a drawing."""

    width: int
    height: int


FLOW = Size(720, 120)
SPARKLINE = Size(240, 36)

NIGHTS = 30
_GAP = 2
_LEAST = 3.0


def line(values: Sequence[float], size: Size) -> str:
    """The points of a line through the values."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in _points(values, size))


def area(values: Sequence[float], size: Size) -> str:
    """The points of the area below that line."""
    return f"0,{size.height} {line(values, size)} {size.width},{size.height}"


def _points(values: Sequence[float], size: Size) -> list[tuple[float, float]]:
    top = max(values, default=0.0) or 1.0
    last = max(1, len(values) - 1)
    usable = size.height - 2
    return [(size.width * at / last, size.height - usable * one / top) for at, one in enumerate(values)]


@dataclass(frozen=True, slots=True)
class Bar:
    """One run in a sparkline. Its tone is a class of the style sheet."""

    entry: Entry
    tone: str
    x: float
    y: float
    width: float
    height: float


def tone(run: ListedRun) -> str:
    """How a run stands: good, mixed, bad, open (at work), planned or unknown."""
    if run.state in UNKNOWN:
        return "unknown"
    if run.state is RunState.AT_WORK:
        return "open"
    if run.state is RunState.PLANNED:
        return "planned"
    match run.exit_code:
        case ExitCode.OK:
            return "good"
        case ExitCode.INCOMPLETE:
            return "mixed"
        case _:
            return "bad"


def sparkline(job: Job) -> list[Bar]:
    """A bar for each of the last runs, the newest at the right; as high as it has devices."""
    most = max((entry.run.planned or 0 for entry in job.runs), default=0) or 1
    step = SPARKLINE.width / NIGHTS
    first = NIGHTS - len(job.runs)
    bars = []
    for at, entry in enumerate(job.runs, start=first):
        share = (entry.run.planned or 0) / most
        height = _LEAST + (SPARKLINE.height - _LEAST) * share
        bars.append(
            Bar(
                entry,
                tone(entry.run),
                x=round(at * step, 2),
                y=round(SPARKLINE.height - height, 2),
                width=step - _GAP,
                height=round(height, 2),
            )
        )
    return bars


_TONES = {
    "good": "without failures",
    "mixed": "with failures, devices in doubt or rejects",
    "bad": "stopped early or interrupted",
    "open": "at work",
    "planned": "planned",
    "unknown": "unreadable",
}


def in_words(bars: Sequence[Bar]) -> str:
    """What a sparkline shows."""
    counts = {name: sum(bar.tone == name for bar in bars) for name in _TONES}
    told = ", ".join(f"{count} {_TONES[name]}" for name, count in counts.items() if count)
    return f"The last {len(bars)} runs: {told}" if len(bars) != 1 else f"One run: {told}"
