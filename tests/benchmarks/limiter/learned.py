"""What it gains to start from what an earlier run has found: two runs under the same limit, side by side."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from batchlic.pool.limiter.evidence import Learned
from batchlic.pool.limiter.limiter import Limiter
from tests.benchmarks.limiter.engine import WORKERS, Clock, NewClient, measure
from tests.benchmarks.limiter.hidden import Hidden
from tests.benchmarks.limiter.peers import Batchlic

FIRST_S = 20.0
"""The first seconds, of which the requests let in are counted."""
SMALL = 0.1
"""Share of the work that a small nightly run has."""
LATER_S = 17.37
"""Seconds, beyond whole ones, by which the second run begins later: at another place in a window."""


NOTABLE = 0.05
"""Difference of the share of the ideal that counts as better or worse."""


def knowing(learned: Learned | None, *, headroom: float = 0.0) -> NewClient:
    """A limiter that starts from what was learned, and leaves a share of the limit to others."""

    class Knowing(Batchlic):
        def __init__(self, clock: Clock) -> None:
            self.limiter = Limiter(
                max_concurrency=WORKERS, start_from=learned, headroom=headroom, clock=clock
            )
            self.delay, self.start = self.limiter.delay, self.limiter.take

    return Knowing


def learned_from(hidden: Hidden) -> Learned | None:
    """What a first run under a limit leaves to the next one."""
    client = measure(hidden, Batchlic).clients[0]
    assert isinstance(client, Batchlic)
    learned = client.limiter.learned
    return None if learned is None or learned.is_noise else learned


def print_learned(rows: Sequence[Hidden]) -> None:
    """Print a line for each limit: without and with what a first run has found."""
    print(f"\nwithout -> with what the last run has found: first {FIRST_S:.0f} s, and a tenth of the work")
    print(f"{'limit':>26} {'let in':>14} {'refused':>12} {'share, small':>14} {'refused':>12}  learned")
    for hidden in rows:
        learned = learned_from(hidden)
        start, later = 0.3 + LATER_S, replace(hidden, seed=2)
        small = replace(hidden, requests=max(10, round(SMALL * hidden.requests)), seed=3)
        cold, warm = (measure(later, knowing(known), start=start) for known in (None, learned))
        few = [measure(small, knowing(known), start=start) for known in (None, learned)]
        cells = [
            " -> ".join(str(_first(run.admitted, start)) for run in (cold, warm)),
            " -> ".join(str(_first(run.refusals, start)) for run in (cold, warm)),
            " -> ".join(f"{run.share:.2f}" for run in few),
            " -> ".join(str(len(run.refusals)) for run in few),
        ]
        widths = (14, 12, 14, 12)
        shown = " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        print(f"{hidden.name:>26} {shown}  {learned.limit if learned else '-'}", flush=True)


def print_drawn_learned(rows: Sequence[Hidden]) -> None:
    """Print shares of the ideal over limits drawn at random, without and with what a first run has found."""
    shares: dict[str, list[float]] = defaultdict(list)
    refused: dict[str, list[float]] = defaultdict(list)
    known = 0
    for hidden in rows:
        learned = learned_from(hidden)
        known += learned is not None
        start = 0.3 + LATER_S + 0.137 * hidden.seed
        for name, share in (("all of the work", 1.0), ("a tenth of it", SMALL)):
            later = replace(hidden, requests=max(10, round(share * hidden.requests)), seed=hidden.seed + 1000)
            for what, given in (("without", None), ("with", learned)):
                run = measure(later, knowing(given), start=start)
                shares[f"{name}, {what}"].append(run.share)
                refused[f"{name}, {what}"].append(run.refused)
    print(f"{known} of {len(rows)} limits were learned\n{'':>24}  worst   p10  median  mean  refused, mean")
    for name, found in shares.items():
        ordered = sorted(found)
        print(
            f"{name:>24} {ordered[0]:6.2f} {ordered[len(ordered) // 10]:5.2f} "
            f"{statistics.median(ordered):7.2f} {statistics.mean(ordered):5.2f} "
            f"{statistics.mean(refused[name]):14.1%}"
        )
    for name in ("all of the work", "a tenth of it"):
        pairs = list(zip(shares[f"{name}, without"], shares[f"{name}, with"], strict=True))
        better, worse = (sum(sign * (w - c) > NOTABLE for c, w in pairs) for sign in (1, -1))
        print(f"{name}: {better} better and {worse} worse by more than {NOTABLE}")


def _first(moments: list[float], start: float) -> int:
    return sum(moment < start + FIRST_S for moment in moments)
