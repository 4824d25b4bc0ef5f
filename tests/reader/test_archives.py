"""Compressed files, archives and folders: every inventory in them is read, and what is left out is named."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from batchlic.errors import InventoryError
from batchlic.reader import ReadOptions
from tests.reader.builders import (
    ACCOUNT,
    JOB,
    SKU,
    as_sheet,
    as_workbook,
    csv_of,
    iccid,
    imei,
    plan_bytes,
    plan_files,
)

DEVICES: list[tuple[str | None, str | None]] = [(imei(n), iccid(n)) for n in range(3)]
PARTS = [csv_of([(imei(n), iccid(n))]) for n in range(3)]
WHOLE = csv_of([(imei(n), iccid(n)) for n in range(3)])
OTHER = "0000654321-00002"


def as_zip(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def as_tar(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


LAYERS = {
    "gzip in gzip": gzip.compress(gzip.compress(WHOLE)),
    "gzip in zip": as_zip({"fleet.csv.gz": gzip.compress(WHOLE)}),
    "zip in gzip": gzip.compress(as_zip({"fleet.csv": WHOLE})),
    "zip in zip": as_zip({"a.zip": as_zip({"fleet.csv": WHOLE})}),
    "xz in bz2": bz2.compress(lzma.compress(WHOLE)),
    "tar": as_tar({"fleet.csv": WHOLE}),
    "tar.gz": as_tar({"./export/fleet.csv": WHOLE}, "w:gz"),
    "tar.xz": as_tar({"fleet.csv": WHOLE}, "w:xz"),
    "workbook in gzip": gzip.compress(as_sheet([["IMEI", "ICCID"], *DEVICES])),
    "workbook in tar.bz2": as_tar({"a.xlsx": as_sheet([["IMEI", "ICCID"], *DEVICES])}, "w:bz2"),
}


@pytest.mark.parametrize("content", LAYERS.values(), ids=LAYERS)
def test_layers_are_unpacked(tmp_path: Path, content: bytes) -> None:
    planned = plan_bytes(tmp_path, content)
    assert planned.devices == DEVICES
    assert planned.plan["source"].unique().to_list() == [str(tmp_path / "inventory")]


def test_too_many_layers_are_refused(tmp_path: Path) -> None:
    content = WHOLE
    for _ in range(7):
        content = gzip.compress(content)
    with pytest.raises(InventoryError, match="packed more than 5 times"):
        plan_bytes(tmp_path, content)


@pytest.mark.parametrize("pack", [as_zip, as_tar])
def test_all_inventories_of_an_archive_are_read(tmp_path: Path, pack: type) -> None:
    files = {"b/south.csv": PARTS[0], "north.csv.gz": gzip.compress(PARTS[1]), "west.xlsx": b""}
    files["west.xlsx"] = as_sheet([["IMEI", "ICCID"], DEVICES[2]])
    planned = plan_bytes(tmp_path, pack(files), "fleet.pack")
    assert [source.name for source in planned.summary.sources] == [
        f"{tmp_path}/fleet.pack/{name}" for name in ("b/south.csv", "north.csv.gz", "west.xlsx")
    ]
    assert planned.devices == DEVICES


@pytest.mark.parametrize("pack", [as_zip, as_tar])
@pytest.mark.parametrize(
    "name", ["README.md", "__MACOSX/._fleet.csv", ".DS_Store", "fleet.csv.sha256", "LICENSE", "Thumbs.db"]
)
def test_what_is_left_out_of_an_archive_is_named(tmp_path: Path, pack: type, name: str) -> None:
    planned = plan_bytes(tmp_path, pack({name: b"\0\1", "fleet.csv": WHOLE}))
    assert planned.devices == DEVICES
    assert any(f"left out: {name}" in note for note in planned.summary.notes)


@pytest.mark.parametrize("pack", [as_zip, as_tar])
def test_an_archive_without_inventory_is_refused(tmp_path: Path, pack: type) -> None:
    with pytest.raises(InventoryError, match=r"there is no inventory in this archive: README\.md"):
        plan_bytes(tmp_path, pack({"README.md": b"x"}))


@pytest.mark.parametrize("cut", [40, 600])
def test_a_damaged_archive_is_refused(tmp_path: Path, cut: int) -> None:
    for content in (as_zip({"a.csv": WHOLE})[:-cut], as_tar({"a.csv": WHOLE}, "w:gz")[: -cut // 10]):
        with pytest.raises(InventoryError, match=r"damaged|cut off"):
            plan_bytes(tmp_path, content)


LEFT_OUT = [
    "_SUCCESS",
    "~$fleet.xlsx",
    "README.md",
    "readme.txt",
    "fleet.csv.md5",
    "SHA256SUMS",
    "import.log",
    "desktop.ini",
    "ledger.db",
    "fleet.csv.bak",
    "_temporary/0/part.csv",
]


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_file_that_is_no_inventory_is_left_out_of_a_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("no inventory")
    (folder / "fleet.csv").write_bytes(WHOLE)
    planned = plan_files(tmp_path, str(folder))
    assert planned.devices == DEVICES
    assert any("left out" in note and name in note for note in planned.summary.notes)


@pytest.mark.parametrize(
    "name", ["license_devices.csv", "readme-fleet.csv", "manifest.csv", "log.csv", "db.json"]
)
def test_an_inventory_with_any_other_name_is_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / name).write_bytes(WHOLE)
    assert plan_files(tmp_path, str(folder)).devices == DEVICES


@pytest.mark.parametrize("name", ["_fleet.csv", "fleet.csv.bak", "README.md", ".fleet"])
def test_a_file_that_is_named_is_always_read(tmp_path: Path, name: str) -> None:
    assert plan_bytes(tmp_path, WHOLE, name).devices == DEVICES


def test_a_glob_leaves_out_what_is_no_inventory(tmp_path: Path) -> None:
    for name in ("fleet.csv", "fleet.csv.md5", "README.md"):
        (tmp_path / name).write_bytes(WHOLE)
    assert plan_files(tmp_path, f"{tmp_path}/*").devices == DEVICES


@pytest.mark.parametrize("name", ["north.csv", "north", "day/north.csv"])
def test_a_broken_link_in_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    link = tmp_path / "data" / name
    link.parent.mkdir(parents=True)
    (tmp_path / "data/south.csv").write_bytes(WHOLE)
    link.symlink_to("nowhere")
    with pytest.raises(InventoryError, match=f"{name}.*No such file"):
        plan_files(tmp_path, str(tmp_path / "data"))


def test_a_broken_link_that_is_hidden_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "fleet.csv").write_bytes(WHOLE)
    (folder / ".#fleet.csv").symlink_to("me@host.4711")  # the lock of an editor
    assert plan_files(tmp_path, str(folder)).devices == DEVICES


def test_the_folders_of_earlier_runs_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_bytes(WHOLE)
    (tmp_path / "runs/first").mkdir(parents=True)
    plan_files(tmp_path / "runs/first", str(tmp_path / "fleet.csv"))
    (tmp_path / "out").mkdir()
    planned = plan_files(tmp_path / "out", str(tmp_path))
    assert planned.devices == DEVICES
    assert any("runs/first" in note for note in planned.summary.notes)


@pytest.mark.parametrize(
    ("mark", "kind"),
    [
        ("_delta_log/0.json", "a Delta table"),
        ("metadata/v1.metadata.json", "an Iceberg table"),
        (".hoodie/x", "a Hudi table"),
    ],
)
def test_a_table_of_another_program_is_refused(tmp_path: Path, mark: str, kind: str) -> None:
    folder = tmp_path / "table"
    (folder / mark).parent.mkdir(parents=True)
    (folder / mark).write_text("{}")
    pl.DataFrame({"imei": [imei(1)]}).write_parquet(folder / "part-0.parquet")
    for given in (folder, tmp_path):  # the table itself, and a folder around it
        with pytest.raises(InventoryError, match=kind):
            plan_files(tmp_path, str(given))


@pytest.mark.parametrize("key", ["account", "Account%20Name", "accountName"])
@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_folders_with_a_key_are_columns(tmp_path: Path, key: str, form: str) -> None:
    for number, account in enumerate((ACCOUNT, OTHER)):
        folder = tmp_path / f"data/{key.replace('%20', ' ')}={account}/day=3"
        folder.mkdir(parents=True)
        frame = pl.DataFrame({"imei": [imei(number)]})
        frame.write_parquet(folder / "a.parquet") if form == "parquet" else frame.write_csv(folder / "a.csv")
    planned = plan_files(tmp_path, str(tmp_path / "data"))
    assert planned.plan.sort("imei")["account_name"].to_list() == [ACCOUNT, OTHER]


def test_a_folder_of_rows_without_account_is_no_account(tmp_path: Path) -> None:
    folder = tmp_path / "account=__HIVE_DEFAULT_PARTITION__"
    folder.mkdir()
    assert plan_bytes(folder, WHOLE).plan["account_name"].unique().to_list() == [ACCOUNT]


def test_the_account_of_a_folder_can_be_left_out(tmp_path: Path) -> None:
    folder = tmp_path / f"account={OTHER}"
    folder.mkdir()
    options = ReadOptions(account=ACCOUNT, sku=SKU, columns={"account": "-"})
    assert plan_bytes(folder, WHOLE, options=options).plan["account_name"].unique().to_list() == [ACCOUNT]


PLACES = ["{}.csv", "{}/fleet.csv", "fleet_{}-2026-11.csv", "all/north {}/fleet.csv"]


@pytest.mark.parametrize("place", PLACES)
def test_a_name_with_another_account_is_refused(tmp_path: Path, place: str) -> None:
    path = tmp_path / "data" / place.format(OTHER)
    path.parent.mkdir(parents=True)
    path.write_bytes(WHOLE)
    with pytest.raises(InventoryError, match=f"contains the account {OTHER}, but 3 rows without an account"):
        plan_files(tmp_path, str(tmp_path / "data"))
    for options in (ReadOptions(account=OTHER, sku=SKU), replace(JOB, columns={"account": "-"})):
        assert plan_files(tmp_path, str(path), options=options).devices == DEVICES


def test_a_name_in_an_archive_with_another_account_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=f"contains the account {OTHER}"):
        plan_bytes(tmp_path, as_zip({f"{OTHER}/fleet.csv": WHOLE}))


def test_a_sheet_with_another_account_is_refused(tmp_path: Path) -> None:
    rows = [["IMEI"], [imei(0)]]
    with pytest.raises(InventoryError, match=f"the name '{OTHER}' contains the account"):
        plan_bytes(tmp_path, as_workbook({OTHER: rows, ACCOUNT: rows}))
    options = replace(JOB, sheet=ACCOUNT)
    assert plan_bytes(tmp_path, as_workbook({OTHER: rows, ACCOUNT: rows}), options=options).plan.height == 1


@pytest.mark.parametrize(
    "name",
    [
        f"{ACCOUNT}.csv",
        f"from {OTHER} to {ACCOUNT}.csv",
        f"{OTHER}7.csv",
        "1-2.csv",
        "e-1764526219-48213.csv",  # a time and a process
        "1764547200-00001.csv",
        "PO_4500012345-00010.csv",
    ],
)
def test_a_name_without_another_account_is_no_matter(tmp_path: Path, name: str) -> None:
    assert plan_bytes(tmp_path, WHOLE, name).devices == DEVICES


def test_the_account_of_a_row_wins_over_that_of_a_name(tmp_path: Path) -> None:
    content = csv_of([(imei(0), ACCOUNT), (imei(1), OTHER)], "IMEI,Account")
    assert plan_bytes(tmp_path, content, f"{OTHER}.csv").plan["account_name"].to_list() == [ACCOUNT, OTHER]


@pytest.mark.parametrize(
    "address",
    [
        "ftp://a/b*",
        "ftps://host/fleet.csv?sig=secret",
        "smb://user:secret@host/share/fleet.xlsx",
        "hdfs://host/fleet.parquet",
    ],
)
def test_an_address_that_is_not_read_says_so(tmp_path: Path, address: str) -> None:
    with pytest.raises(InventoryError, match="download the file first") as raised:
        plan_files(tmp_path, address)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("pack", [as_zip, as_tar])
@pytest.mark.parametrize("name", ["fleet.csv", "fleet.csv.gz"])
def test_the_folders_in_an_archive_are_columns(tmp_path: Path, pack: type, name: str) -> None:
    content = gzip.compress(WHOLE) if name.endswith(".gz") else WHOLE
    planned = plan_bytes(tmp_path, pack({f"account={OTHER}/{name}": content, "README.md": b"x"}))
    assert planned.plan["account_name"].unique().to_list() == [OTHER]
    assert any("left out: README.md" in note for note in planned.summary.notes)


@pytest.mark.parametrize("pack", [as_zip, as_tar])
@pytest.mark.parametrize(
    "inner",
    [
        {"fleet.csv": csv_of([(imei(1), "")])},
        {f"{n}.csv": csv_of([(imei(n), "")]) for n in (1, 2)},
    ],
)
def test_the_folders_around_an_inner_archive_are_columns(
    tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes], inner: dict[str, bytes]
) -> None:
    planned = plan_bytes(tmp_path, pack({f"account={OTHER}/inner.zip": as_zip(inner)}))
    assert planned.plan["account_name"].to_list() == [OTHER] * len(inner)


def test_empty_cells_have_the_account_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / f"account={OTHER}"
    folder.mkdir()
    planned = plan_bytes(folder, csv_of([(imei(1), ""), (imei(2), ACCOUNT)], "IMEI,Account"))
    assert planned.plan.sort("imei")["account_name"].to_list() == [OTHER, ACCOUNT]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_in_a_tar_archive_is_named(tmp_path: Path, kind: bytes) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        file = tarfile.TarInfo("fleet.csv")
        file.size = len(WHOLE)
        archive.addfile(file, io.BytesIO(WHOLE))
        link = tarfile.TarInfo("other.csv")
        link.type, link.linkname = kind, "fleet.csv"
        archive.addfile(link)
    planned = plan_bytes(tmp_path, packed.getvalue())
    assert planned.devices == DEVICES
    assert any("left out: other.csv (a link)" in note for note in planned.summary.notes)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_two_files_of_one_name_in_an_archive_are_refused(tmp_path: Path, form: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") if form == "tar" else zipfile.ZipFile(packed, "w") as archive:
        for _ in range(2):
            if isinstance(archive, zipfile.ZipFile):
                archive.writestr("fleet.csv", WHOLE)
            else:
                member = tarfile.TarInfo("fleet.csv")
                member.size = len(WHOLE)
                archive.addfile(member, io.BytesIO(WHOLE))
    with pytest.raises(InventoryError, match=r"two files in this archive are called 'fleet.csv'"):
        plan_bytes(tmp_path, packed.getvalue())
