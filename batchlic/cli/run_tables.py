"""Tables of runs for people. Names that come from jobs and folders are made safe for the terminal."""

import os
import shutil
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from batchlic.figures import counted, duration, time_on_terminal
from batchlic.logs import printable
from batchlic.runs.listing import ListedRun, RunState

if TYPE_CHECKING:
    from batchlic.runs.prune import Pruning

_NARROWEST = 130
"""Characters a line of a table has on any terminal: on a narrower one, lines go on below."""
_UNLIMITED = 10_000
"""The same where the table is not written to a terminal: lines stay whole for `grep`."""


def runs_table(runs: Sequence[ListedRun], folder: Path) -> str:
    """One line a run, for a terminal. Paths are relative to `folder`."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="none")
    for name in ("began", "run", "job", "action", "devices"):
        table.add_column(name, overflow="fold")
    for name in ("throttled", "duration", "exit"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(*(Text(printable(cell)) for cell in _cells(run, folder)))
    written = StringIO()
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNLIMITED
    width = max(columns, _NARROWEST)
    Console(file=written, width=width, color_system=None).print(table)
    return "".join(f"{line.rstrip()}\n" for line in written.getvalue().splitlines())


def _cells(run: ListedRun, folder: Path) -> tuple[str, ...]:
    share = run.throttled_share
    return (
        time_on_terminal(run.began_at) if run.began_at else "-",
        os.path.relpath(run.run_dir, folder),
        run.job or "-",
        run.action or "-",
        _devices(run),
        "-" if share is None else f"{share:.0%}",
        "-" if run.seconds is None else duration(run.seconds),
        _exit(run),
    )


def _devices(run: ListedRun) -> str:
    figures = [f"{devices:,} {status.replace('_', ' ')}" for status, devices in run.shown_statuses.items()]
    if rejected := sum(run.rejected.values()):
        figures.append(f"{rejected:,} rejected")
    return ", ".join(figures) or "-"


def _exit(run: ListedRun) -> str:
    """The exit code, or what the run does instead."""
    is_ended = run.state in {RunState.FINISHED, RunState.STOPPED}
    return str(run.exit_code) if is_ended else run.state.replace("_", " ")


def describe_pruning(done: "Pruning") -> str:
    """The runs that were deleted and kept, and why, for a terminal."""
    verb = "To delete" if done.dry_run else "Deleted"
    size = sum(run.bytes for run in done.deleted) / 1e6
    lines = [f"{verb}: {counted(len(done.deleted), 'run')} ({size:,.1f} MB)"]
    lines += [
        f"  {printable(run.run_dir)}: {printable(run.job)}, ended {time_on_terminal(run.ended_at)}"
        for run in done.deleted
    ]
    lines.append(f"Kept: {counted(len(done.kept), 'run')}")
    lines += [f"  {printable(run.run_dir)}: {printable(run.reason)}" for run in done.kept]
    if done.dry_run:
        lines.append("Dry run: nothing was deleted.")
    return "\n".join(lines)
