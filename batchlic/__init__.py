"""batchlic: assign, move and take back SIM-Secure licenses for very large device inventories.

    import batchlic

    run = batchlic.assign("fleet.csv", account="0000123456-00001", sku="SIMSec-IoT", sandbox=True)
    print(run.status, run.summary.statuses)
    failed = run.results.filter(status="failed").collect()

Importing this package is cheap: a name is loaded when it is first used. See docs/how-to/python.md.
"""

import sys
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
    from batchlic.api.carrier_client import AsyncCarrierClient, CarrierClient
    from batchlic.api.inventories import Inventory
    from batchlic.api.options import JobOptions
    from batchlic.api.run import Run
    from batchlic.carrier.auth import CarrierUnreachable
    from batchlic.carrier.license_errors import (
        ApiResponse,
        BadRequestError,
        ForbiddenError,
        NotAcceptableError,
        NotFoundError,
        RequestInDoubt,
        SecurityResultError,
        TooManyRequestsError,
        UnauthorizedError,
        UnexpectedStatusError,
    )
    from batchlic.carrier.license_models import (
        InvalidRequest,
        LicenseDeviceId,
        LicenseDeviceList,
        SecuritySuccessResult,
    )
    from batchlic.carrier.messages import AssignLicenseRequest
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
    "ApiResponse",
    "AssignLicenseRequest",
    "AsyncCarrierClient",
    "BadRequestError",
    "BatchlicError",
    "CarrierClient",
    "CarrierUnreachable",
    "CredentialsRejected",
    "Declined",
    "DeviceStatus",
    "EmbeddedSandbox",
    "ExitCode",
    "ForbiddenError",
    "Incomplete",
    "InvalidRequest",
    "Inventory",
    "InventoryError",
    "Job",
    "JobOptions",
    "LedgerError",
    "LicenseDeviceId",
    "LicenseDeviceList",
    "NoAccess",
    "NotAcceptableError",
    "NotFoundError",
    "OtherVersion",
    "RefusedToStart",
    "RequestInDoubt",
    "Run",
    "RunEvent",
    "RunFolderError",
    "RunState",
    "SandboxConfig",
    "SecurityResultError",
    "SecuritySuccessResult",
    "Settings",
    "StoppedEarly",
    "Summary",
    "TooManyRequestsError",
    "UnauthorizedError",
    "UnexpectedStatusError",
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
    "ApiResponse": "batchlic.carrier.license_errors",
    "AssignLicenseRequest": "batchlic.carrier.messages",
    "AsyncCarrierClient": "batchlic.api.carrier_client",
    "BadRequestError": "batchlic.carrier.license_errors",
    "BatchlicError": "batchlic.errors",
    "CarrierClient": "batchlic.api.carrier_client",
    "CarrierUnreachable": "batchlic.carrier.auth",
    "CredentialsRejected": "batchlic.errors",
    "Declined": "batchlic.errors",
    "DeviceStatus": "batchlic.chunker",
    "EmbeddedSandbox": "batchlic.job",
    "ExitCode": "batchlic.errors",
    "ForbiddenError": "batchlic.carrier.license_errors",
    "Incomplete": "batchlic.errors",
    "InvalidRequest": "batchlic.carrier.license_models",
    "Inventory": "batchlic.api.inventories",
    "InventoryError": "batchlic.errors",
    "Job": "batchlic.job",
    "JobOptions": "batchlic.api.options",
    "LedgerError": "batchlic.errors",
    "LicenseDeviceId": "batchlic.carrier.license_models",
    "LicenseDeviceList": "batchlic.carrier.license_models",
    "NoAccess": "batchlic.errors",
    "NotAcceptableError": "batchlic.carrier.license_errors",
    "NotFoundError": "batchlic.carrier.license_errors",
    "OtherVersion": "batchlic.errors",
    "RefusedToStart": "batchlic.errors",
    "RequestInDoubt": "batchlic.carrier.license_errors",
    "Run": "batchlic.api.run",
    "RunEvent": "batchlic.events",
    "RunFolderError": "batchlic.errors",
    "RunState": "batchlic.runs.listing",
    "SandboxConfig": "batchlic.sandbox",
    "SecurityResultError": "batchlic.carrier.license_errors",
    "SecuritySuccessResult": "batchlic.carrier.license_models",
    "Settings": "batchlic.settings",
    "StoppedEarly": "batchlic.errors",
    "Summary": "batchlic.writer.summary",
    "TooManyRequestsError": "batchlic.carrier.license_errors",
    "UnauthorizedError": "batchlic.carrier.license_errors",
    "UnexpectedStatusError": "batchlic.carrier.license_errors",
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
            if sys.platform == "win32":
                from batchlic.errors import NOT_ON_WINDOWS  # noqa: PLC0415

                raise ImportError(NOT_ON_WINDOWS)
            value = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module 'batchlic' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return list(__all__)
