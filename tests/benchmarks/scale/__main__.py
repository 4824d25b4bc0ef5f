"""`make bench-scale`: measure what more machines cost and bring. Compare figures of one run only."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.scale import journals, takeover

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--requests", type=int, default=20_000, help="requests of the comparison of journals")
arguments = parser.parse_args()
with TemporaryDirectory(prefix="batchlic-bench-") as folder:
    journals.compare(Path(folder), batches=arguments.requests)
    takeover.measure(Path(folder))
