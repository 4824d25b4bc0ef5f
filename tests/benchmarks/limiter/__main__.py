"""`make bench-limiter`: hidden limits drawn at random; `make bench-pace`: known limits. In virtual time."""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from tests.benchmarks.limiter.draw import KINDS, draw
from tests.benchmarks.limiter.engine import Measured, NewClient, measure, shared
from tests.benchmarks.limiter.hidden import Hidden
from tests.benchmarks.limiter.home import HOME, LEARNED, SHARED, WEAK
from tests.benchmarks.limiter.learned import print_drawn_learned, print_learned
from tests.benchmarks.limiter.peers import PEERS, Batchlic

Limiters: TypeAlias = dict[str, NewClient]

SHARED_FROM_S, SHARED_UNTIL_S = 45.0, 90.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", type=int, default=0, help="limits to draw; 0 for the known limits")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=KINDS, help="draw limits of one kind only")
    parser.add_argument("--starts", type=int, default=2, help="starts for each known limit")
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument(
        "--learned", action="store_true", help="only what a later run gains from an earlier one"
    )
    parser.add_argument("--rows", action="store_true", help="print a line for each limit drawn")
    chosen = parser.parse_args()
    limiters = {name: PEERS[name] for name in chosen.only}
    if chosen.random and chosen.learned:
        print_drawn_learned(draw(chosen.random, chosen.seed, chosen.kind))
    elif chosen.random:
        _print_drawn(draw(chosen.random, chosen.seed, chosen.kind), limiters, rows=chosen.rows)
    elif chosen.learned:
        print_learned(LEARNED)
    else:
        _print_home(limiters, chosen.starts)
        print_learned(LEARNED)


def _print_drawn(drawn: Sequence[Hidden], limiters: Limiters, *, rows: bool) -> None:
    print(f"{'':>10} {'share of the ideal':^36} {'refused':^15} {'CPU':>7}")
    print(f"{'':>10}  worst   p10  median  mean below 0.9   median    p90  ms/row")
    for name, limiter in limiters.items():
        results = []
        for hidden in drawn:
            run = measure(hidden, limiter, start=0.3 + 0.137 * hidden.seed)
            results.append(run)
            if rows:
                print(f"{run.share:6.2f} {run.refused:6.1%} {run.fairness:5.1f} {hidden.name}: {hidden}")
        print(f"{name:>10} {_summary(results)}", flush=True)


def _summary(results: Sequence[Measured]) -> str:
    shares, refused = sorted(run.share for run in results), sorted(run.refused for run in results)
    tenth = len(shares) // 10
    return (
        f"{shares[0]:6.2f} {shares[tenth]:5.2f} {statistics.median(shares):7.2f} "
        f"{statistics.mean(shares):5.2f} {sum(share < 0.9 for share in shares):9d} "
        f"{statistics.median(refused):8.1%} {refused[-1 - tenth]:6.1%} "
        f"{1000 * statistics.mean(run.cpu_s for run in results):7.0f}"
    )


def _print_home(limiters: Limiters, starts: int) -> None:
    others = {name: limiter for name, limiter in limiters.items() if limiter is not Batchlic}
    print(f"{'limit':>26}  worst median refused steady {''.join(f'{name:>14}' for name in others)}  found")
    for hidden in [*HOME, *WEAK]:
        runs = [_run(hidden, Batchlic, number) for number in range(starts)]
        shares = [run.share for run in runs]
        print(
            f"{hidden.name:>26} {min(shares):6.2f} {statistics.median(shares):6.2f} "
            f"{max(run.refused for run in runs):7.1%} {max(run.steady for run in runs):6.1%} ",
            end="",
            flush=True,
        )
        for limiter in others.values():
            other = _run(hidden, limiter, 0)
            print(f"{other.share:7.2f}/{other.refused:6.1%}", end="")
        client = runs[0].clients[0]
        print(" ", client.limiter.found if isinstance(client, Batchlic) else "", flush=True)
    print("\nshared by processes, from 45 to 90 s: use of the limit, largest share / smallest share")
    for hidden in SHARED:
        cells = []
        for processes in (2, 4):
            counts = shared(
                replace(hidden, processes=processes), Batchlic, since=SHARED_FROM_S, until=SHARED_UNTIL_S
            )
            use = sum(counts) / (SHARED_UNTIL_S - SHARED_FROM_S) / hidden.parts[0].rate
            cells.append(f"{processes}: {use:.2f}, {max(counts) / max(1, min(counts)):.1f}")
        print(f"{hidden.name:>26} {'   '.join(cells)}", flush=True)


def _run(hidden: Hidden, limiter: NewClient, number: int) -> Measured:
    return measure(replace(hidden, seed=number + 1), limiter, start=0.3 + 0.41 * number)


if __name__ == "__main__":
    main()
