"""Executes license requests on the books, or refuses them by the carrier's rules."""

import re
import uuid
from array import array
from collections.abc import Callable
from dataclasses import replace

import msgspec

from batchlic.carrier.catalog import SKUS, Action, LicenseType
from batchlic.carrier.messages import Subscription, Subscriptions
from batchlic.sandbox.books import AccountBook, Books, Execution
from batchlic.sandbox.callbacks import CallbackSender
from batchlic.sandbox.config import SandboxConfig
from batchlic.sandbox.refusals import license_refusal, platform_refusal
from batchlic.sandbox.request_bodies import (
    DeviceBody,
    LicenseBody,
    SubscriptionsBody,
    check_identifiers,
    decode_body,
)

_LICENSE_BODY = msgspec.json.Decoder(LicenseBody)
_SUBSCRIPTIONS_BODY = msgspec.json.Decoder(SubscriptionsBody)
_X_REQUEST_ID = re.compile(r"[0-9]-[0-9]{3,30}")


class LicenseService:
    """Assigns, unassigns and counts licenses by the carrier's rules.

    Every method takes a request body as it arrived. It executes the whole request or raises a Refusal.
    """

    def __init__(
        self, config: SandboxConfig, books: Books, callbacks: CallbackSender, new_id: Callable[[], str]
    ) -> None:
        self._config = config
        self._books = books
        self._callbacks = callbacks
        self._new_id = new_id
        self._poison = {poison.identifier: poison for poison in config.poison}

    def assign(self, body: bytes, x_request_id: str | None, now: float) -> str:
        """Assign one more license to each device of the body; return the requestId."""
        if x_request_id is not None:
            _check_x_request_id(x_request_id)
        request, account, numbers = self._decode(body)
        if repeated := self._repeated(Action.ASSIGN, x_request_id):
            return repeated
        if len(numbers) > account.available(request.sku_number):
            account.refuse(numbers)
            raise license_refusal(400, f"Not enough licenses of {request.sku_number} are available.")
        if self._config.rules.exclusive and account.holds_other(request.sku_number, numbers):
            account.refuse(numbers)
            raise license_refusal(400, "A device of the request holds a license of another SKU.")
        failed = self._callbacks.draw_failures(len(numbers))
        licensed = _without(numbers, failed)
        account.assign(request.sku_number, licensed)
        request_id, sku = self._request_id(x_request_id), request.sku_number
        execution = Execution(request_id, x_request_id, Action.ASSIGN, account.name, sku, licensed, now)
        return self._record(execution, request, failed)

    def unassign(self, body: bytes, x_request_id: str | None, now: float) -> str:
        """Unassign the devices of the body; without a body, undo the transaction of that X-Request-ID."""
        if x_request_id is None:
            raise license_refusal(400, "X-Request-ID is required.")
        _check_x_request_id(x_request_id)
        if not body:
            return self._undo(x_request_id, now)
        request, account, numbers = self._decode(body)
        if repeated := self._repeated(Action.UNASSIGN, x_request_id):
            return repeated
        _check_revocable(request.sku_number)
        failed = self._callbacks.draw_failures(len(numbers))
        licensed = _without(numbers, failed)
        account.unassign(request.sku_number, licensed)
        request_id, sku = self._request_id(x_request_id), request.sku_number
        execution = Execution(request_id, x_request_id, Action.UNASSIGN, account.name, sku, licensed, now)
        return self._record(execution, request, failed)

    def counts(self, body: bytes) -> Subscriptions:
        """Return the license counts of an account, for one SKU or for all."""
        request = decode_body(body, _SUBSCRIPTIONS_BODY)
        account = self.account(request.account_name)
        if request.sku_number is not None:
            self._check_sku(request.sku_number)
        skus = [request.sku_number] if request.sku_number else list(account.bought)
        return Subscriptions(account.name, [_subscription(account, sku) for sku in skus])

    def account(self, name: str) -> AccountBook:
        """Return the account of that name; raise a Refusal if it does not exist."""
        if self._config.accounts and name not in self._config.accounts:
            raise platform_refusal("REQUEST_FAILED.AccountNotFound", f"There is no account {name}.")
        return self._books.account(name)

    def _record(self, execution: Execution, request: LicenseBody, failed: frozenset[int]) -> str:
        """Record an execution and schedule its callbacks; return its requestId."""
        self._books.record(execution)
        account, request_id = execution.account_name, execution.request_id
        self._callbacks.schedule(account, request_id, request.devices, failed, execution.at)
        return request_id

    def _request_id(self, x_request_id: str | None) -> str:
        """A requestId: the same for the same requests under the same seed, and for no other request.

        A rehearsal that is resumed has a new sandbox, which must not use the ids of the first one again.
        """
        return str(uuid.uuid5(uuid.UUID(self._new_id()), x_request_id or ""))

    def _decode(self, body: bytes) -> tuple[LicenseBody, AccountBook, "array[int]"]:
        request = decode_body(body, _LICENSE_BODY)
        account = self.account(request.account_name)
        self._check_sku(request.sku_number)
        check_identifiers(request.devices)
        numbers = account.numbers_of(request.devices)
        self._check_poison(request.devices, account, numbers)
        return request, account, numbers

    def _check_sku(self, sku: str) -> None:
        if sku not in self._config.licenses:
            raise license_refusal(400, f"SKU {sku} is not among the subscriptions of the account.")

    def _check_poison(self, devices: list[DeviceBody], account: AccountBook, numbers: "array[int]") -> None:
        if not self._poison:
            return
        for device in devices:
            for identifier in device.device_ids:
                if poison := self._poison.get(identifier.id):
                    account.refuse(numbers)
                    culprit = f"device {identifier.id}" if poison.named else "a device of the request"
                    raise platform_refusal(
                        poison.error_code, f"The request was refused because of {culprit}."
                    )

    def _repeated(self, action: Action, x_request_id: str | None) -> str | None:
        executed = self._books.executed(action, x_request_id) if self._config.rules.deduplicate else []
        return executed[0].request_id if executed else None

    def _undo(self, x_request_id: str, now: float) -> str:
        if not self._books.was_executed(Action.ASSIGN, x_request_id):
            raise license_refusal(404, f"There is no transaction {x_request_id}.")
        executed = self._books.executed(Action.ASSIGN, x_request_id)
        for execution in executed:
            _check_revocable(execution.sku_number)
        request_id = self._request_id(x_request_id)
        for execution in executed:
            numbers = self._books.account(execution.account_name).undo(execution)
            undone = replace(
                execution, request_id=request_id, action=Action.UNASSIGN, devices=numbers, at=now
            )
            self._books.record(undone)
        self._books.forget(Action.ASSIGN, x_request_id)
        return request_id


def _without(numbers: "array[int]", positions: frozenset[int]) -> "array[int]":
    if not positions:
        return numbers
    return array("I", [number for position, number in enumerate(numbers) if position not in positions])


def _check_x_request_id(x_request_id: str) -> None:
    if not _X_REQUEST_ID.fullmatch(x_request_id):
        raise license_refusal(400, "X-Request-ID must be one digit, a dash and 3 to 30 digits.")


def _check_revocable(sku: str) -> None:
    if SKUS.get(sku) is LicenseType.LIFETIME:
        raise license_refusal(400, f"Lifetime licenses ({sku}) can't be unassigned.")


def _subscription(account: AccountBook, sku: str) -> Subscription:
    return Subscription(
        sku_number=sku,
        license_type=SKUS.get(sku, LicenseType.FLEXIBLE).title(),
        license_purchased=account.bought[sku],
        license_assigned=account.in_use[sku],
        license_available=account.available(sku),
    )
