"""The table of `batchlic runs`: figures that hold, and nothing that changes the terminal."""

from pathlib import Path

from batchlic.chunker import DeviceStatus
from batchlic.cli.run_tables import runs_table
from batchlic.runs.listing import ListedRun, RunState

STATUSES = {DeviceStatus.ACCEPTED: 5, DeviceStatus.IN_DOUBT: 3, DeviceStatus.PENDING: 2}


def test_requests_in_flight_are_no_doubt() -> None:
    at_work = ListedRun(run_dir="r", state=RunState.AT_WORK, statuses=STATUSES)
    killed = ListedRun(run_dir="r", state=RunState.INTERRUPTED, statuses=STATUSES)
    assert "5 accepted  " in runs_table([at_work], Path())
    assert "5 accepted, 3 in doubt, 2 pending" in runs_table([killed], Path())


def test_no_cell_of_a_table_reaches_the_terminal_as_it_is() -> None:
    odd = "a\x1b[31m"
    run = ListedRun(run_dir=odd, state=RunState.FINISHED, job=odd, action=odd, exit_code=0)
    assert "\x1b" not in runs_table([run], Path())
