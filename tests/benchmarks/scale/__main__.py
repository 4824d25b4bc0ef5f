"""`make bench-scale`: measure what more machines cost and bring. Compare figures of one run only."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.scale import accounts, journals, takeover, workers

PARTS = ("journals", "takeover", "workers", "accounts")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; by default, all parts")
parser.add_argument("--requests", type=int, default=20_000, help="requests of the comparison of journals")
parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of workers")
parser.add_argument("--accounts", type=int, default=200)
parser.add_argument("--devices", type=int, default=50_000, help="devices of each account")
arguments = parser.parse_args()
chosen = arguments.parts or PARTS
with TemporaryDirectory(prefix="batchlic-bench-") as name:
    folder = Path(name)
    if "journals" in chosen:
        journals.compare(folder, batches=arguments.requests)
    if "takeover" in chosen:
        takeover.measure(folder)
    if "workers" in chosen:
        workers.compare(folder, arguments.workers)
    if "accounts" in chosen:
        accounts.measure(folder, accounts=arguments.accounts, devices=arguments.devices)
