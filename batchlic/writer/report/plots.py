"""The plots of a report as SVG, drawn by Altair. They need the extra `batchlic[report]`.

Colors are variables of the page's style sheet, and fonts are those of the page, so that the plots suit a dark
page, a light one, and paper.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from batchlic.figures import counted
from batchlic.writer.report.data import Latency, Report, Timeline

if TYPE_CHECKING:
    import altair as alt

WIDTH, HEIGHT = 720, 160


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
    """There are no plots. `is_installed`: the libraries that draw them are there, but failed."""

    def __init__(self, *, is_installed: bool) -> None:
        super().__init__()
        self.is_installed = is_installed


def draw(report: Report) -> Plots:
    """The plots of a report. Raises PlotsMissing without Altair and vl-convert, or if they fail."""
    try:
        import altair as alt  # noqa: F401, PLC0415 - takes 0.4 s, and is an extra
        import vl_convert  # noqa: F401, PLC0415 - as above
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
    import altair as alt  # noqa: PLC0415 - as in `draw`

    fastest = max(interval.devices_per_s for interval in timeline.intervals)
    area = (
        alt.Chart(_rows(timeline))
        .mark_area(
            interpolate="step-after",
            color="var(--plot-area)",
            line={"color": "var(--plot-line)", "strokeWidth": 1.5},
        )
        .encode(x=_time(timeline), y=alt.Y("devices:Q", title="devices per second", axis=_few_ticks()))
    )
    words = f"Devices accepted per second over time, up to {fastest:,.0f} per second."
    return Plot(_svg(area.properties(width=WIDTH, height=HEIGHT)), words)


def _rate(timeline: Timeline) -> Plot:
    import altair as alt  # noqa: PLC0415 - as in `draw`

    throttled = sum(interval.throttled for interval in timeline.intervals)
    base = alt.Chart(_rows(timeline))
    x, middle = _time(timeline), _time(timeline, "middle")
    y = alt.Y("requests:Q", title="requests per second", axis=_few_ticks())
    answered = base.mark_line(interpolate="step-after", color="var(--plot-muted)", strokeWidth=1.25)
    limiter = base.transform_filter("isValid(datum.rate)").mark_line(color="var(--plot-line)", strokeWidth=2)
    refused = (
        base.transform_filter("datum.throttled > 0")
        .mark_tick(color="var(--failed)", thickness=2, height=9, yOffset=-7)
        .encode(x=middle, y=alt.value(0))
    )
    words = (
        "Requests per second over time: those that the carrier answered, and those that it let in during the "
        f"last 10 seconds. {counted(throttled, 'answer')} with HTTP 429, marked at the top."
    )
    lines = [answered.encode(x=x, y=y), limiter.encode(x=middle, y="rate:Q")]
    layers = alt.layer(*lines, *([refused] if throttled else []))
    return Plot(_svg(layers.properties(width=WIDTH, height=HEIGHT)), words)


def _latency(latency: Latency) -> Plot:
    import altair as alt  # noqa: PLC0415 - as in `draw`

    rows = [{"from": one.from_ms, "to": one.to_ms, "requests": one.requests} for one in latency.bins]
    scale = alt.Scale(type="log", nice=False)
    axis = alt.Axis(format="~s", grid=False)
    bars = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_bar(color="var(--plot-line)", opacity=0.75)
        .encode(
            x=alt.X("from:Q", bin="binned", scale=scale, title="milliseconds to the answer", axis=axis),
            x2="to:Q",
            y=alt.Y("requests:Q", title="requests", axis=_few_ticks()),
        )
    )
    median, slow = latency.percentiles["median"], latency.percentiles["99%"]
    words = f"Distribution of the time to an answer: half within {median:,.0f} ms, 99% within {slow:,.0f} ms."
    return Plot(_svg(bars.properties(width=WIDTH, height=HEIGHT)), words)


def _rows(timeline: Timeline) -> "alt.InlineData":
    import altair as alt  # noqa: PLC0415 - as in `draw`

    _, seconds = time_unit(timeline)
    rows: list[Any] = [
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
    return alt.InlineData(values=rows)


def _end(timeline: Timeline) -> float:
    _, seconds = time_unit(timeline)
    return len(timeline.intervals) * timeline.width_s / seconds


def _time(timeline: Timeline, field: str = "at") -> "alt.X":
    import altair as alt  # noqa: PLC0415 - as in `draw`

    unit, _ = time_unit(timeline)
    return alt.X(
        field,
        type="quantitative",
        title=f"{unit} since the first request",
        scale=alt.Scale(domain=[0, _end(timeline)], nice=False),
        axis=alt.Axis(grid=False, tickCount=8),
    )


def _few_ticks() -> "alt.Axis":
    import altair as alt  # noqa: PLC0415 - as in `draw`

    return alt.Axis(tickCount=4)


def _svg(chart: Any) -> str:  # noqa: ANN401 - a chart, or a chart of layers
    """The chart as SVG without a background, labels for single marks, or fonts of its own."""
    import vl_convert  # noqa: PLC0415 - as in `draw`

    styled = (
        chart.configure(font="inherit", aria=False, background="transparent", padding=2)
        .configure_view(stroke=None)
        .configure_axis(
            domain=False,
            gridColor="var(--line)",
            tickColor="var(--line)",
            labelColor="var(--muted)",
            titleColor="var(--muted)",
            titleFontWeight="normal",
            labelFontSize=11,
            titleFontSize=11,
        )
    )
    try:
        svg: str = vl_convert.vegalite_to_svg(styled.to_dict())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of vl-convert is not an Exception
        raise PlotsMissing(is_installed=True) from error
    return svg
