"""What can be asked of the carrier: the actions, and the SKUs it sells (shared carrier documentation)."""

from enum import StrEnum


class Action(StrEnum):
    """What a request does with the licences of its devices."""

    ASSIGN = "assign"
    UNASSIGN = "unassign"


class Licence(StrEnum):
    """How long a licence stays where it was put."""

    LIFETIME = "lifetime"
    """For the life of the SIM: it can never be taken back."""
    FLEXIBLE = "flexible"
    """Can be unassigned and given to another device."""


SKUS: dict[str, Licence] = {
    "SIMSec-IoT-Lt": Licence.LIFETIME,
    "SIMSec-IoT": Licence.FLEXIBLE,
    "TS-BUNDLE-KTO-SIMSEC-MRC": Licence.FLEXIBLE,
    "TSS-IOT-INTLG-TIERED-SIMSEC": Licence.FLEXIBLE,
}
"""The known SKUs, as the carrier spells them."""

MAX_DEVICES_PER_REQUEST = 100
"""The carrier takes 1 to 100 devices a request."""
