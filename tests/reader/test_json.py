"""JSON inventories: whatever the framing, each row is planned or rejected, or the file is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from batchlic.errors import InventoryError
from batchlic.reader import ReadOptions
from tests.reader.builders import ACCOUNT, JOB, SKU, iccid, imei, plan_bytes

OTHER_ACCOUNT = "0000654321-00002"
ROWS = [{"imei": imei(n), "iccid": iccid(n), "site": "x"} for n in range(4)]
DEVICES: list[tuple[str | None, str | None]] = [(imei(n), iccid(n)) for n in range(4)]
PAGES = (ROWS[:3], ROWS[3:])


def lines(*values: object) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def pretty(*values: object) -> bytes:
    return "\n".join(json.dumps(value, indent=2) for value in values).encode()


FRAMINGS = {
    "appended arrays": pretty(*PAGES),
    "arrays on one line": b"".join(json.dumps(page).encode() for page in PAGES),
    "one array a line": lines(*PAGES),
    "objects over several lines": pretty(*ROWS),
    "objects on one line": b"".join(json.dumps(row).encode() for row in ROWS),
    "objects and arrays": lines(ROWS[0], ROWS[1:3], ROWS[3]),
    "text sequence": b"".join(b"\x1e" + json.dumps(row).encode() + b"\n" for row in ROWS),
    "text sequence over several lines": b"".join(b"\x1e" + pretty(row) + b"\n" for row in ROWS),
    "a list in an object": lines({"hasMoreData": False, "devices": ROWS}),
    "a list in an object, pretty": pretty({"value": ROWS, "@odata.nextLink": None}),
    "a list in nested objects": lines({"data": {"sims": {"items": ROWS, "total": 4}}}),
    "pages of objects": lines(*({"devices": page, "more": page is PAGES[0]} for page in PAGES)),
    "pages over several lines": pretty(*({"devices": page} for page in PAGES)),
    "an empty last page": lines({"devices": ROWS}, {"devices": []}),
    "an empty first page": pretty([], ROWS),
    "a list beside an empty one": lines({"devices": ROWS, "errors": []}),
    "lists of cells": lines([list(row.values()) for row in ROWS]),
    "lists of cells with a header": lines([["imei", "iccid", "site"], *(list(row.values()) for row in ROWS)]),
    "byte order mark": b"\xef\xbb\xbf" + pretty(ROWS),
    "two byte order marks": b"\xef\xbb\xbf" * 2 + pretty(ROWS),
    "byte order marks of joined pages": b"".join(b"\xef\xbb\xbf" + pretty(page) for page in PAGES),
    "byte order marks of joined lines": b"".join(b"\xef\xbb\xbf" + lines(row) for row in ROWS),
    "UTF-16": json.dumps(ROWS).encode("utf-16"),
    "UTF-16 with two byte order marks": ("\ufeff" + json.dumps(ROWS)).encode("utf-16"),
    "UTF-32": json.dumps(ROWS).encode("utf-32"),
    "UTF-32 big-endian": pretty(*ROWS).decode().encode("utf-32-be"),
    "UTF-32 little-endian": lines(*ROWS).decode().encode("utf-32-le"),
    "spaces before colons": lines(*ROWS).replace(b'":', b'" :'),
    "a key twice with one value": lines(*ROWS).replace(b'"site": "x"', b'"site": "x", "site": "x"'),
    "CRLF": pretty(ROWS).replace(b"\n", b"\r\n"),
    "NaN": lines(*ROWS).replace(b'"x"', b"NaN"),
    "half of a surrogate pair": lines(*ROWS).replace(b'"x"', b'"\\ud83d"'),
    "Latin-1": lines(*ROWS).replace(b'"x"', b'"Z\xfcrich"'),
    "brackets in texts": lines(*({**row, "site": 'a}]"\\{['} for row in ROWS)),
    "brackets in texts of an array": pretty([{**row, "site": '"}],\\'} for row in ROWS]),
}


BLOCKS = [
    pytest.param(content, block_bytes, id=f"{name}, {block_bytes}")
    for name, content in FRAMINGS.items()
    for block_bytes in (1, 60, 1 << 20)
    if block_bytes > 1 or not any(word in name for word in ("list in", "list beside", "pages", "last page"))
]


@pytest.mark.parametrize(("content", "block_bytes"), BLOCKS)
def test_all_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, block_bytes: int
) -> None:
    monkeypatch.setattr("batchlic.reader.formats.json_rows.BLOCK_BYTES", block_bytes)
    planned = plan_bytes(tmp_path, content)
    assert planned.devices == DEVICES
    assert planned.rejects.is_empty()


@pytest.mark.parametrize(
    "content", [lines([row["imei"] for row in ROWS]), pretty([int(row["imei"]) for row in ROWS])]
)
def test_a_list_of_identifiers_is_an_inventory(tmp_path: Path, content: bytes) -> None:
    assert plan_bytes(tmp_path, content).devices == [(device[0], None) for device in DEVICES]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (pretty(ROWS) + b"\nError: connection reset\n", "not JSON: 'Error: connection reset"),
        (lines(*ROWS) + b"curl: (56) Recv failure\n", "line 5: not JSON: 'curl"),
        (lines(ROWS[0]) + b"<html>502</html>\n" + lines(ROWS[1]), "line 2: not JSON: '<html>"),
        (lines(ROWS[0]) + b"null\n" + lines(ROWS[1]), "line 2: not JSON: 'null"),
        (lines(ROWS[0]) + b'{"imei": oops}\n' + lines(ROWS[1]), "line 2: not JSON"),
        (lines(*ROWS)[:-30], "line 4: the object is cut off"),
        (pretty(ROWS)[:-30], "the list is cut off"),
        (lines({"devices": ROWS})[:-2], "cut off"),
        (
            lines({"devices": ROWS}) + lines({"error": "rate limited"}),
            "an object has no list 'devices': .*rate limited",
        ),
        (lines([ROWS[0], "x"]), 'item 2 is "x", and not an object'),
        (lines([["a"], ROWS[0]]), "some items are lists or texts, and some are objects"),
        (lines({"devices": ROWS[:2], "sims": ROWS[2:]}), "devices are in 'devices' and in 'sims'"),
        (lines({"devices": ROWS[:2], "sims": [{}, ROWS[2]]}), "devices are in 'devices' and in 'sims'"),
        (
            lines({"sims": ROWS[:1]}, {"imei": imei(2), "sims": []}),
            "some objects are devices, and have devices in",
        ),
        (pretty({"m1": {"imei": imei(1)}, "m2": {"iccid": iccid(2)}}), "under keys of their own"),
        (pretty({imei(n): ROWS[n] for n in range(3)}), "under keys of their own"),
        (pretty({"devices": {"a": {"imei": imei(1)}, "b": {"iccid": iccid(2)}}}), "under keys of their own"),
        (lines({"data": {"devices": {"a": ROWS[0], "b": ROWS[1]}}, "n": 2}), "under keys of their own"),
        (pretty({"0000654321-00002": ROWS}), "the devices are under the account 0000654321-00002"),
        (pretty({"by": {"0000654321-00002": ROWS}}), "the devices are under the account 0000654321-00002"),
        (lines({"account": OTHER_ACCOUNT, "imeis": [imei(1)]}), "'account' is beside a list of texts"),
        (b'{"a\tb": [1', "not JSON"),
        (
            lines({"imei": imei(1), "account": ACCOUNT}, {"imei": imei(2), "accountName": OTHER_ACCOUNT}),
            "2 columns could be the account",
        ),
        (lines({"account": {"name": OTHER_ACCOUNT}, "devices": ROWS}), "has accounts of the carrier"),
        (b'{"a": {"b": [1, 2]}}', "no known header"),
    ],
)
def test_text_that_is_no_row_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(InventoryError, match=complaint):
        plan_bytes(tmp_path, content)


@pytest.mark.parametrize(
    ("at", "block_bytes"),
    [(1, 100), (150, 100), (5_000, 4_000), (1, 1 << 20), (150, 1 << 20), (5_000, 1 << 20)],
)
def test_a_key_that_appears_late_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, block_bytes: int
) -> None:
    monkeypatch.setattr("batchlic.reader.formats.json_rows.BLOCK_BYTES", block_bytes)
    rows: list[dict[str, str]] = [{"imei": imei(n)} for n in range(at)]
    rows += [{"iccid": iccid(at)}, {"imei": imei(at + 1), "accountName": OTHER_ACCOUNT}]
    planned = plan_bytes(tmp_path, lines(*rows))
    assert planned.devices[at:] == [(None, iccid(at)), (imei(at + 1), None)]
    assert planned.plan.sort("row")["account_name"].to_list()[-2:] == [ACCOUNT, OTHER_ACCOUNT]


def test_a_late_key_that_changes_a_column_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchlic.reader.formats.json_rows.BLOCK_BYTES", 100)
    rows = [{"sim": iccid(n)} for n in range(50)] + [{"sim": "a", "iccid": iccid(50)}]
    with pytest.raises(InventoryError, match="under 'sim', and later ones under 'iccid'"):
        plan_bytes(tmp_path, lines(*rows))


def test_nested_identifiers_are_read_and_noted(tmp_path: Path) -> None:
    rows = [{"device": {"imei": imei(n)}, "sim": {"iccid": iccid(n), "id": n}} for n in range(4)]
    planned = plan_bytes(tmp_path, lines(*rows))
    assert planned.devices == DEVICES
    assert any("imei from 'device.imei'" in note for note in planned.summary.notes)


@pytest.mark.parametrize("imei_path", ["unit.serial", "UNIT.Serial"])
def test_a_path_names_a_nested_key(tmp_path: Path, imei_path: str) -> None:
    rows = [{"unit": {"serial": imei(n), "card": {"no": iccid(n)}}} for n in range(4)]
    options = ReadOptions(account=ACCOUNT, sku=SKU, columns={"imei": imei_path, "iccid": "unit.card.no"})
    assert plan_bytes(tmp_path, pretty(rows), options=options).devices == DEVICES


def test_the_error_for_unknown_nested_keys_suggests_the_path(tmp_path: Path) -> None:
    rows = [{"unit": {"serial": imei(n)}} for n in range(4)]
    with pytest.raises(InventoryError, match=r"--column imei=unit\.serial"):
        plan_bytes(tmp_path, lines(*rows))


def test_identifiers_with_id_and_kind_are_read(tmp_path: Path) -> None:
    rows = [
        {
            "accountName": OTHER_ACCOUNT,
            "deviceIds": [
                {"id": "5550100001", "kind": "mdn"},
                {"id": imei(n), "kind": "imei"},
                {"id": iccid(n), "kind": "iccId"},
            ],
        }
        for n in range(4)
    ]
    planned = plan_bytes(tmp_path, pretty({"hasMoreData": False, "devices": rows}))
    assert planned.devices == DEVICES
    assert planned.plan["account_name"].unique().to_list() == [OTHER_ACCOUNT]


def test_two_identifiers_of_one_kind_are_rejected(tmp_path: Path) -> None:
    identifiers = [{"id": imei(1), "kind": "imei"}, {"id": imei(2), "kind": "imei"}]
    assert plan_bytes(tmp_path, lines({"deviceIds": identifiers})).reasons == {1: "not_digits"}


@pytest.mark.parametrize("key", ["accountName", "account"])
@pytest.mark.parametrize("block_bytes", [60, 1 << 20])
def test_the_account_around_a_list_holds_for_its_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, block_bytes: int
) -> None:
    monkeypatch.setattr("batchlic.reader.formats.json_rows.BLOCK_BYTES", block_bytes)
    pages = (
        {key: account, "deviceList": page}
        for account, page in zip((ACCOUNT, OTHER_ACCOUNT), PAGES, strict=True)
    )
    planned = plan_bytes(tmp_path, lines(*pages))
    assert planned.plan.sort("row")["account_name"].to_list() == [ACCOUNT] * 3 + [OTHER_ACCOUNT]


def test_an_account_after_a_long_list_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchlic.reader.formats.json_rows.BLOCK_BYTES", 60)
    with pytest.raises(InventoryError, match="'accountName' comes after the list of devices"):
        plan_bytes(tmp_path, lines({"devices": ROWS, "accountName": OTHER_ACCOUNT}))


@pytest.mark.parametrize("key", ["hasMoreData", "has_more", "continues"])
@pytest.mark.parametrize("block_bytes", [60, 1 << 20])
def test_a_page_that_says_that_more_follow_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, block_bytes: int
) -> None:
    monkeypatch.setattr("batchlic.reader.formats.json_rows.BLOCK_BYTES", block_bytes)
    for around in ({key: True, "devices": ROWS}, {"data": {"devices": ROWS, key: True}}):
        with pytest.raises(InventoryError, match=f"'{key}' is true: this is one page of a longer list"):
            plan_bytes(tmp_path, lines(around))
    pages = lines({key: True, "devices": PAGES[0]}, {key: False, "devices": PAGES[1]})
    assert plan_bytes(tmp_path, pages).summary.planned == sum(map(len, PAGES))


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ({"nextPageToken": "abc"}, "'nextPageToken' names a next page"),
        ({"@odata.nextLink": "https://graph.example/devices?skip=3"}, "'@odata.nextLink' names a next page"),
        ({"meta": {"next": "https://api.example/devices?offset=3"}}, "'next' names a next page"),
        ({"links": {"next": {"href": "/devices?offset=3"}}}, "'next' names a next page"),
        ({"total": 4000}, f"'total' is 4,000, but the list has {len(ROWS)} rows"),
        ({"meta": {"total_results": "4000"}}, f"'total_results' is 4,000, but the list has {len(ROWS)} rows"),
    ],
)
@pytest.mark.parametrize("block_bytes", [60, 1 << 20])
def test_a_list_that_seems_to_be_one_of_several_pages_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, object], note: str, block_bytes: int
) -> None:
    monkeypatch.setattr("batchlic.reader.formats.json_rows.BLOCK_BYTES", block_bytes)
    planned = plan_bytes(tmp_path, lines({"devices": ROWS, **more}))
    assert any(one.endswith(note) for one in planned.summary.notes)


@pytest.mark.parametrize(
    "around",
    [
        {"nextPageToken": ""},
        {"meta": {"next": None, "total": len(ROWS)}},
        {"links": {"next": {"href": None}}},
        {"count": "3"},
        {"total": None},
        {"plan": {"total": 500}},
    ],
)
def test_a_list_that_is_whole_has_no_note(tmp_path: Path, around: dict[str, object]) -> None:
    notes = plan_bytes(tmp_path, lines({**around, "devices": ROWS})).summary.notes
    assert not any("next page" in note or "but the list has" in note for note in notes)


def test_a_list_in_an_object_without_identifiers_is_no_list_of_devices(tmp_path: Path) -> None:
    rows = [{"name": "x", "history": [ROWS[0]]}, *ROWS]
    assert plan_bytes(tmp_path, lines(rows)).summary.planned == len(ROWS)


def test_a_list_that_is_not_read_is_noted(tmp_path: Path) -> None:
    planned = plan_bytes(tmp_path, lines({"devices": ROWS, "links": [{"rel": "next"}]}))
    assert any("the list 'links' is not read" in note for note in planned.summary.notes)


@pytest.mark.parametrize(
    "content", [b"[Fleet of the north]\nIMEI\n" + imei(1).encode(), b"{fleet}\nIMEI\n" + imei(1).encode()]
)
def test_a_title_in_brackets_is_no_json(tmp_path: Path, content: bytes) -> None:
    assert plan_bytes(tmp_path, content).devices == [(imei(1), None)]


def test_numbers_keep_all_digits(tmp_path: Path) -> None:
    content = b'{"imei": %b, "iccid": %b}\n{"imei": 3.59907E+14}\n' % (imei(1).encode(), iccid(1).encode())
    planned = plan_bytes(tmp_path, content, options=JOB)
    assert planned.devices == [(imei(1), iccid(1))]
    assert planned.reasons == {2: "mangled_number"}


@pytest.mark.slow
@pytest.mark.parametrize("block_bytes", [100, 1 << 20])
def test_a_nested_key_that_appears_late_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr("batchlic.reader.formats.json_rows.BLOCK_BYTES", block_bytes)
    rows: list[object] = [{"imei": imei(n), "card": None} for n in range(300)]
    rows.append({"imei": None, "card": {"iccid": iccid(300)}})
    assert plan_bytes(tmp_path, lines(*rows)).devices[300] == (None, iccid(300))


TWICE = [
    '{{"imei": "{0}", "imei": "{1}"}}',
    '{{"imei" : "{0}", "imei" : "{1}", "site": "a"}}',
    '{{"imei" : "{0}", "imei": "{1}"}}',
    '{{"imei": "{0}", "imei": "{1}", "site": "a\\u0022:"}}',
    '{{"imei": "{0}", "imei": "{1}", "site": "\\u003a"}}',
    '{{"imei": "{0}", "imei": "{1}", "at": "12\\u003A30"}}',
    '{{"imei": {0}, "imei": {1}}}',
    '{{"imei": "{0}", "im\\u0065i": "{1}"}}',
    '{{"imei": "{0}", "imei"\t: "{1}"}}',
    '{{"imei": "{0}", "site": "a\\":", "imei": "{1}"}}',
    '{{"imei": "{0}", "n": 123456789012345678901234567890, "imei": "{1}"}}',
    '{{"site": {{"a": [{{"b": 1}}]}}, "imei": "{0}", "imei": "{1}"}}',
    '{{"device": {{"imei": "{0}", "imei": "{1}"}}}}',
]


@pytest.mark.parametrize("row", TWICE)
@pytest.mark.parametrize("form", ["{}\n", "[{}]", "[\n{}\n]", '{{"devices": [{}]}}'])
@pytest.mark.parametrize("block_bytes", [10, 1 << 20])
def test_a_key_with_two_values_is_rejected_with_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str, form: str, block_bytes: int
) -> None:
    if form.startswith("{{") and block_bytes == 10:
        return  # the list must begin within a block
    monkeypatch.setattr("batchlic.reader.formats.json_rows.BLOCK_BYTES", block_bytes)
    planned = plan_bytes(tmp_path, form.format(row.format(imei(1), imei(2))).encode())
    assert planned.reasons == {1: "not_digits"}
    assert f"{imei(1)} and {imei(2)}" in planned.message(1)


@pytest.mark.parametrize("key", ["account", "sku"])
def test_an_account_or_sku_with_two_values_is_rejected(tmp_path: Path, key: str) -> None:
    values = {"account": (ACCOUNT, OTHER_ACCOUNT), "sku": (SKU, "SIMSec-IoT-Lt")}[key]
    row = f'{{"imei": "{imei(1)}", "{key}": "{values[0]}", "{key}": "{values[1]}"}}'
    planned = plan_bytes(tmp_path, row.encode())
    assert planned.reasons == {1: {"account": "bad_account", "sku": "unknown_sku"}[key]}


@pytest.mark.parametrize(
    "text",
    [
        '{{"devices": [{0}], "devices": [{1}]}}',
        '{{"devices": [], "total": 1, "devices": [{1}]}}',
        '{{"data": {{"devices": [{0}]}}, "data": {{"devices": [{1}]}}}}',
        '[{{"imei": "{2}", "sim": {{"a": 1}}, "sim": {{"a": 2}}}}]',
    ],
)
def test_a_list_or_object_under_a_key_that_repeats_is_refused(tmp_path: Path, text: str) -> None:
    rows = [json.dumps(row) for row in ROWS[:2]]
    with pytest.raises(InventoryError, match=r"'(devices|data|sim)' occurs twice in one object"):
        plan_bytes(tmp_path, text.format(*rows, imei(1)).encode())


COLUMNS = {
    "pandas orient=columns": {"imei": {"0": imei(0), "1": imei(1)}, "iccid": {"0": iccid(0), "1": iccid(1)}},
    "pandas orient=list": {"imei": [imei(0), imei(1)], "site": ["a", "b"]},
    "pandas orient=split": {"columns": ["imei"], "index": [0, 1], "data": [[imei(0)], [imei(1)]]},
    "fields and rows": {"fields": ["ICCID", "x"], "rows": [[iccid(0), 1], [iccid(1), 2]]},
    "names in objects": {"Columns": [{"ColumnName": "imei"}], "Rows": [[imei(0)], [imei(1)]]},
    "many": {"iccid": [iccid(n) for n in range(300)], "imei": [imei(n) for n in range(300)]},
}


@pytest.mark.parametrize("value", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("block_bytes", [2000, 1 << 20])
def test_json_by_column_is_refused_with_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: dict[str, object],
    indent: int | None,
    block_bytes: int,
) -> None:
    monkeypatch.setattr("batchlic.reader.formats.json_rows.BLOCK_BYTES", block_bytes)
    with pytest.raises(InventoryError, match=r"column by column: write it as a list .*orient=.records"):
        plan_bytes(tmp_path, json.dumps(value, indent=indent).encode())


@pytest.mark.parametrize("keys", [("a", "b"), (ACCOUNT, OTHER_ACCOUNT), ("active", "spare")])
def test_devices_in_several_lists_are_refused_with_what_to_do(tmp_path: Path, keys: tuple[str, str]) -> None:
    value = dict(zip(keys, PAGES, strict=True))
    with pytest.raises(
        InventoryError, match=r"write all of them as one list, and whatever .* as a key of each"
    ):
        plan_bytes(tmp_path, json.dumps(value).encode())


def test_accounts_of_the_devices_count_more_than_the_key_above_them(tmp_path: Path) -> None:
    other = "0000654321-00002"
    content = json.dumps({other: [{"imei": imei(1), "account": other}]}).encode()
    assert plan_bytes(tmp_path, content).plan["account_name"].to_list() == [other]


@pytest.mark.parametrize("around", [lambda items: items, lambda items: {"accounts": items}])
def test_lists_of_devices_in_a_list_are_refused_with_what_to_do(
    tmp_path: Path, around: Callable[[list[object]], object]
) -> None:
    items: list[object] = [{"accountName": OTHER_ACCOUNT, "devices": page} for page in PAGES]
    with pytest.raises(InventoryError, match="under 'devices': write one of these items per line"):
        plan_bytes(tmp_path, json.dumps(around(items)).encode())
    assert plan_bytes(tmp_path, lines(*items)).plan["account_name"].unique().to_list() == [OTHER_ACCOUNT]


def test_the_cards_of_one_device_are_no_devices_of_their_own(tmp_path: Path) -> None:
    slots = {"1": {"iccid": iccid(1)}, "2": {"state": "empty"}}
    content = json.dumps({"imei": imei(1), "slots": slots}).encode()
    assert plan_bytes(tmp_path, content).plan["imei"].to_list() == [imei(1)]
