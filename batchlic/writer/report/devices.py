"""Totals of the device states for a report, in one pass over their frames and in bounded memory."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from batchlic.carrier.catalog import Action
from batchlic.chunker import DeviceStatus, Step
from batchlic.journal import LicenseCount
from batchlic.writer.in_doubt import doubts_in
from batchlic.writer.migrations import EXECUTED, STEP_STATUSES
from batchlic.writer.report.data import Doubt, Doubts, Failures, LicenseChange, StepStatuses, shown

DOUBTS_SHOWN = 20
FAILURES_SHOWN = 20
LICENSES_SHOWN = 50
EXAMPLES = 3

_CODES_COUNTED = 1000
"""Most codes of failures that are told apart: the carrier may send a new one with each answer."""

_GROUP = ("account_name", "sku_number", "from_sku", "status", "action", *STEP_STATUSES.values())
COUNTED = (*_GROUP, "settled_by")
"""The columns of the device states by which devices are counted."""

_CODE = ("step", "http_status", "error_code", "settled_by")

COLUMNS = (
    *_GROUP,
    "step",
    "imei",
    "iccid",
    "batch_id",
    "x_request_id",
    "http_status",
    "error_code",
    "error_message",
    "last_attempt_at",
    "settled_by",
)
"""The columns of the device states that a report reads; all of them are in results.parquet."""

_IS_IN_DOUBT = pl.col("status") == DeviceStatus.IN_DOUBT.value

NEEDS_DETAILS = pl.col("status").is_in([DeviceStatus.FAILED.value, DeviceStatus.IN_DOUBT.value])
"""Whether `add_details` reads a device."""


@dataclass
class _Code:
    devices: int = 0
    message: str | None = None
    examples: list[str] = field(default_factory=list)


class DeviceTotals:
    """Adds up frames of device states (columns: COLUMNS)."""

    def __init__(self) -> None:
        self._groups: Counter[tuple[str | None, ...]] = Counter()
        self._codes: dict[tuple[str | None, int | None, str | None, str | None], _Code] = {}
        self._other_failures = 0
        self._settled_by: Counter[str] = Counter()
        self._doubts: dict[tuple[int, str], Doubt] = {}
        self._requests_in_doubt: Counter[tuple[int, str]] = Counter()
        self._skus_in_doubt: set[str] = set()
        self._earlier_doubts: Counter[tuple[str | None, ...]] = Counter()
        """Devices in doubt since another run, as in `_groups`."""

    def add(self, frame: pl.DataFrame) -> None:
        """Add one frame."""
        self.add_counts(frame.group_by(COUNTED).len())
        self.add_details(frame)

    def add_counts(self, counts: pl.DataFrame) -> None:
        """Add devices that are counted (columns: COUNTED, len); `add_details` has to see them, too."""
        for *group, user, devices in counts.iter_rows():
            self._groups[tuple(group)] += devices
            if user is not None:
                self._settled_by[user] += devices

    def add_details(self, frame: pl.DataFrame) -> None:
        """Add codes, messages and requests of the devices that failed or are in doubt, without counting."""
        self._add_failures(frame.filter(pl.col("status") == DeviceStatus.FAILED.value))
        self._add_doubts(frame.filter(_IS_IN_DOUBT))

    def _add_failures(self, failed: pl.DataFrame) -> None:
        codes = failed.group_by(_CODE, maintain_order=True).agg(
            pl.len(),
            pl.col("error_message").drop_nulls().first(),
            pl.coalesce("imei", "iccid").head(EXAMPLES).alias("examples"),
        )
        for step, http_status, code, user, devices, message, examples in codes.iter_rows():
            key = (step, http_status, shown(code), user)
            if key not in self._codes and len(self._codes) == _CODES_COUNTED:
                self._other_failures += devices
                continue
            found = self._codes.setdefault(key, _Code())
            found.devices += devices
            found.message = found.message or shown(message)
            found.examples += examples[: EXAMPLES - len(found.examples)]

    def _add_doubts(self, in_doubt: pl.DataFrame) -> None:
        for *group, devices in (
            in_doubt.filter(pl.col("batch_id").is_null()).group_by(_GROUP).len().iter_rows()
        ):
            self._earlier_doubts[tuple(group)] += devices
        self._skus_in_doubt |= {*in_doubt["sku_number"]}
        for doubt in doubts_in(in_doubt.lazy()):
            key = (doubt.batch_id, doubt.x_request_id)
            self._requests_in_doubt[key] += len(doubt.devices)
            if len(self._doubts) < DOUBTS_SHOWN:
                self._doubts.setdefault(
                    key,
                    Doubt(
                        batch_id=doubt.batch_id,
                        x_request_id=doubt.x_request_id,
                        sku_number=doubt.sku_number,
                        sent_at=doubt.sent_at,
                        reason=shown(doubt.reason) or "",
                        devices=0,
                        examples=doubt.devices[:EXAMPLES],
                    ),
                )

    @property
    def statuses(self) -> dict[DeviceStatus, int]:
        """The devices by status."""
        totals: Counter[str] = Counter()
        for group, devices in self._groups.items():
            totals[str(group[3])] += devices
        return {DeviceStatus(status): totals[status] for status in sorted(totals)}

    @property
    def settled_by(self) -> dict[str, int]:
        """The devices whose status is a decision, by the user who decided, most first."""
        return dict(self._settled_by.most_common())

    @property
    def other_failures(self) -> int:
        """The devices that failed with codes that `failures` leaves out."""
        counted = sorted((code.devices for code in self._codes.values()), reverse=True)
        return self._other_failures + sum(counted[FAILURES_SHOWN:])

    def failures(self) -> list[Failures]:
        """The devices that failed by code, most first."""
        ordered = sorted(self._codes.items(), key=lambda item: -item[1].devices)
        return [
            Failures(
                step=step,
                http_status=http_status,
                error_code=code,
                settled_by=user,
                devices=found.devices,
                error_message=found.message,
                examples=found.examples,
            )
            for (step, http_status, code, user), found in ordered[:FAILURES_SHOWN]
        ]

    def doubts(self, lifetime_skus: Collection[str]) -> Doubts:
        """The devices in doubt, with the first of their requests."""
        return Doubts(
            devices=self._requests_in_doubt.total(),
            requests=len(self._requests_in_doubt),
            earlier=self._earlier_doubts.total(),
            shown=[
                Doubt(
                    batch_id=doubt.batch_id,
                    x_request_id=doubt.x_request_id,
                    sku_number=doubt.sku_number,
                    sent_at=doubt.sent_at,
                    reason=doubt.reason,
                    devices=self._requests_in_doubt[key],
                    examples=doubt.examples,
                )
                for key, doubt in self._doubts.items()
            ],
            is_lifetime=bool(self._skus_in_doubt & {*lifetime_skus}),
        )

    def steps(self) -> list[StepStatuses]:
        """The devices of a migration by the status of each step."""
        totals: dict[str, Counter[str]] = {step: Counter() for step in STEP_STATUSES}
        for group, devices in self._groups.items():
            for step, status in zip(STEP_STATUSES, group[5:], strict=True):
                if status is not None:
                    totals[step][status] += devices
        return [StepStatuses(step, dict(counts)) for step, counts in totals.items() if counts]

    def licenses(self, before: Sequence[LicenseCount]) -> list[LicenseChange]:
        """The licenses by account and SKU, before the run and as it changed them; most changed first."""
        changes: Counter[tuple[str, str]] = Counter()
        lost: Counter[tuple[str, str]] = Counter()
        for group, devices in self._groups.items():
            for (sku, by), status in _license_changes(group):
                place = (str(group[0]), sku)
                if status in EXECUTED:
                    changes[place] += by * devices
                elif status == DeviceStatus.IN_DOUBT.value:
                    lost[place] += devices - self._earlier_doubts[group]
        counted = {(one.account_name, one.sku_number): one for one in before}
        found = [
            LicenseChange(
                account_name=place[0],
                sku_number=place[1],
                assigned=counted[place].assigned if place in counted else None,
                available=counted[place].available if place in counted else None,
                change=changes[place],
                in_doubt=lost[place],
            )
            for place in sorted({*counted, *changes, *+lost})
        ]
        return sorted(found, key=lambda one: -abs(one.change))


def _license_changes(group: tuple[str | None, ...]) -> Iterable[tuple[tuple[str, int], str | None]]:
    """SKU and change of each request for a device of the group, and the status of that request."""
    _, sku, from_sku, status, action, *of_steps = group
    if from_sku is None:
        yield (str(sku), 1 if action == Action.ASSIGN.value else -1), status
        return
    by_step: Mapping[Step, str | None] = dict(zip(STEP_STATUSES, of_steps, strict=True))
    yield (from_sku, -1), by_step[Step.UNASSIGN]
    yield (str(sku), 1), by_step[Step.ASSIGN]
    restores_old = by_step[Step.ASSIGN] == DeviceStatus.FAILED.value
    yield ((from_sku, 1) if restores_old else (str(sku), -1)), by_step[Step.RESTORE]
