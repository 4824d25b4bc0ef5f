"""The options of `batchlic sandbox` are parsed, or refused by name."""

from pathlib import Path

import pytest

from batchlic.errors import UsageError
from batchlic.sandbox.config import Fault, Poison
from batchlic.sandbox.options import parse_change, parse_fault, parse_licenses, read_poison_file


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_can_be_asked_for_by_its_name(fault: Fault) -> None:
    assert parse_fault(f"{fault}=0.25") == (fault, 0.25)


def test_a_mistyped_fault_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="Did you mean reset-after"):
        parse_fault("reset_after=0.1")
    with pytest.raises(UsageError, match=r"Faults are: .*empty-503"):
        parse_fault("zzz=0.1")


@pytest.mark.parametrize(
    "text", ["reset-after", "reset-after=", "reset-after=x", "reset-after=1.5", "reset-after=-1"]
)
def test_a_fault_needs_a_rate_of_0_to_1(text: str) -> None:
    with pytest.raises(UsageError, match=text):
        parse_fault(text)


def test_license_counts_are_for_every_sku_or_one() -> None:
    everywhere = parse_licenses(["5", "SIMSec-IoT=7"])
    assert (everywhere["SIMSec-IoT"], everywhere["SIMSec-IoT-Lt"]) == (7, 5)
    assert parse_licenses(["SIMSec-IoT=7"]) == {"SIMSec-IoT": 7}
    with pytest.raises(UsageError, match="many"):
        parse_licenses(["many"])


def test_a_change_is_a_time_and_a_factor() -> None:
    assert parse_change("30=0.5") == (30.0, 0.5)
    with pytest.raises(UsageError, match="SECONDS=FACTOR"):
        parse_change("30")


def test_a_poison_file_has_devices_codes_and_named_or_silent(tmp_path: Path) -> None:
    path = tmp_path / "poison.csv"
    path.write_text(
        "# lost in the post\n864508030109877\n\n"
        "490154203237518, REQUEST_FAILED.DeviceNotFound\n"
        "89148000000800139708,,silent  # says nothing\n"
    )
    assert read_poison_file(path) == (
        Poison(identifier="864508030109877"),
        Poison(identifier="490154203237518", error_code="REQUEST_FAILED.DeviceNotFound"),
        Poison(identifier="89148000000800139708", named=False),
    )


@pytest.mark.parametrize(
    "line", ["86450803010987A", "12", "864508030109877,CODE,loud", "864508030109877,a,named,b"]
)
def test_a_wrong_line_of_a_poison_file_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "poison.csv"
    path.write_text(f"# header\n{line}\n")
    with pytest.raises(UsageError, match=r"poison\.csv, line 2"):
        read_poison_file(path)


def test_a_missing_poison_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absent"):
        read_poison_file(tmp_path / "absent")
