"""The carrier's books: the licenses of every device, and every executed request.

Licenses: each executed assign of a device uses one license of its SKU, even if the device already holds one.
The carrier promises no idempotency, so a device that was licensed twice by mistake has two licenses here.
Unassigning a device returns all its licenses of the SKU. If the device holds none, the request is executed
and changes nothing. Undoing a transaction returns the licenses that its executions used, once.

Devices: a device is a set of identifiers. Identifiers in one `deviceIds` list belong to the same device from
then on, and each of them finds it. If that joins two devices (first IMEI alone and ICCID alone, then both),
the joined device has the licenses of both. Every well-formed device is active on every account, unless it is
poisoned.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import msgspec

from batchlic.carrier.catalog import Action
from batchlic.sandbox.request_bodies import DeviceBody


@dataclass(frozen=True, slots=True)
class Execution:
    """One executed request. `devices` are device numbers of the account; `at` is a time of anyio's clock."""

    request_id: str
    x_request_id: str | None
    action: Action
    account_name: str
    sku_number: str
    devices: "array[int]"
    at: float


class DeviceRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One device in the books.

    - `licenses`: the licenses that it holds now, by SKU; `sku_number`: the first of these SKUs, or null.
    - `assigned`, `unassigned`, `refused`: how many requests did that to the device.
    - `imei`, `iccid`: the first identifier of that kind; `further_ids`: all others, as `KIND:digits`.
    """

    account_name: str
    imei: str | None
    iccid: str | None
    sku_number: str | None
    licenses: dict[str, int]
    assigned: int
    unassigned: int
    refused: int
    further_ids: list[str] = []


class AccountBook:
    """Devices and licenses of one account. A device is a number, so a million devices need little memory."""

    def __init__(self, name: str, bought: dict[str, int]) -> None:
        self.name = name
        self.bought = bought
        self.in_use = dict.fromkeys(bought, 0)
        self.executions: list[Execution] = []
        self._refusals: Counter[int] = Counter()
        self._count = 0
        self._numbers: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._aliases: dict[int, int] = {}
        self._held = {sku: array("I") for sku in bought}

    @property
    def device_count(self) -> int:
        """Number of devices in any request about this account."""
        return self._count - len(self._aliases)

    def available(self, sku: str) -> int:
        """Number of licenses bought and not in use."""
        return self.bought[sku] - self.in_use[sku]

    def numbers_of(self, devices: Sequence[DeviceBody]) -> "array[int]":
        """Return the numbers of the devices of a request; new devices get a number."""
        return array("I", [self._number_of(device) for device in devices])

    def holds_other(self, sku: str, numbers: "array[int]") -> bool:
        """Whether any of the devices holds a license of another SKU."""
        columns = [self._held_of(other) for other in self.bought if other != sku]
        return any(held[number] for held in columns for number in numbers)

    def assign(self, sku: str, numbers: "array[int]") -> None:
        """Give each device one more license."""
        held = self._held_of(sku)
        for number in numbers:
            held[number] += 1
        self.in_use[sku] += len(numbers)

    def unassign(self, sku: str, numbers: "array[int]") -> None:
        """Take back all licenses of the SKU from each device."""
        held = self._held_of(sku)
        for number in numbers:
            self.in_use[sku] -= held[number]
            held[number] = 0

    def undo(self, execution: Execution) -> "array[int]":
        """Take back the license that an assign gave to each device, if still held; return the devices."""
        sku = execution.sku_number
        held = self._held_of(sku)
        numbers = array("I", [self._current(number) for number in execution.devices])
        for number in numbers:
            taken = min(held[number], 1)
            held[number] -= taken
            self.in_use[sku] -= taken
        return numbers

    def refuse(self, numbers: "array[int]") -> None:
        """Count a refused request for each device."""
        self._refusals.update(numbers)

    def records(self) -> Iterator[DeviceRecord]:
        """Yield all devices of the account, in the order of their first request."""
        identifiers: list[list[tuple[str, str]]] = [[] for _ in range(self._count)]
        for kind, numbers in self._numbers.items():
            for digits, number in numbers.items():
                identifiers[self._current(number)].append((kind, digits))
        assigned, unassigned = self._executed(Action.ASSIGN), self._executed(Action.UNASSIGN)
        refused = self._count_by_device(self._refusals.elements())
        held = {sku: self._held_of(sku) for sku in self._held}
        for number, device_ids in enumerate(identifiers):
            if device_ids:
                licenses = {sku: column[number] for sku, column in held.items() if column[number]}
                requests = assigned[number], unassigned[number], refused[number]
                yield _record(self.name, device_ids, licenses, requests)

    def _executed(self, action: Action) -> "array[int]":
        executions = [execution for execution in self.executions if execution.action is action]
        return self._count_by_device(chain.from_iterable(execution.devices for execution in executions))

    def _count_by_device(self, numbers: Iterable[int]) -> "array[int]":
        """Count how often each device is in `numbers`."""
        counts = array("I", bytes(4 * self._count))
        for number in numbers:
            counts[self._current(number)] += 1
        return counts

    def _number_of(self, device: DeviceBody) -> int:
        new, number = self._count, -1
        for identifier in device.device_ids:
            found = self._numbers[identifier.kind].setdefault(identifier.id, new)
            if number < 0:
                number = found
            elif found != number:
                return self._join(device)
        if number == new:
            self._count += 1
        return self._current(number) if self._aliases else number

    def _join(self, device: DeviceBody) -> int:
        """Join the devices of these identifiers into one, by union-find over device numbers."""
        new = self._count
        numbers = {self._numbers[identifier.kind].get(identifier.id, new) for identifier in device.device_ids}
        existing = {self._current(number) for number in numbers - {new}}
        joined = min(existing)
        for identifier in device.device_ids:
            self._numbers[identifier.kind][identifier.id] = joined
        for other in existing - {joined}:
            self._aliases[other] = joined
            for held in map(self._held_of, self._held):
                held[joined] += held[other]
                held[other] = 0
        return joined

    def _current(self, number: int) -> int:
        while number in self._aliases:
            number = self._aliases[number]
        return number

    def _held_of(self, sku: str) -> "array[int]":
        held = self._held[sku]
        if len(held) < self._count:
            held.frombytes(bytes(held.itemsize * (self._count - len(held))))
        return held


def _record(
    account: str, identifiers: list[tuple[str, str]], licenses: dict[str, int], requests: tuple[int, int, int]
) -> DeviceRecord:
    first = dict(reversed(identifiers))
    own_fields = {("IMEI", first.get("IMEI")), ("ICCID", first.get("ICCID"))}
    return DeviceRecord(
        account,
        first.get("IMEI"),
        first.get("ICCID"),
        next(iter(licenses), None),
        licenses,
        *requests,
        further_ids=[f"{kind}:{digits}" for kind, digits in identifiers if (kind, digits) not in own_fields],
    )


class Books:
    """All accounts, and all executions in their order."""

    def __init__(self, bought: dict[str, int]) -> None:
        self._bought = bought
        self.accounts: dict[str, AccountBook] = {}
        self.executions: list[Execution] = []
        self._by_transaction: defaultdict[tuple[Action, str], list[Execution]] = defaultdict(list)

    def account(self, name: str) -> AccountBook:
        """Return the account of that name; the first call creates it."""
        if name not in self.accounts:
            self.accounts[name] = AccountBook(name, self._bought)
        return self.accounts[name]

    def record(self, execution: Execution) -> None:
        """Record an execution. The caller has already changed the licenses of the account."""
        self.executions.append(execution)
        self.account(execution.account_name).executions.append(execution)
        if execution.x_request_id is not None:
            self._by_transaction[execution.action, execution.x_request_id].append(execution)

    def executed(self, action: Action, x_request_id: str | None) -> list[Execution]:
        """Return the executions of a transaction that are not undone."""
        return self._by_transaction.get((action, x_request_id or ""), [])

    def was_executed(self, action: Action, x_request_id: str) -> bool:
        """Whether the transaction was executed, undone or not."""
        return (action, x_request_id) in self._by_transaction

    def forget(self, action: Action, x_request_id: str) -> None:
        """Note that a transaction is undone: undoing it again changes nothing."""
        self._by_transaction[action, x_request_id] = []

    def records(self) -> Iterator[DeviceRecord]:
        """Yield all devices of all accounts."""
        for account in self.accounts.values():
            yield from account.records()
