"""The plots of a report as SVG: specifications of Vega-Lite, drawn by vl-convert.

They need the extra `batchlic[report]`. https://vega.github.io/vega-lite/docs/spec.html

Colors are variables of the page's style sheet, and fonts are those of the page, so that the plots suit a dark
page, a light one, and paper.
"""

from typing import Any, NamedTuple, TypeAlias

from batchlic.figures import counted
from batchlic.writer.report.data import Latency, Report, Timeline

WIDTH, HEIGHT = 720, 160

Spec: TypeAlias = dict[str, Any]
"""A specification of Vega-Lite, or a part of one."""


class Plot(NamedTuple):
    """One plot, and what it shows in words."""

    svg: str
    alternative: str


class Plots(NamedTuple):
    """The plots of a report; None without an answer of the carrier."""

    throughput: Plot | None = None
    rate: Plot | None = None
    latency: Plot | None = None


class PlotsMissing(Exception):
    """There are no plots. `is_installed`: the library that draws them is there, but failed."""

    def __init__(self, *, is_installed: bool) -> None:
        super().__init__()
        self.is_installed = is_installed


def draw(report: Report) -> Plots:
    """The plots of a report. Raises PlotsMissing without vl-convert, or if it fails."""
    try:
        import vl_convert  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise PlotsMissing(is_installed=False) from error
    timeline, latency = report.timeline, report.latency
    has_course = timeline is not None and len(timeline.intervals) > 1
    return Plots(
        throughput=_throughput(timeline) if timeline and has_course else None,
        rate=_rate(timeline) if timeline and has_course else None,
        latency=_latency(latency) if latency and len(latency.bins) > 1 else None,
    )


def time_unit(timeline: Timeline) -> tuple[str, float]:
    """The unit for times of the timeline, and its seconds."""
    span = len(timeline.intervals) * timeline.width_s
    return ("seconds", 1) if span < 180 else ("minutes", 60) if span < 3 * 3600 else ("hours", 3600)


def _throughput(timeline: Timeline) -> Plot:
    fastest = max(interval.devices_per_s for interval in timeline.intervals)
    area = _mark(
        "area",
        interpolate="step-after",
        color="var(--plot-area)",
        line={"color": "var(--plot-line)", "strokeWidth": 1.5},
    )
    spec = area | {
        "data": _rows(timeline),
        "encoding": {"x": _time(timeline), "y": _amount("devices", "devices per second")},
    }
    words = f"Devices accepted per second over time, up to {fastest:,.0f} per second."
    return Plot(_svg(spec), words)


def _rate(timeline: Timeline) -> Plot:
    throttled = sum(interval.throttled for interval in timeline.intervals)
    x, middle = _time(timeline), _time(timeline, "middle")
    answered = _mark("line", interpolate="step-after", color="var(--plot-muted)", strokeWidth=1.25) | {
        "encoding": {"x": x, "y": _amount("requests", "requests per second")},
    }
    limiter = _mark("line", color="var(--plot-line)", strokeWidth=2) | {
        "transform": [{"filter": "isValid(datum.rate)"}],
        "encoding": {"x": middle, "y": {"field": "rate", "type": "quantitative"}},
    }
    refused = _mark("tick", color="var(--failed)", thickness=2, height=9, yOffset=-7) | {
        "transform": [{"filter": "datum.throttled > 0"}],
        "encoding": {"x": middle, "y": {"value": 0}},
    }
    words = (
        "Requests per second over time: those that the carrier answered, and those that it let in during the "
        f"last 10 seconds. {counted(throttled, 'answer')} with HTTP 429, marked at the top."
    )
    layers = [answered, limiter, *([refused] if throttled else [])]
    return Plot(_svg({"data": _rows(timeline), "layer": layers}), words)


def _latency(latency: Latency) -> Plot:
    rows = [{"from": one.from_ms, "to": one.to_ms, "requests": one.requests} for one in latency.bins]
    x = {
        "field": "from",
        "type": "quantitative",
        "bin": "binned",
        "title": "milliseconds to the answer",
        "scale": {"type": "log", "nice": False},
        "axis": {"format": "~s", "grid": False},
    }
    spec = _mark("bar", color="var(--plot-line)", opacity=0.75) | {
        "data": {"values": rows},
        "encoding": {"x": x, "x2": {"field": "to"}, "y": _amount("requests", "requests")},
    }
    median, slow = latency.percentiles["median"], latency.percentiles["99%"]
    words = f"Distribution of the time to an answer: half within {median:,.0f} ms, 99% within {slow:,.0f} ms."
    return Plot(_svg(spec), words)


def _mark(kind: str, **properties: Any) -> Spec:  # noqa: ANN401 - whatever Vega-Lite takes
    return {"mark": {"type": kind, **properties}}


def _rows(timeline: Timeline) -> Spec:
    _, seconds = time_unit(timeline)
    rows: list[Spec] = [
        {
            "at": interval.start_s / seconds,
            "middle": (interval.start_s + timeline.width_s / 2) / seconds,
            "devices": interval.devices_per_s,
            "requests": interval.requests_per_s,
            "rate": interval.limiter_rate,
            "throttled": interval.throttled,
        }
        for interval in timeline.intervals
    ]
    rows.append({**rows[-1], "at": _end(timeline), "rate": None, "throttled": 0})  # where the last step ends
    return {"values": rows}


def _end(timeline: Timeline) -> float:
    _, seconds = time_unit(timeline)
    return len(timeline.intervals) * timeline.width_s / seconds


def _time(timeline: Timeline, field: str = "at") -> Spec:
    unit, _ = time_unit(timeline)
    return {
        "field": field,
        "type": "quantitative",
        "title": f"{unit} since the first request",
        "scale": {"domain": [0, _end(timeline)], "nice": False},
        "axis": {"grid": False, "tickCount": 8},
    }


def _amount(field: str, title: str) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, "axis": {"tickCount": 4}}


_STYLE: Spec = {
    "font": "inherit",
    "aria": False,
    "background": "transparent",
    "padding": 2,
    "view": {"stroke": None},
    "axis": {
        "domain": False,
        "gridColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 11,
    },
}
"""No background, no labels for single marks, and no fonts of its own."""


def _svg(spec: Spec) -> str:
    import vl_convert  # noqa: PLC0415 - as in `draw`

    try:
        svg: str = vl_convert.vegalite_to_svg(spec | {"config": _STYLE, "width": WIDTH, "height": HEIGHT})
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of vl-convert is not an Exception
        raise PlotsMissing(is_installed=True) from error
    return svg
