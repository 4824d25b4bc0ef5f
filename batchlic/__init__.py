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
    from batchlic.errors import (
        BatchlicError,
        CredentialsRejected,
        Declined,
        ExitCode,
        InventoryError,
        LedgerError,
        NoAccess,
        OtherVersion,
        RefusedToStart,
        RunFolderError,
        StoppedEarly,
        UsageError,
    )
    from batchlic.job import EmbeddedSandbox, Job
    from batchlic.settings import Settings

    __version__: str

__all__ = [
    "BatchlicError",
    "CredentialsRejected",
    "Declined",
    "EmbeddedSandbox",
    "ExitCode",
    "InventoryError",
    "Job",
    "LedgerError",
    "NoAccess",
    "OtherVersion",
    "RefusedToStart",
    "RunFolderError",
    "Settings",
    "StoppedEarly",
    "UsageError",
    "__version__",
]

_HOMES = {
    "BatchlicError": "batchlic.errors",
    "CredentialsRejected": "batchlic.errors",
    "Declined": "batchlic.errors",
    "EmbeddedSandbox": "batchlic.job",
    "ExitCode": "batchlic.errors",
    "InventoryError": "batchlic.errors",
    "Job": "batchlic.job",
    "LedgerError": "batchlic.errors",
    "NoAccess": "batchlic.errors",
    "OtherVersion": "batchlic.errors",
    "RefusedToStart": "batchlic.errors",
    "RunFolderError": "batchlic.errors",
    "Settings": "batchlic.settings",
    "StoppedEarly": "batchlic.errors",
    "UsageError": "batchlic.errors",
}
"""The module of each public name."""


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
