"""What it gains to start from what an earlier run has found: two runs under the same limit, side by side."""

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


def print_learned(rows: list[Hidden]) -> None:
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


def _first(moments: list[float], start: float) -> int:
    return sum(moment < start + FIRST_S for moment in moments)
