"""Errors of Python that end a command, as errors that say what to do."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from batchlic.atomic import read_error
from batchlic.runs import signals


@contextmanager
def explained() -> Iterator[None]:
    """Raise Interrupted for a signal, and for an error about a file what `read_error` makes of it."""
    try:
        yield
    except KeyboardInterrupt:
        raise signals.interruption() from None
    except OSError as error:
        if error.filename is None or error.errno is None:
            raise
        raise read_error(os.fsdecode(error.filename), error.errno) from error
