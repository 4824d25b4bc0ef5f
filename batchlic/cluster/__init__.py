"""One run from several processes, on this machine or on others: its plan is cut into shards, which Dask spreads.

The coordinator does everything of a run but the sending. Each shard is one long task of Dask, which runs the
ordinary pool on its batches under a lease of its own.
"""

from batchlic.cluster.connection import Spread, sending

__all__ = ["Spread", "sending"]
