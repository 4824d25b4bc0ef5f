"""The truth: which device holds which licenses, and every request that was executed.

What one license is. Each executed assign of a device uses up ONE license of that SKU, also when the device
already holds one: the carrier promises no idempotency, so a device that was licensed twice by mistake shows
here with two licenses, and the account with one license fewer. Unassigning a device gives back all licenses
of that SKU that it holds; of a device that holds none it is executed and changes nothing. Undoing a
transaction gives back what its executions took, once.

What one device is. A set of identifiers. Identifiers that come together in one request belong to one device
from then on; only then is the device found by either of them. Two devices that turn out to be one (IMEI
alone, ICCID alone, then both together) become one, with the licenses of both. Every well-formed device is
active and on every account, unless it is poisoned.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import msgspec

from batchlic.carrier.catalogue import Action
from batchlic.sandbox.bodies import DeviceBody


@dataclass(frozen=True, slots=True)
class Execution:
    """One request that was executed: `devices` as numbers of its account, `at` on anyio's clock."""

    request_id: str
    x_request_id: str | None
    action: Action
    account_name: str
    sku_number: str
    devices: "array[int]"
    at: float


class DeviceRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the books say of one device; counts in requests that concerned it.

    `licenses` are those it holds now, by SKU; `sku_number` is the SKU it holds, or null. `imei` and `iccid`
    are the first identifier of that kind, `further_ids` all others as `KIND:digits`.
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
    """Devices and licenses of one account; a device is a number, so that a million cost little memory."""

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
        """How many devices this account has ever been asked about."""
        return self._count - len(self._aliases)

    def available(self, sku: str) -> int:
        """Licenses bought and not in use."""
        return self.bought[sku] - self.in_use[sku]

    def numbers_of(self, devices: Sequence[DeviceBody]) -> "array[int]":
        """Device numbers of a request's devices; devices not seen before are entered."""
        return array("I", [self._number_of(device) for device in devices])

    def holds_other(self, sku: str, numbers: "array[int]") -> bool:
        """Whether any of the devices holds a license of another SKU."""
        others = [self._held_of(other) for other in self.bought if other != sku]
        return any(held[number] for held in others for number in numbers)

    def assign(self, sku: str, numbers: "array[int]") -> None:
        """Every device takes one more license."""
        held = self._held_of(sku)
        for number in numbers:
            held[number] += 1
        self.in_use[sku] += len(numbers)

    def unassign(self, sku: str, numbers: "array[int]") -> None:
        """Every device gives back all licenses of the SKU."""
        held = self._held_of(sku)
        for number in numbers:
            self.in_use[sku] -= held[number]
            held[number] = 0

    def undo(self, execution: Execution) -> "array[int]":
        """Every device of the execution gives back the license it took, if it still has it."""
        sku = execution.sku_number
        held = self._held_of(sku)
        numbers = array("I", [self._current(number) for number in execution.devices])
        for number in numbers:
            taken = min(held[number], 1)
            held[number] -= taken
            self.in_use[sku] -= taken
        return numbers

    def refuse(self, numbers: "array[int]") -> None:
        """Every device was in a request that was refused."""
        self._refusals.update(numbers)

    def records(self) -> Iterator[DeviceRecord]:
        """All devices of the account, in the order in which they were first seen."""
        identifiers: list[list[tuple[str, str]]] = [[] for _ in range(self._count)]
        for kind, numbers in self._numbers.items():
            for digits, number in numbers.items():
                identifiers[self._current(number)].append((kind, digits))
        assigned, unassigned = self._executed(Action.ASSIGN), self._executed(Action.UNASSIGN)
        refused = self._summed(self._refusals.elements())
        held = {sku: self._held_of(sku) for sku in self._held}
        for number, known in enumerate(identifiers):
            if known:
                licenses = {sku: column[number] for sku, column in held.items() if column[number]}
                counts = assigned[number], unassigned[number], refused[number]
                yield _record(self.name, known, licenses, counts)

    def _executed(self, action: Action) -> "array[int]":
        executions = [execution for execution in self.executions if execution.action is action]
        return self._summed(chain.from_iterable(execution.devices for execution in executions))

    def _summed(self, numbers: Iterable[int]) -> "array[int]":
        """How often each device is among the numbers."""
        sums = array("I", bytes(4 * self._count))
        for number in numbers:
            sums[self._current(number)] += 1
        return sums

    def _number_of(self, device: DeviceBody) -> int:
        new, number = self._count, -1
        for named in device.device_ids:
            known = self._numbers[named.kind].setdefault(named.id, new)
            if number < 0:
                number = known
            elif known != number:
                return self._join(device)
        if number == new:
            self._count += 1
        return self._current(number) if self._aliases else number

    def _join(self, device: DeviceBody) -> int:
        """Make one device of identifiers that come together; union-find over device numbers."""
        new = self._count
        numbers = {self._numbers[named.kind].get(named.id, new) for named in device.device_ids}
        known = {self._current(number) for number in numbers - {new}}
        joined = min(known)
        for named in device.device_ids:
            self._numbers[named.kind][named.id] = joined
        for other in known - {joined}:
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
    account: str, identifiers: list[tuple[str, str]], licenses: dict[str, int], counts: tuple[int, int, int]
) -> DeviceRecord:
    first = dict(reversed(identifiers))
    shown = {("IMEI", first.get("IMEI")), ("ICCID", first.get("ICCID"))}
    return DeviceRecord(
        account,
        first.get("IMEI"),
        first.get("ICCID"),
        next(iter(licenses), None),
        licenses,
        *counts,
        further_ids=[f"{kind}:{digits}" for kind, digits in identifiers if (kind, digits) not in shown],
    )


class Books:
    """All accounts, and every execution in the order in which it happened."""

    def __init__(self, bought: dict[str, int]) -> None:
        self._bought = bought
        self.accounts: dict[str, AccountBook] = {}
        self.executions: list[Execution] = []
        self._by_transaction: defaultdict[tuple[Action, str], list[Execution]] = defaultdict(list)

    def account(self, name: str) -> AccountBook:
        """The account of that name, opened when first asked for."""
        if name not in self.accounts:
            self.accounts[name] = AccountBook(name, self._bought)
        return self.accounts[name]

    def record(self, execution: Execution) -> None:
        """Enter an execution; the caller has changed the account's licenses."""
        self.executions.append(execution)
        self.account(execution.account_name).executions.append(execution)
        if execution.x_request_id is not None:
            self._by_transaction[execution.action, execution.x_request_id].append(execution)

    def executed(self, action: Action, x_request_id: str | None) -> list[Execution]:
        """Executions of a transaction that were not undone since; empty where there was none."""
        return self._by_transaction.get((action, x_request_id or ""), [])

    def was_executed(self, action: Action, x_request_id: str) -> bool:
        """Whether the transaction was ever executed, undone since or not."""
        return (action, x_request_id) in self._by_transaction

    def forget(self, action: Action, x_request_id: str) -> None:
        """A transaction was undone: undoing it again changes nothing."""
        self._by_transaction[action, x_request_id] = []

    def records(self) -> Iterator[DeviceRecord]:
        """All devices of all accounts."""
        for account in self.accounts.values():
            yield from account.records()
