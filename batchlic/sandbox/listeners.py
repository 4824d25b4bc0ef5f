"""The callback listeners that accounts have registered."""

from collections import defaultdict

import msgspec

from batchlic.carrier.messages import CallbackListener, CallbackService
from batchlic.sandbox.bodies import ListenerBody, read
from batchlic.sandbox.refusals import license_refusal

SERVICES = frozenset(
    {"CarrierService", "DevicePRLInformation", "DeviceService", "DeviceUsage", "StateService"}
)
"""Services that the carrier calls back for; licenses come under CarrierService."""

_LISTENER_BODY = msgspec.json.Decoder(ListenerBody)


class Listeners:
    """One listener for each account and service; registering again replaces it."""

    def __init__(self) -> None:
        self._of_account: defaultdict[str, dict[str, CallbackListener]] = defaultdict(dict)

    def of(self, account: str) -> list[CallbackListener]:
        """All listeners of an account, with the credentials that callbacks will carry."""
        return list(self._of_account[account].values())

    def register(self, account: str, body: bytes) -> CallbackService:
        """Register the listener that the body describes."""
        asked = read(body, _LISTENER_BODY)
        if asked.name not in SERVICES:
            raise license_refusal(400, f"There is no callback service {asked.name}.")
        listener = CallbackListener(account, asked.name, asked.url, asked.username, asked.password)
        self._of_account[account][asked.name] = listener
        return CallbackService(account, asked.name)

    def deregister(self, account: str, service: str) -> CallbackService:
        """Remove the listener of a service."""
        if self._of_account[account].pop(service, None) is None:
            raise license_refusal(404, f"{account} has no listener for {service}.")
        return CallbackService(account, service)
