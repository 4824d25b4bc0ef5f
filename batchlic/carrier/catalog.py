"""What the carrier offers: its address, actions, license types, SKUs, and the size limit of a request."""

from enum import StrEnum

BASE_URL = "https://thingspace.verizon.com/api"
"""Root of the carrier's API."""


class Action(StrEnum):
    """What a request does with the licenses of its devices."""

    ASSIGN = "assign"
    UNASSIGN = "unassign"


class LicenseType(StrEnum):
    """Whether a license can be taken back from its device."""

    LIFETIME = "lifetime"
    """For the life of the SIM: can never be unassigned."""
    FLEXIBLE = "flexible"
    """Can be unassigned, and then assigned to another device."""


SKUS: dict[str, LicenseType] = {
    "SIMSec-IoT-Lt": LicenseType.LIFETIME,
    "SIMSec-IoT": LicenseType.FLEXIBLE,
    "TS-BUNDLE-KTO-SIMSEC-MRC": LicenseType.FLEXIBLE,
    "TSS-IOT-INTLG-TIERED-SIMSEC": LicenseType.FLEXIBLE,
}
"""The known SKUs, as the carrier spells them."""

MAX_DEVICES_PER_REQUEST = 100
"""The carrier accepts 1 to 100 devices in a request."""
