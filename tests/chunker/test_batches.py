"""A plan is read back as whole batches in order, with the identifiers that the job sends."""

from pathlib import Path

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.carrier.messages import AssignLicenseRequest, Device
from batchlic.chunker import batch as batch_module
from batchlic.chunker import format_ranges, parse_ranges, read_batches, read_whole_batches
from batchlic.reader import IdKind
from tests.pool.builders import batch
from tests.writer.builders import plan_of

PAIRS = {
    "imei": ["864508030000001", None, "864508030000019"],
    "iccid": ["89148000000000000001", "8914801", None],
}


def sent_identifiers(body: bytes) -> list[list[tuple[str, str]]]:
    request = msgspec.json.decode(body, type=AssignLicenseRequest)
    return [[(i.kind, i.id) for i in device.device_ids] for device in request.devices]


@given(st.lists(st.integers(1, 7), max_size=30), st.integers(8, 20), st.integers(1, 12))
def test_batches_are_whole_and_in_order_for_any_read_size(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], rows_per_read: int, first: int
) -> None:
    plan = plan_of(tmp_path_factory.mktemp("plan") / "plan.parquet", sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_module, "ROWS_PER_READ", rows_per_read)
        batches = list(read_batches(plan, IdKind.AUTO, first_batch=first))
        frames = list(read_whole_batches(plan))
    numbers = range(first, len(sizes) + 1)
    assert [(b.batch_id, len(b.devices), list(b.offsets)) for b in batches] == [
        (number, sizes[number - 1], list(range(sizes[number - 1]))) for number in numbers
    ]
    devices = [device for b in batches for device in sent_identifiers(b.body())]
    before = sum(sizes[: first - 1])
    assert devices == [[("IMEI", f"{n:015}")] for n in range(before, sum(sizes))]
    assert sum(frame.height for frame in frames) == sum(sizes)


@pytest.mark.parametrize(
    ("id_kind", "rows", "kinds"),
    [
        (IdKind.AUTO, [0, 1, 2], [["IMEI"], ["ICCID"], ["IMEI"]]),
        (IdKind.IMEI, [0, 2], [["IMEI"], ["IMEI"]]),
        (IdKind.ICCID, [0, 1], [["ICCID"], ["ICCID"]]),
        (IdKind.BOTH, [0], [["IMEI", "ICCID"]]),
    ],
)
def test_a_device_is_sent_with_the_identifiers_of_the_job(
    tmp_path: Path, id_kind: IdKind, rows: list[int], kinds: list[list[str]]
) -> None:
    """The reader rejects rows without the identifiers that the job sends."""
    plan = plan_of(tmp_path / "plan.parquet", [len(rows)])
    identifiers = {name: [values[row] for row in rows] for name, values in PAIRS.items()}
    frame = pl.read_parquet(plan).with_columns(
        pl.Series(name, values, dtype=pl.String) for name, values in identifiers.items()
    )
    frame.write_parquet(plan)
    [only] = read_batches(plan, id_kind)
    assert sent_identifiers(only.body()) == [
        [(kind, str(PAIRS[kind.lower()][row])) for kind in of_device]
        for row, of_device in zip(rows, kinds, strict=True)
    ]


def test_an_empty_plan_has_no_batches(tmp_path: Path) -> None:
    assert list(read_batches(plan_of(tmp_path / "plan.parquet", []), IdKind.AUTO)) == []


@given(st.sets(st.integers(0, 99)).map(sorted))
def test_a_part_name_can_be_parsed_to_its_offsets(offsets: list[int]) -> None:
    assert parse_ranges(format_ranges(offsets)) == offsets


@pytest.mark.parametrize("id_kind", list(IdKind))
def test_a_batch_divides_into_devices_with_any_identifiers(tmp_path: Path, id_kind: IdKind) -> None:
    plan = plan_of(tmp_path / "plan.parquet", [10])
    pl.read_parquet(plan).with_columns(iccid=pl.lit("89148000000000000001")).write_parquet(plan)
    [batch] = read_batches(plan, id_kind)
    request = msgspec.json.decode(batch.body(), type=AssignLicenseRequest)
    assert [msgspec.json.decode(device, type=Device) for device in batch.devices] == request.devices
    assert len(batch.devices) == 10


def test_a_device_without_the_identifier_to_send_is_an_error(tmp_path: Path) -> None:
    """The reader rejects such devices: without this rule, the places of the other devices would change."""
    plan = plan_of(tmp_path / "plan.parquet", [2])
    iccids = pl.Series("iccid", ["89148000000000000001", None])
    pl.read_parquet(plan).with_columns(iccids).write_parquet(plan)
    [batch] = read_batches(plan, IdKind.ICCID)
    with pytest.raises(TypeError):
        batch.body()


@given(st.sets(st.integers(0, 19), min_size=1).map(sorted))
def test_a_part_has_only_its_own_devices(offsets: list[int]) -> None:
    whole = batch(20)
    part = whole.take(offsets)
    assert list(part.devices) == [whole.devices[offset] for offset in offsets]
    assert part.take(offsets[:1]).devices == [whole.devices[offsets[0]]]


def test_i_an_x_request_id_repeats_only_within_a_run() -> None:
    """The id does not depend on the process that makes the batch."""
    runs = ["run-1", "run-2", "run-11"]

    def ids() -> list[str]:
        parts = (
            batch(),
            batch(batch_id=2),
            batch().take([0]),
            batch().take([0, 1]),
            batch(batch_id=2).take([0]),
        )
        return [part.x_request_id(run) for run in runs for part in parts]

    assert ids() == ids()
    assert len(set(ids())) == 5 * len(runs)
    assert all(pl.Series(ids()).str.contains(r"^1-[0-9]{30}$"))


def test_i_x_request_ids_are_the_same_in_every_version() -> None:
    assert batch().x_request_id("run-1") == "1-682749061657096901706597567521"
    assert batch().take([0]).x_request_id("run-1") == "1-467608769512985724092436169285"
