"""The callback listeners that accounts have registered."""

from collections import defaultdict

import msgspec

from batchlic.carrier.messages import CallbackListener, CallbackService
from batchlic.sandbox.refusals import license_refusal
from batchlic.sandbox.request_bodies import ListenerBody, decode_body

SERVICES = frozenset(
    {"CarrierService", "DevicePRLInformation", "DeviceService", "DeviceUsage", "StateService"}
)
"""Services with callbacks; CarrierService reports the outcomes of license requests."""

_LISTENER_BODY = msgspec.json.Decoder(ListenerBody)


class Listeners:
    """One listener for each account and service; registering again replaces it."""

    def __init__(self) -> None:
        self._by_account: defaultdict[str, dict[str, CallbackListener]] = defaultdict(dict)

    def of_account(self, account: str) -> list[CallbackListener]:
        """Return all listeners of an account, with the credentials that callbacks carry."""
        return list(self._by_account[account].values())

    def register(self, account: str, body: bytes) -> CallbackService:
        """Register the listener that the body describes."""
        registration = decode_body(body, _LISTENER_BODY)
        if registration.name not in SERVICES:
            raise license_refusal(400, f"There is no callback service {registration.name}.")
        listener = CallbackListener(
            account, registration.name, registration.url, registration.username, registration.password
        )
        self._by_account[account][registration.name] = listener
        return CallbackService(account, registration.name)

    def deregister(self, account: str, service: str) -> CallbackService:
        """Remove the listener of a service."""
        if self._by_account[account].pop(service, None) is None:
            raise license_refusal(404, f"{account} has no listener for {service}.")
        return CallbackService(account, service)
