"""Hidden limits drawn at random, so that nobody can tune a limiter on them."""

import math
import random
from collections.abc import Callable
from dataclasses import replace

from tests.benchmarks.limiter.hidden import Hidden, Hint, Part

SLOWEST, FASTEST = 0.2, 500.0
"""Requests/s."""
WORK_S, LONG_WORK_S = 60.0, 200.0
"""Seconds that the work takes at the limit, after the burst; longer where each refusal shuts everyone out."""
FEWEST_REQUESTS, MOST_REQUESTS = 30, 12_000
"""Bounds of the work after the burst: enough to find a limit, and not more CPU than that is worth."""
PLAIN = "plain"
"""A bucket or a window, with or without hints, for one process or two."""


def draw(count: int, seed: int, kind: str | None = None) -> list[Hidden]:
    """As many hidden limits, of one kind, or half plain ones and half with something of their own."""
    return [_one(random.Random(f"{seed}/{number}"), number, kind) for number in range(count)]


def _one(rng: random.Random, number: int, only: str | None) -> Hidden:
    drawn = rng.choice([PLAIN] * len(_SPECIAL) + list(_SPECIAL))
    kind = only or drawn
    part = _part(rng)
    latency = _log(rng, 0.02, 1.0)
    hidden = Hidden(
        (part,),
        name=f"{number} {kind}",
        hint=rng.choice(list(Hint)),
        latency_s=latency,
        jitter_s=latency * rng.choice([0.05, 0.5]),
        network_s=_log(rng, 0.001, latency / 2),
        counts_refused=rng.random() < 0.1,
        processes=2 if rng.random() < 0.2 else 1,
        seed=number,
    )
    if kind != PLAIN:
        hidden = _SPECIAL[kind](rng, hidden)
    return replace(hidden, requests=_requests(hidden))


def _requests(hidden: Hidden) -> int:
    rates = [part.rate for part in hidden.parts if part.rate] or [math.inf]
    rate = min(hidden.nodes * min(rates), 64 * hidden.processes / (hidden.latency_s + hidden.network_s))
    lasts = LONG_WORK_S if hidden.penalty_s else max(WORK_S, *(4 * part.period_s for part in hidden.parts))
    burst = hidden.nodes * max(part.burst for part in hidden.parts)
    return max(FEWEST_REQUESTS, min(MOST_REQUESTS, round(rate * lasts))) + burst


def _log(rng: random.Random, least: float, most: float) -> float:
    return math.exp(rng.uniform(math.log(least), math.log(most)))


def _part(rng: random.Random, least: float = SLOWEST, most: float = FASTEST) -> Part:
    rate = _log(rng, least, most)
    kind = rng.choice(["bucket", "fixed", "sliding"])
    if kind == "bucket":
        return Part(kind, rate, burst=round(_log(rng, 1, 100)))
    period = rng.choice([_log(rng, 0.25, 60.0), rng.choice([0.25, 1.0, 5.0, 10.0, 60.0])])
    return Part(kind, max(rate, 1 / period), period_s=period)


def _combined(rng: random.Random, hidden: Hidden) -> Hidden:
    rate = _log(rng, 1, 300)
    window = Part("fixed", rate, period_s=rng.choice([10.0, 60.0]))
    return replace(hidden, parts=(Part("bucket", rate * rng.uniform(1, 3), burst=rng.randint(1, 20)), window))


def _nodes(rng: random.Random, hidden: Hidden) -> Hidden:
    part = Part("bucket", _log(rng, 5, 100), burst=rng.randint(1, 30))
    return replace(hidden, parts=(part,), nodes=rng.randint(2, 6), hint=Hint.NOTHING)


def _spurious(rng: random.Random, hidden: Hidden) -> Hidden:
    return replace(hidden, parts=(_part(rng, 2),), spurious=_log(rng, 0.002, 0.05), hint=Hint.NOTHING)


def _others(rng: random.Random, hidden: Hidden) -> Hidden:
    part = Part("bucket", _log(rng, 10, 300), burst=rng.randint(1, 50))
    return replace(hidden, parts=(part,), others=part.rate * rng.uniform(0.3, 0.7), hint=Hint.NOTHING)


def _penalty(rng: random.Random, hidden: Hidden) -> Hidden:
    part = Part("bucket", _log(rng, 2, 100), burst=rng.randint(1, 20))
    hint = rng.choice([Hint.NOTHING, Hint.ROUNDED])
    return replace(hidden, parts=(part,), penalty_s=rng.uniform(3, 15), hint=hint, processes=1)


def _spacing(rng: random.Random, hidden: Hidden) -> Hidden:
    return replace(hidden, parts=(Part("bucket", _log(rng, 0.5, 400), burst=1),))


def _changing(rng: random.Random, hidden: Hidden) -> Hidden:
    changes = ((rng.uniform(8, 20), rng.choice([0.3, 0.5, 2.0, 3.0])), (rng.uniform(25, 45), 1.0))
    return replace(hidden, parts=(_part(rng, 2),), changes=changes)


def _calls(rng: random.Random, hidden: Hidden) -> Hidden:
    return replace(hidden, parts=(Part("calls", calls=rng.randint(1, 40)),), hint=Hint.NOTHING, processes=1)


_SPECIAL: dict[str, Callable[[random.Random, Hidden], Hidden]] = {
    "combined": _combined,
    "nodes": _nodes,
    "spurious": _spurious,
    "others": _others,
    "penalty": _penalty,
    "spacing": _spacing,
    "changing": _changing,
    "calls": _calls,
}
"""Kinds with something of their own, each changing a plain limit."""

KINDS = [PLAIN, *_SPECIAL]
