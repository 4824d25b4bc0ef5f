"""batchlic: assign, move and take back SIM-Secure licenses for very large device inventories.

    import batchlic

    run = batchlic.assign("fleet.csv", account="0000123456-00001", sku="SIMSec-IoT", sandbox=True)
    print(run.status, run.summary.statuses)
    failed = run.results.filter(status="failed").collect()

Importing this package is cheap: a name is loaded when it is first used. See docs/how-to/python.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchlic.api.actions import apply, assign, migrate, plan, resume, run, sync, unassign
    from batchlic.api.awaited import (
        apply_async,
        assign_async,
        migrate_async,
        plan_async,
        resume_async,
        run_async,
        sync_async,
        unassign_async,
    )
    from batchlic.api.inventories import Inventory
    from batchlic.api.options import JobOptions
    from batchlic.api.run import Run
    from batchlic.chunker import DeviceStatus
    from batchlic.errors import (
        BatchlicError,
        CredentialsRejected,
        Declined,
        ExitCode,
        Incomplete,
        InventoryError,
        LedgerError,
        NoAccess,
        OtherVersion,
        RefusedToStart,
        RunFolderError,
        StoppedEarly,
        UsageError,
    )
    from batchlic.events import RunEvent
    from batchlic.job import EmbeddedSandbox, Job
    from batchlic.runs.listing import RunState
    from batchlic.sandbox import SandboxConfig
    from batchlic.settings import Settings
    from batchlic.writer.summary import Summary

    __version__: str

__all__ = [
    "BatchlicError",
    "CredentialsRejected",
    "Declined",
    "DeviceStatus",
    "EmbeddedSandbox",
    "ExitCode",
    "Incomplete",
    "Inventory",
    "InventoryError",
    "Job",
    "JobOptions",
    "LedgerError",
    "NoAccess",
    "OtherVersion",
    "RefusedToStart",
    "Run",
    "RunEvent",
    "RunFolderError",
    "RunState",
    "SandboxConfig",
    "Settings",
    "StoppedEarly",
    "Summary",
    "UsageError",
    "__version__",
    "apply",
    "apply_async",
    "assign",
    "assign_async",
    "migrate",
    "migrate_async",
    "plan",
    "plan_async",
    "resume",
    "resume_async",
    "run",
    "run_async",
    "sync",
    "sync_async",
    "unassign",
    "unassign_async",
]

_HOMES = {
    "BatchlicError": "batchlic.errors",
    "CredentialsRejected": "batchlic.errors",
    "Declined": "batchlic.errors",
    "DeviceStatus": "batchlic.chunker",
    "EmbeddedSandbox": "batchlic.job",
    "ExitCode": "batchlic.errors",
    "Incomplete": "batchlic.errors",
    "Inventory": "batchlic.api.inventories",
    "InventoryError": "batchlic.errors",
    "Job": "batchlic.job",
    "JobOptions": "batchlic.api.options",
    "LedgerError": "batchlic.errors",
    "NoAccess": "batchlic.errors",
    "OtherVersion": "batchlic.errors",
    "RefusedToStart": "batchlic.errors",
    "Run": "batchlic.api.run",
    "RunEvent": "batchlic.events",
    "RunFolderError": "batchlic.errors",
    "RunState": "batchlic.runs.listing",
    "SandboxConfig": "batchlic.sandbox",
    "Settings": "batchlic.settings",
    "StoppedEarly": "batchlic.errors",
    "Summary": "batchlic.writer.summary",
    "UsageError": "batchlic.errors",
    "apply": "batchlic.api.actions",
    "apply_async": "batchlic.api.awaited",
    "assign": "batchlic.api.actions",
    "assign_async": "batchlic.api.awaited",
    "migrate": "batchlic.api.actions",
    "migrate_async": "batchlic.api.awaited",
    "plan": "batchlic.api.actions",
    "plan_async": "batchlic.api.awaited",
    "resume": "batchlic.api.actions",
    "resume_async": "batchlic.api.awaited",
    "run": "batchlic.api.actions",
    "run_async": "batchlic.api.awaited",
    "sync": "batchlic.api.actions",
    "sync_async": "batchlic.api.awaited",
    "unassign": "batchlic.api.actions",
    "unassign_async": "batchlic.api.awaited",
}
"""The module of each public name."""


if not TYPE_CHECKING:  # type checkers refuse unknown names only without it

    def __getattr__(name: str) -> object:
        """Load a public name when it is first used (PEP 562)."""
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415 - takes longer than the rest

            value: object = version("batchlic")
        elif name in _HOMES:
            value = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module 'batchlic' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return list(__all__)
