"""`batchlic status --watch`: the state of a run, shown again and again until the run ends."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from batchlic.runs import signals

if TYPE_CHECKING:
    from batchlic.runs.status import StatusReport

INTERVAL_S = 2.0
"""Seconds between two looks."""
_SHARE = 4
"""Times as long as a look takes, at least, between two of them: large runs take a while to read."""


def watch(folder: Path) -> "StatusReport":
    """Show a run until no process works on it, or until a signal asks to stop; returns its last state.

    On a terminal, the state is shown in place. Elsewhere, each change is one line.
    """
    from batchlic.objectstore.copies import refresh
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.status import status

    with signals.finishing(), _screen(folder) as show:
        while True:
            began = time.monotonic()
            refresh(folder)
            report = status(RunFolder(folder))
            if report.at_work is None or signals.is_asked():
                return report
            show(report)
            signals.wait(max(INTERVAL_S, _SHARE * (time.monotonic() - began)))


@contextmanager
def _screen(folder: Path) -> Iterator[Callable[["StatusReport"], None]]:
    """A function that shows a state of the run."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _Lines()
        return
    from rich.live import Live
    from rich.text import Text

    from batchlic.cli.format import describe
    from batchlic.logs import printable_lines

    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield lambda report: live.update(
            Text(f"{printable_lines(describe(report, folder))}\n\nCtrl-C ends this view, not the run."),
            refresh=True,
        )


class _Lines:
    """Prints a line for each change of the figures."""

    def __init__(self) -> None:
        self._last: object = None

    def __call__(self, report: "StatusReport") -> None:
        from batchlic.cli.format import headline
        from batchlic.cli.output import print_result

        if (figures := (report.statuses, report.limits)) != self._last:
            self._last = figures
            print_result(headline(report))
            sys.stdout.flush()
