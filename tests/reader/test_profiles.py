"""Exports of well-known platforms are recognized by their columns."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from batchlic.errors import InventoryError, UsageError
from batchlic.reader.columns.headers import fold
from batchlic.reader.columns.profiles import PROFILES, Profile, named, recognized
from batchlic.reader.roles import IDENTIFIERS, Role
from tests.reader.builders import imei, plan_bytes, plan_files

EXPORTS = Path(__file__).parents[2] / "sample_data/exports"
EACH_PROFILE = pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)


def rows_of(sample: str) -> list[dict[str, object]]:
    """The rows of a sample with the columns that the reader gives them."""
    path = EXPORTS / sample
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [dict(row) for row in csv.DictReader(file)]
    content = json.loads(path.read_text())
    if isinstance(content, dict):
        [content] = [value for value in content.values() if isinstance(value, list)]
    return [dict(flattened(row)) for row in content]


def flattened(row: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in row.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(is_identifier(item) for item in value):
            yield from ((f"{prefix}{key}.{item['kind']}", item["id"]) for item in value)
        else:
            yield prefix + key, value


def is_identifier(item: object) -> bool:
    return isinstance(item, dict) and item.keys() == {"id", "kind"}


def headers_of(sample: str) -> list[str]:
    return list(rows_of(sample)[0])


def test_the_names_are_unique() -> None:
    assert len({profile.name for profile in PROFILES}) == len(PROFILES)


def test_the_folder_holds_one_sample_for_each_profile() -> None:
    assert sorted(path.name for path in EXPORTS.iterdir()) == sorted(profile.sample for profile in PROFILES)


@EACH_PROFILE
def test_a_sample_has_the_signature_of_its_profile_only(profile: Profile) -> None:
    headers = {fold(header) for header in headers_of(profile.sample)}
    assert [other for other in PROFILES if headers.issuperset(map(fold, other.signature))] == [profile]
    assert recognized(headers_of(profile.sample)) is profile


@EACH_PROFILE
def test_a_sample_has_the_columns_of_its_profile(profile: Profile) -> None:
    assert set(profile.signature) | set(profile.columns.values()) <= set(headers_of(profile.sample))


@EACH_PROFILE
def test_a_profile_reads_an_identifier(profile: Profile) -> None:
    assert profile.columns.keys() & {Role.IMEI, Role.ICCID}


@EACH_PROFILE
def test_a_profile_reads_no_role_that_it_leaves_out(profile: Profile) -> None:
    assert not profile.columns.keys() & set(profile.left_out)


@EACH_PROFILE
def test_a_sample_is_planned_as_a_whole(tmp_path: Path, profile: Profile) -> None:
    rows = rows_of(profile.sample)
    planned = plan_files(tmp_path, str(EXPORTS / profile.sample))
    assert planned.devices == [
        (row.get(profile.columns.get(Role.IMEI, "")), row.get(profile.columns.get(Role.ICCID, "")))
        for row in rows
    ]


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ("accountName connected deviceIds.mdn deviceIds.imei groupNames", "thingspace"),
        ("deviceIds.IMEI deviceIds.ICCID", "thingspace"),
        ("deviceId mdn model licenseAssigned", "thingspace-software"),
        ("iccid status ratePlan communicationPlan", "control-center"),
        ("ICCID Status Rate_Plan Communication_Plan", "control-center"),
        ("id iccid iccid_with_luhn eid imsi msisdn endpoint", "emnify"),
        ("DeviceName DeviceId LastContact UPN IMEI", "intune"),
    ],
)
def test_an_export_with_fewer_columns_is_recognized(headers: str, name: str) -> None:
    assert recognized(headers.split()) is named(name)


@pytest.mark.parametrize(
    "headers",
    ["IMEI ICCID", "IMEI ICCID Account SKU", "iccid imsi msisdn imei status", "deviceId mdn model", ""],
)
def test_an_ordinary_inventory_is_no_known_export(headers: str) -> None:
    assert recognized(headers.split()) is None


def test_the_longest_signature_decides_between_two_profiles() -> None:
    headers = [*named("thingspace").signature, *named("thingspace-software").signature]
    assert recognized(headers) is named("thingspace-software")


def test_an_unknown_name_is_an_error_that_suggests_one() -> None:
    with pytest.raises(UsageError, match=r"no profile 'emnfy'; did you mean 'emnify'\? .* thingspace, "):
        named("emnfy")


@pytest.mark.parametrize(
    "profile", [profile for profile in PROFILES if profile.sample.endswith(".csv")], ids=lambda it: it.name
)
@pytest.mark.parametrize("spelled", [str, str.upper, str.lower])
def test_two_columns_of_one_name_are_refused(
    tmp_path: Path, profile: Profile, spelled: Callable[[str], str]
) -> None:
    role = next(role for role in IDENTIFIERS if role in profile.columns)
    header, *rows = (EXPORTS / profile.sample).read_text().splitlines()
    lines = [f"{spelled(profile.columns[role])},{header}", *(f"{imei(1)},{row}" for row in rows)]
    with pytest.raises(InventoryError, match=f"2 columns could be the {role}"):
        plan_bytes(tmp_path, "\n".join(lines).encode())


def test_two_kinds_of_one_name_are_refused(tmp_path: Path) -> None:
    kinds = [{"id": imei(1), "kind": "IMEI"}, {"id": imei(2), "kind": "imei"}]
    with pytest.raises(InventoryError, match=r"2 columns could be the imei: .*--column imei=deviceIds.IMEI"):
        plan_bytes(tmp_path, json.dumps({"deviceIds": kinds}).encode())
