"""`make plot-limiter`: what the limiter does under limits of each kind, as plots in docs/images/limiter/."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.benchmarks.limiter.engine import measure
from tests.benchmarks.limiter.hidden import Hidden, Hint, Part
from tests.benchmarks.limiter.peers import Batchlic

FOLDER = Path(__file__).parents[3] / "docs" / "images" / "limiter"
WIDTH, HEIGHT, MARGIN = 640, 200, 42
START = 0.3

_BUCKET = (Part("bucket", 200.0, burst=20),)
PLOTS: dict[str, tuple[str, Hidden, float]] = {
    "bucket": ("200/s token bucket that halves after 10 s", Hidden(_BUCKET, changes=((10.0, 0.5),)), 0.25),
    "window": ("200 requests a second, fixed window", Hidden((Part("fixed", 200.0, period_s=1.0),)), 0.25),
    "calls": ("10 requests at a time", Hidden((Part("calls", calls=10),)), 0.25),
    "spacing": ("20/s without a burst", Hidden((Part("bucket", 20.0, burst=1),), requests=600), 0.5),
    "careful": (
        "20/s token bucket, and each refusal tells everyone to wait 1 s",
        Hidden((Part("bucket", 20.0, burst=5),), hint=Hint.ROUNDED, requests=800),
        1.0,
    ),
    "penalty": (
        "20/s token bucket, and whoever is refused is shut out for 10 s, silently",
        Hidden((Part("bucket", 20.0, burst=20),), penalty_s=10.0),
        2.0,
    ),
    "nodes": (
        "4 nodes of 50/s each behind a balancer",
        Hidden((Part("bucket", 50.0, burst=10),), nodes=4, requests=6000),
        0.5,
    ),
    "latency": ("a carrier that slows down by 5 ms a call", Hidden((), growth_s=0.005, requests=2000), 0.25),
}
"""File name to title, hidden limit, and seconds that are averaged."""


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (title, hidden, bin_s) in PLOTS.items():
        (FOLDER / f"{name}.svg").write_text(plot(title, hidden, bin_s))
        print(FOLDER / f"{name}.svg")


def plot(title: str, hidden: Hidden, bin_s: float) -> str:
    """The rate that flows (blue), the hidden limit (gray), and refusals (red), over time, as SVG."""
    run = measure(hidden, Batchlic, start=START)
    lasts = max(run.admitted) - START
    bins = int(lasts / bin_s)
    counts = [0] * (bins + 1)
    for at in run.admitted:
        counts[int((at - START) / bin_s)] += 1
    flow = [((number + 0.5) * bin_s, count / bin_s) for number, count in enumerate(counts[:bins])]
    limit = _limit(hidden, lasts)
    top = 1.15 * max(rate for _, rate in [*flow, *limit])

    def place(point: tuple[float, float]) -> str:
        x = MARGIN + point[0] / lasts * (WIDTH - 2 * MARGIN)
        return f"{x:.1f},{HEIGHT - MARGIN - point[1] / top * (HEIGHT - 2 * MARGIN):.1f}"

    refusals = "".join(
        f'<path d="M{place((at, 0))}v6" stroke="#c62828"/>'
        for at in sorted({round(at - START, 1) for at in run.refusals})
        if at <= lasts
    )
    drawn_limit = _line(map(place, limit), "#888", dashes="4 3")
    drawn_flow = _line(map(place, flow), "#1565c0", dashes="none")
    base, right = HEIGHT - MARGIN, WIDTH - MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<text x="{MARGIN}" y="20">{title}: {run.share:.0%} of the ideal, {run.refused:.1%} refused</text>'
        f'<path d="M{MARGIN},{MARGIN}V{base}H{right}" fill="none" stroke="#444"/>'
        f'<text x="{MARGIN - 6}" y="{MARGIN + 4}" text-anchor="end">{top:.0f}/s</text>'
        f'<text x="{MARGIN - 6}" y="{base}" text-anchor="end">0</text>'
        f'<text x="{right}" y="{base + 24}" text-anchor="end">{lasts:.0f} s</text>'
        f"{drawn_limit}{drawn_flow}{refusals}</svg>\n"
    )


def _limit(hidden: Hidden, lasts: float) -> Sequence[tuple[float, float]]:
    """The hidden rate over time, in steps; empty where the limit is none on the rate."""
    part = hidden.parts[0] if hidden.parts else None
    if part is None:
        return []
    rate = hidden.nodes * part.rate if part.rate else part.calls / (hidden.latency_s + hidden.jitter_s / 2)
    points, factor = [(0.0, rate)], 1.0
    for at, by in hidden.changes:
        points += [(at, factor * rate), (at, by * rate)]
        factor = by
    return [*points, (lasts, factor * rate)]


def _line(points: Iterable[str], color: str, *, dashes: str) -> str:
    text = " ".join(points)
    return f'<polyline points="{text}" fill="none" stroke="{color}" stroke-dasharray="{dashes}"/>'


if __name__ == "__main__":
    main()
