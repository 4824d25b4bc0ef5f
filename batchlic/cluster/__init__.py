"""One run from several processes, here or on other machines: Dask spreads the shards of its plan.

The coordinator does everything of a run but the sending. Each shard is one long task of Dask, which runs the
ordinary pool on its batches under a lease of its own.
"""

from batchlic.cluster.connection import Spread, sending

__all__ = ["Spread", "sending"]
