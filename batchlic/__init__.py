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
    from batchlic.carrier_client import AsyncCarrierClient, CarrierClient
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
    "ApiResponse",
    "AssignLicenseRequest",
    "AsyncCarrierClient",
    "BadRequestError",
    "BatchlicError",
    "CarrierClient",
    "CarrierUnreachable",
    "CredentialsRejected",
    "Declined",
    "EmbeddedSandbox",
    "ExitCode",
    "ForbiddenError",
    "InvalidRequest",
    "InventoryError",
    "Job",
    "LedgerError",
    "LicenseDeviceId",
    "LicenseDeviceList",
    "NoAccess",
    "NotAcceptableError",
    "NotFoundError",
    "OtherVersion",
    "RefusedToStart",
    "RequestInDoubt",
    "RunFolderError",
    "SecurityResultError",
    "SecuritySuccessResult",
    "Settings",
    "StoppedEarly",
    "TooManyRequestsError",
    "UnauthorizedError",
    "UnexpectedStatusError",
    "UsageError",
    "__version__",
]

_HOMES = {
    "ApiResponse": "batchlic.carrier.license_errors",
    "AssignLicenseRequest": "batchlic.carrier.messages",
    "AsyncCarrierClient": "batchlic.carrier_client",
    "BadRequestError": "batchlic.carrier.license_errors",
    "BatchlicError": "batchlic.errors",
    "CarrierClient": "batchlic.carrier_client",
    "CarrierUnreachable": "batchlic.carrier.auth",
    "CredentialsRejected": "batchlic.errors",
    "Declined": "batchlic.errors",
    "EmbeddedSandbox": "batchlic.job",
    "ExitCode": "batchlic.errors",
    "ForbiddenError": "batchlic.carrier.license_errors",
    "InvalidRequest": "batchlic.carrier.license_models",
    "InventoryError": "batchlic.errors",
    "Job": "batchlic.job",
    "LedgerError": "batchlic.errors",
    "LicenseDeviceId": "batchlic.carrier.license_models",
    "LicenseDeviceList": "batchlic.carrier.license_models",
    "NoAccess": "batchlic.errors",
    "NotAcceptableError": "batchlic.carrier.license_errors",
    "NotFoundError": "batchlic.carrier.license_errors",
    "OtherVersion": "batchlic.errors",
    "RefusedToStart": "batchlic.errors",
    "RequestInDoubt": "batchlic.carrier.license_errors",
    "RunFolderError": "batchlic.errors",
    "SecurityResultError": "batchlic.carrier.license_errors",
    "SecuritySuccessResult": "batchlic.carrier.license_models",
    "Settings": "batchlic.settings",
    "StoppedEarly": "batchlic.errors",
    "TooManyRequestsError": "batchlic.carrier.license_errors",
    "UnauthorizedError": "batchlic.carrier.license_errors",
    "UnexpectedStatusError": "batchlic.carrier.license_errors",
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
