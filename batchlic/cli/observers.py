"""The observers that a command attaches to its run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchlic.cli.output import print_message

if TYPE_CHECKING:
    from batchlic.events import EventStream
    from batchlic.job import MetricsUse


@contextmanager
def observers(metrics: "MetricsUse") -> Iterator["EventStream"]:
    """The events of a run in the block; afterward print what went wrong with observers."""
    from batchlic.events import EventStream

    events = EventStream()
    try:
        with _metrics_file(events, metrics.file), _metrics_server(events, metrics.port):
            yield events
    finally:
        for problem in events.problems:
            print_message(f"warning: {problem}")


@contextmanager
def _metrics_file(events: "EventStream", path: str | None) -> Iterator[None]:
    """Write the metrics of the block to a file."""
    if path is None:
        yield
        return
    from pathlib import Path

    from batchlic.monitoring.prometheus import MetricsFile

    subscriber = MetricsFile(Path(path))
    try:
        with events.attached("metrics file", subscriber):
            yield
    finally:
        events.problems += subscriber.problems


@contextmanager
def _metrics_server(events: "EventStream", port: int | None) -> Iterator[None]:
    """Serve the metrics of the block on this machine. A port that is in use is a problem, not an error."""
    if port is None:
        yield
        return
    from contextlib import closing

    from batchlic.monitoring.prometheus import HOST, MetricsServer

    try:
        subscriber = MetricsServer(port)
    except OSError as error:
        events.problems.append(f"--metrics-port {port}: can't listen on {HOST}: {error.strerror}")
        yield
        return
    print_message(f"Metrics of this run: {subscriber.url}")
    with closing(subscriber), events.attached("metrics server", subscriber):
        yield
