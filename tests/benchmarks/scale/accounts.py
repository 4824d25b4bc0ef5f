"""Many accounts: the time to plan and to send a fleet, by one process."""

from pathlib import Path

from batchlic.sandbox.config import SandboxConfig
from batchlic.sandbox.embedded import embedded
from tests.benchmarks.scale.workers import run_to_end, write_inventory
from tests.postgresql import running_server

LEGEND = """\
The carrier has no limit and answers at once; the sandbox, the database and batchlic share this machine.
planning: all of the command but the sending: reading, planning, results, audit, ledger."""


def measure(folder: Path, *, accounts: int, devices: int) -> None:
    """Print the times of a run with so many devices in each account."""
    print(f"{accounts:,} accounts, {devices:,} devices each\n{LEGEND}", flush=True)
    inventory = folder / "accounts.csv"
    write_inventory(inventory, accounts=accounts, devices=devices)
    with running_server() as server, embedded(SandboxConfig()) as url:
        store = server.new_database("accounts")
        wall_s, summary = run_to_end(inventory, folder / "accounts", url, store)
    speed, requests = summary.devices_per_second or 0.0, summary.requests["total"]
    sent_s = summary.planned / speed
    print(
        f"  {summary.planned:,} devices in {wall_s:.0f} s: {wall_s - sent_s:.0f} s of planning and writing, "
        f"{sent_s:.0f} s of sending, {requests / sent_s:,.0f} requests/s"
    )
