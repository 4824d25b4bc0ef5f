"""The observers that a command attaches to its run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchlic.cli.output import print_message

if TYPE_CHECKING:
    from batchlic.events import EventStream


@contextmanager
def observers() -> Iterator["EventStream"]:
    """The events of a run in the block; afterward print what went wrong with observers."""
    from batchlic.events import EventStream

    events = EventStream()
    try:
        yield events
    finally:
        for problem in events.problems:
            print_message(f"warning: {problem}")
