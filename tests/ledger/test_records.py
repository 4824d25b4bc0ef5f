"""Ledger records from device states: which devices are recorded, and in which frame each of them is."""

from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.ledger import records as making
from batchlic.ledger.records import excluded_pairs, ledger_records, read_states
from batchlic.reader.validation.rules import iccid_number, imei_number
from batchlic.writer.device_states import RESULTS
from tests.reader.builders import ACCOUNT, SKU, iccid, imei

STATUSES = st.lists(st.sampled_from(["accepted", "confirmed", "failed", "pending", "in_doubt"]), max_size=20)


def states(statuses: list[str], *, x_request_id: str | None = "1-0123") -> pl.DataFrame:
    """One device for each status; the serial number of its IMEI is its place."""
    rows = [
        {"imei": imei(n), "account_name": ACCOUNT, "sku_number": SKU, "action": "assign", "status": status}
        for n, status in enumerate(statuses)
    ]
    return pl.DataFrame(rows, schema=RESULTS).with_columns(x_request_id=pl.lit(x_request_id, pl.String))


def imei_as_number(text: str) -> int:
    return int(pl.select(imei_number(pl.lit(text))).item())


@given(STATUSES, st.lists(st.integers(0, 20)), st.integers(1, 7))
def test_frames_of_records_do_not_depend_on_frames_of_states(
    statuses: list[str], cuts: list[int], rows_per_frame: int
) -> None:
    whole = states(statuses)
    edges = sorted({0, len(statuses), *(cut for cut in cuts if cut < len(statuses))})
    pieces = [whole[start:end] for start, end in pairwise(edges)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "RECORDS_PER_FRAME", rows_per_frame)
        frames = list(ledger_records(pieces))
        from_file = list(ledger_records(read_states(whole.lazy())))
    expected = []
    for start in range(0, len(statuses), rows_per_frame):
        numbers = range(start, min(start + rows_per_frame, len(statuses)))
        recorded = [imei(n) for n in numbers if statuses[n] in {"accepted", "confirmed", "in_doubt"}]
        expected.append([imei_as_number(text) for text in recorded])
    assert [frame["imei_number"].to_list() for frame in frames] == expected
    assert all(a.equals(b) for a, b in zip(frames, from_file, strict=True))


def test_devices_that_no_request_carried_are_not_recorded() -> None:
    [frame] = ledger_records([states(["in_doubt", "skipped", "failed"], x_request_id=None)])
    assert frame.is_empty()


def test_only_excluded_devices_with_both_identifiers_are_pairs(tmp_path: Path) -> None:
    pl.DataFrame(
        {
            "batch_id": pl.Series([1, None, None], dtype=pl.UInt32),
            "imei": [imei(0), imei(1), imei(2)],
            "iccid": [iccid(0), iccid(1), None],
        }
    ).write_parquet(tmp_path / "plan.parquet")
    pairs = pl.concat(excluded_pairs(tmp_path / "plan.parquet"))
    both = pl.DataFrame({"imei": [imei(1)], "iccid": [iccid(1)]})
    numbers = both.select(imei_number=imei_number(pl.col("imei")), iccid_number=iccid_number(pl.col("iccid")))
    assert pairs.equals(numbers)
