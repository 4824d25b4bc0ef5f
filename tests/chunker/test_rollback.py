"""A rollback plans what was accepted, by request or by device, and rejects Lifetime devices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from batchlic.chunker import DeviceStatus, Plan, PlanGroup, read_batches
from batchlic.chunker.rollback import write_rollback_plan
from batchlic.chunker.schema import PLAN, REJECTS, UNDOES
from batchlic.reader import IdKind, Source
from tests.reader.builders import ACCOUNT, SKU, imei

LIFETIME = "SIMSec-IoT-Lt"
TEXTS = ("source", "imei", "iccid", "account_name", "sku_number", "status", "x_request_id")


@dataclass(frozen=True)
class Device:
    """The state of a device of a run."""

    batch_id: int | None
    request: str | None
    status: DeviceStatus = DeviceStatus.ACCEPTED
    sku_number: str = SKU


def states(devices: Sequence[Device], first_row: int = 1) -> pl.DataFrame:
    rows = range(first_row, first_row + len(devices))
    return pl.DataFrame(
        {
            "run_id": ["run-1"] * len(devices),
            "batch_id": pl.Series([device.batch_id for device in devices], dtype=pl.UInt32),
            "source": ["fleet.csv"] * len(devices),
            "row": pl.Series(rows, dtype=pl.UInt64),
            "imei": [imei(row) for row in rows],
            "iccid": [None] * len(devices),
            "account_name": [ACCOUNT] * len(devices),
            "sku_number": [device.sku_number for device in devices],
            "status": [device.status.value for device in devices],
            "x_request_id": [device.request for device in devices],
        },
        schema_overrides=dict.fromkeys(TEXTS, pl.String),
    )


def plan(folder: Path, *frames: Sequence[Device], by_request: bool) -> Plan:
    """Plan the rollback of a run whose states come in these frames."""

    def made() -> Iterator[pl.DataFrame]:
        first_row = 1
        for devices in frames:
            yield states(devices, first_row)
            first_row += len(devices)

    return write_rollback_plan(
        made, folder, source="runs/first", lifetime_skus=[LIFETIME], by_request=by_request
    )


def batches(folder: Path) -> list[tuple[int, int]]:
    """Batch and row of the first run's inventory, in the order of the plan."""
    return pl.read_parquet(folder / "plan.parquet").select("batch_id", "row").rows()


SPLIT = [Device(1, "a"), Device(1, "b", DeviceStatus.FAILED), Device(1, "c"), Device(1, "a")]
LATER = [Device(2, "d"), Device(3, "e", DeviceStatus.CONFIRMED), Device(3, "e")]


def test_by_request_a_batch_is_one_accepted_request(tmp_path: Path) -> None:
    plan(tmp_path, SPLIT, LATER, by_request=True)
    assert batches(tmp_path) == [(1, 1), (1, 4), (2, 3), (3, 5), (4, 6), (4, 7)]
    undone = [(b.undoes, len(b.offsets)) for b in read_batches(tmp_path / "plan.parquet", IdKind.AUTO)]
    assert undone == [("a", 2), ("c", 1), ("d", 1), ("e", 2)]


def test_by_device_a_batch_is_what_a_batch_has_accepted(tmp_path: Path) -> None:
    plan(tmp_path, SPLIT, LATER, by_request=False)
    assert batches(tmp_path) == [(1, 1), (1, 3), (1, 4), (2, 5), (3, 6), (3, 7)]
    assert {b.undoes for b in read_batches(tmp_path / "plan.parquet", IdKind.AUTO)} == {None}


def test_a_batch_without_accepted_devices_leaves_no_gap(tmp_path: Path) -> None:
    failed = [Device(2, "b", DeviceStatus.FAILED)]
    plan(tmp_path, [Device(1, "a")], failed, [Device(3, "c")], by_request=False)
    assert batches(tmp_path) == [(1, 1), (2, 3)]


@pytest.mark.parametrize(
    "status", [status for status in DeviceStatus if status not in {"accepted", "confirmed"}]
)
def test_a_device_that_was_not_accepted_is_left_out(tmp_path: Path, status: DeviceStatus) -> None:
    excluded = Device(None, None, status)
    summary = plan(tmp_path, [Device(1, "a"), Device(1, "b", status)], [excluded], by_request=True)
    assert (summary.rows_read, summary.planned, summary.rejected) == (1, 1, {})
    assert batches(tmp_path) == [(1, 1)]


@pytest.mark.parametrize("by_request", [True, False])
def test_e_lifetime_devices_are_rejected_as_irrevocable(tmp_path: Path, by_request: bool) -> None:  # noqa: FBT001
    lifetime = [Device(2, "b", sku_number=LIFETIME), Device(2, "c", DeviceStatus.FAILED, LIFETIME)]
    summary = plan(tmp_path, [Device(1, "a")], lifetime, [Device(3, "d")], by_request=by_request)
    assert (summary.rows_read, summary.planned, summary.rejected) == (3, 2, {"irrevocable": 1})
    rejects = pl.read_parquet(tmp_path / "rejects.parquet")
    assert rejects.select("row", "reason", "sku_number").rows() == [(2, "irrevocable", LIFETIME)]
    assert batches(tmp_path) == [(1, 1), (2, 4)]


def test_the_plan_counts_devices_and_batches_of_each_group(tmp_path: Path) -> None:
    other = [Device(4, "f", sku_number="SIMSec"), Device(4, "g", sku_number="SIMSec")]
    assert plan(tmp_path, SPLIT, LATER, other, by_request=True) == Plan(
        sources=(Source("runs/first", 8),),
        rows_read=8,
        rejected={},
        planned=8,
        excluded={},
        batches=6,
        groups=(
            PlanGroup(account_name=ACCOUNT, sku_number=SKU, devices=6, batches=4),
            PlanGroup(account_name=ACCOUNT, sku_number="SIMSec", devices=2, batches=2),
        ),
        notes=(),
    )


@pytest.mark.parametrize("by_request", [True, False])
@pytest.mark.parametrize("devices", [[], [Device(1, "a")]])
def test_the_files_have_the_columns_of_every_plan(
    tmp_path: Path,
    by_request: bool,  # noqa: FBT001
    devices: list[Device],
) -> None:
    plan(tmp_path, devices, by_request=by_request)
    schema = PLAN | UNDOES if by_request else PLAN
    assert dict(pl.read_parquet_schema(tmp_path / "plan.parquet")) == schema
    assert dict(pl.read_parquet_schema(tmp_path / "rejects.parquet")) == REJECTS
