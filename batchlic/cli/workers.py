"""Opens the workers that --workers and --dask name, for the commands that send."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchlic.cli.options import ClusterOptions

if TYPE_CHECKING:
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.submit import Send


@contextmanager
def sending(
    options: ClusterOptions, folder: "RunFolder", store: str | None = None, *, on_sandbox: bool
) -> "Iterator[Send | None]":
    """What sends the run in a folder until the block ends; None if this process does.

    `store` is the one of a new run. Raises UsageError without a store, or without Dask, and RefusedToStart if
    the workers can't be reached.
    """
    if options.workers is None and options.dask is None:
        yield None
        return
    from batchlic.cluster import Spread, sending

    spread, named = Spread(options.workers, options.dask), folder.named_store
    if named is not None:
        store = named.store
    elif folder.journal.exists():
        store = None
    spread.refuse_without_store(store)
    with sending(spread, on_sandbox=on_sandbox) as send:
        yield send
