"""Figures of the requests of a run for a report: throughput over time, latency, attempts a batch."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

import polars as pl

from batchlic.carrier.answers import Outcome
from batchlic.chunker import Step
from batchlic.figures import time_in_files
from batchlic.journal import Attempt
from batchlic.reader.streaming import Schema
from batchlic.writer.report.data import BatchAttempts, Interval, Latency, LatencyBin, Timeline

_REQUESTS: Schema = {
    "batch_id": pl.UInt32(),
    "step": pl.Categorical(),
    "device_count": pl.UInt16(),
    "started_at": pl.Int64(),
    "duration_ms": pl.Float32(),
    "outcome": pl.Enum([outcome.value for outcome in Outcome]),
    "http_status": pl.UInt16(),
    "pace_rps": pl.Float32(),
}
"""The columns of an attempt that a report reads: some 40 bytes a request."""

_ROWS_PER_FRAME = 50_000

MAX_INTERVALS = 80
"""Most intervals of the timeline. Each has the same length, a second or more."""

_LONGEST_PAUSE_S = 600
"""A longer time without an answer is left out of the timeline: the run was stopped, or waited for hours."""

_PERCENTILES = {"median": 0.5, "90%": 0.9, "95%": 0.95, "99%": 0.99, "longest": 1.0}
_BINS = 24

_ATTEMPTS = ((1, "1"), (2, "2"), (3, "3"), (4, "4"), (5, "5"), (10, "6 to 10"), (20, "11 to 20"))
_MORE = "more than 20"


def request_table(attempts: Iterable[Attempt]) -> pl.DataFrame:
    """The requests that left this machine (columns: _REQUESTS).

    An intent that is throttled without an HTTP status was never sent (promise J).
    """
    return pl.concat([pl.DataFrame(schema=_REQUESTS), *_frames(iter(attempts))])


def _frames(attempts: Iterator[Attempt]) -> Iterator[pl.DataFrame]:
    at = [Attempt._fields.index(name) for name in _REQUESTS]
    while rows := [[one[place] for place in at] for one in islice(attempts, _ROWS_PER_FRAME)]:
        frame = pl.DataFrame(rows, schema=_REQUESTS, orient="row")
        was_sent = (pl.col("outcome") != Outcome.THROTTLED.value) | pl.col("http_status").is_not_null()
        yield frame.filter(was_sent.fill_null(value=True))


def timeline(requests: pl.DataFrame) -> Timeline | None:
    """The answers over time; None without an answer."""
    answered = requests.lazy().filter(pl.col("duration_ms").is_not_null())
    at = (pl.col("started_at") + pl.col("duration_ms").cast(pl.Float64) * 1000).cast(pl.Int64).alias("at")
    answered = answered.with_columns(at).sort("at")
    wait_s = (pl.col("at").diff() / 1e6).fill_null(0)
    is_pause = wait_s > _LONGEST_PAUSE_S
    timed = answered.with_columns(
        second=pl.when(is_pause).then(0.0).otherwise(wait_s).cum_sum(), is_pause=is_pause
    ).collect()
    if timed.is_empty():
        return None
    first = requests["started_at"].min()
    span = float(timed["second"][-1])
    count = min(MAX_INTERVALS, max(1, int(span)))
    width = span / count or 1.0
    found = (
        timed.lazy()
        .with_columns(done=_devices_done())
        .group_by((pl.col("second") / width).cast(pl.Int32).clip(0, count - 1).alias("interval"))
        .agg(
            (pl.col("done").sum() / width).alias("devices"),
            (pl.len() / width).alias("requests"),
            (pl.col("outcome") == Outcome.THROTTLED.value).sum().alias("throttled"),
            pl.col("pace_rps").mean().alias("rate"),
        )
        .collect()
    )
    every = pl.DataFrame({"interval": range(count)}, schema={"interval": pl.Int32})
    rows = every.join(found, on="interval", how="left", maintain_order="left").iter_rows()
    return Timeline(
        began_at=time_in_files(int(first)),  # type: ignore[arg-type]  # min of an Int64 column
        width_s=width,
        pauses=int(timed["is_pause"].sum()),
        intervals=[
            Interval(
                start_s=number * width,
                devices_per_s=round(devices or 0, 2),
                requests_per_s=round(sent or 0, 3),
                throttled=throttled or 0,
                limiter_rate=None if rate is None else round(rate, 3),
            )
            for number, devices, sent, throttled, rate in rows
        ],
    )


def _devices_done() -> pl.Expr:
    """The devices that are accepted with an answer; in a migration, those that have both steps with it.

    The answers are in the order in which they came.
    """
    is_accepted = pl.col("outcome") == Outcome.ACCEPTED.value
    accepted = pl.when(is_accepted).then(pl.col("device_count").cast(pl.Int64)).otherwise(0)
    of_steps = (
        pl.when(pl.col("step") == step.value).then(accepted).otherwise(0).cum_sum().over("batch_id")
        for step in (Step.UNASSIGN, Step.ASSIGN)
    )
    moved = pl.min_horizontal(*of_steps)
    newly_moved = moved - moved.shift(1, fill_value=0).over("batch_id")
    return pl.when(pl.col("step").is_null()).then(accepted).otherwise(newly_moved)


def latency(requests: pl.DataFrame) -> Latency | None:
    """How long the answers took that came from the carrier; None without one."""
    took = requests.filter(pl.col("http_status").is_not_null())["duration_ms"].drop_nulls()
    took = took.clip(lower_bound=0.1).cast(pl.Float64)
    if took.is_empty():
        return None
    found = {name: took.quantile(share, "nearest") for name, share in _PERCENTILES.items()}
    # Equal widths on a logarithmic scale: latencies spread over several orders of magnitude.
    low, high = took.min(), took.max()
    start, end = pl.Series([low, high]).log10().to_list()
    step = max((end - start) / _BINS, 0.02)
    bins = ((took.log10() - start) / step).floor().clip(0, _BINS - 1).cast(pl.Int32).value_counts(sort=False)
    return Latency(
        requests=len(took),
        percentiles={name: round(value or 0, 1) for name, value in found.items()},
        bins=[
            LatencyBin(10 ** (start + number * step), 10 ** (start + (number + 1) * step), count)
            for number, count in sorted(bins.iter_rows())
        ],
    )


def batch_attempts(requests: pl.DataFrame) -> list[BatchAttempts]:
    """The number of batches by the number of requests that they needed, parts included."""
    counts = requests.group_by("batch_id", "step").len()["len"].value_counts()
    batches: Counter[str] = Counter()
    for needed, count in counts.iter_rows():
        batches[next((label for limit, label in _ATTEMPTS if needed <= limit), _MORE)] += count
    labels = [*(label for _, label in _ATTEMPTS), _MORE]
    return [BatchAttempts(label, batches[label]) for label in labels if batches[label]]
