"""What can be asked of the carrier: the actions, and the SKUs it sells (shared carrier documentation)."""

from enum import StrEnum


class Action(StrEnum):
    """What a request does with the licenses of its devices."""

    ASSIGN = "assign"
    UNASSIGN = "unassign"


class LicenseType(StrEnum):
    """How long a license stays where it was put."""

    LIFETIME = "lifetime"
    """For the life of the SIM: it can never be taken back."""
    FLEXIBLE = "flexible"
    """Can be unassigned and given to another device."""


SKUS: dict[str, LicenseType] = {
    "SIMSec-IoT-Lt": LicenseType.LIFETIME,
    "SIMSec-IoT": LicenseType.FLEXIBLE,
    "TS-BUNDLE-KTO-SIMSEC-MRC": LicenseType.FLEXIBLE,
    "TSS-IOT-INTLG-TIERED-SIMSEC": LicenseType.FLEXIBLE,
}
"""The known SKUs, as the carrier spells them."""

MAX_DEVICES_PER_REQUEST = 100
"""The carrier takes 1 to 100 devices a request."""
