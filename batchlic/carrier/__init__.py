"""The carrier's API: catalog, credentials, messages, the client, and how answers are interpreted.

This package face needs no HTTP library, so it is quick to import. `batchlic.carrier.client` sends requests.
"""

from batchlic.carrier.answers import Answer, Blame, Outcome, RejectedToken, TokenKind
from batchlic.carrier.catalog import MAX_DEVICES_PER_REQUEST, SKUS, Action, LicenseType
from batchlic.carrier.credentials import Credentials, Secret
from batchlic.carrier.messages import AssignLicenseRequest, Device, DeviceId, Subscription
from batchlic.carrier.rate_limits import Quota

__all__ = [
    "MAX_DEVICES_PER_REQUEST",
    "SKUS",
    "Action",
    "Answer",
    "AssignLicenseRequest",
    "Blame",
    "Credentials",
    "Device",
    "DeviceId",
    "LicenseType",
    "Outcome",
    "Quota",
    "RejectedToken",
    "Secret",
    "Subscription",
    "TokenKind",
]
