"""Assign, unassign, undo and count: executed requests, refusals, and the books."""

from typing import Any

import msgspec
import pytest

from batchlic.sandbox.app import Sandbox
from batchlic.sandbox.books import DeviceRecord
from batchlic.sandbox.config import Poison, RuleConfig, SandboxConfig
from tests.sandbox.caller import (
    ACCOUNT,
    ICCID,
    IMEI,
    LICENSES,
    LIFETIME_SKU,
    OTHER_IMEI,
    SKU,
    caller_of,
    code_of,
    device,
    request_body,
)

pytestmark = pytest.mark.anyio

ONE = request_body(device(IMEI))
PLATFORM = "UnifiedWebService."


def held(sandbox: Sandbox) -> dict[str | None, dict[str, int]]:
    return {record.imei or record.iccid: record.licenses for record in sandbox.books.records()}


async def test_an_accepted_assign_has_a_request_id_and_is_in_the_books() -> None:
    sandbox = Sandbox()
    async with caller_of(sandbox) as caller:
        answer = await caller.assign(request_body(device(IMEI, ICCID)), "1-1234")
    assert answer.status_code == 200
    [execution] = sandbox.books.executions
    assert execution.request_id == answer.json()["requestId"]
    assert (execution.account_name, execution.sku_number, execution.x_request_id) == (ACCOUNT, SKU, "1-1234")
    [record] = sandbox.books.records()
    assert (record.imei, record.iccid, record.sku_number, record.assigned) == (IMEI, ICCID, SKU, 1)


async def test_a_sandbox_that_is_started_again_gives_other_requests_other_ids() -> None:
    ids = []
    for transaction in ("1-1234", "1-1235", "1-1234"):
        async with caller_of(Sandbox(SandboxConfig(seed=7))) as caller:
            ids.append((await caller.assign(ONE, transaction)).json()["requestId"])
    assert (ids[0] == ids[1], ids[0] == ids[2]) == (False, True)


async def test_a_repeated_assign_is_executed_again_and_costs_a_second_license() -> None:
    sandbox = Sandbox()
    async with caller_of(sandbox) as caller:
        first, second = await caller.assign(ONE, "1-1234"), await caller.assign(ONE, "1-1234")
        assert first.json()["requestId"] != second.json()["requestId"]
        assert (await caller.counts())["licenseAssigned"] == 2
    assert held(sandbox) == {IMEI: {SKU: 2}}


async def test_a_carrier_that_deduplicates_executes_a_transaction_once() -> None:
    sandbox = Sandbox(SandboxConfig(rules=RuleConfig(deduplicate=True)))
    async with caller_of(sandbox) as caller:
        first, second = await caller.assign(ONE, "1-1234"), await caller.assign(ONE, "1-1234")
        assert first.json() == second.json()
        await caller.assign(ONE)
        await caller.assign(ONE)
    assert held(sandbox) == {IMEI: {SKU: 3}}


async def test_unassign_with_a_body_takes_all_licenses_of_its_devices() -> None:
    sandbox = Sandbox()
    async with caller_of(sandbox) as caller:
        for _ in range(2):
            await caller.assign(request_body(device(IMEI), device(OTHER_IMEI)))
        assert (await caller.unassign(ONE)).status_code == 200
    assert held(sandbox) == {IMEI: {}, OTHER_IMEI: {SKU: 2}}


async def test_unassigning_an_unlicensed_device_changes_nothing() -> None:
    sandbox = Sandbox()
    async with caller_of(sandbox) as caller:
        assert (await caller.unassign(ONE)).status_code == 200
        assert (await caller.counts())["licenseAssigned"] == 0
    assert held(sandbox) == {IMEI: {}}


async def test_unassign_without_a_body_undoes_the_transaction_of_that_id_once() -> None:
    sandbox = Sandbox()
    async with caller_of(sandbox) as caller:
        await caller.assign(ONE, "1-1111")
        await caller.assign(request_body(device(IMEI), device(OTHER_IMEI)), "1-2222")
        for _ in range(2):
            assert (await caller.unassign(transaction="1-2222")).status_code == 200
        assert (await caller.unassign(transaction="1-3333")).status_code == 404
    assert held(sandbox) == {IMEI: {SKU: 1}, OTHER_IMEI: {}}


@pytest.mark.parametrize("body", [request_body(device(IMEI), sku=LIFETIME_SKU), None])
async def test_lifetime_licenses_can_not_be_unassigned(body: object) -> None:
    sandbox = Sandbox()
    async with caller_of(sandbox) as caller:
        await caller.assign(request_body(device(IMEI), sku=LIFETIME_SKU), "1-1234")
        assert (await caller.unassign(body, "1-1234")).status_code == 400
    assert held(sandbox) == {IMEI: {LIFETIME_SKU: 1}}


async def test_too_few_licenses_refuse_the_whole_request() -> None:
    sandbox = Sandbox(SandboxConfig(licenses={SKU: 2}))
    both = request_body(device(IMEI), device(OTHER_IMEI))
    async with caller_of(sandbox) as caller:
        await caller.assign(ONE)
        assert (await caller.assign(both)).status_code == 400
        counts = await caller.counts()
    assert counts == {
        "skuNumber": SKU,
        "licenseType": "Flexible",
        "licensePurchased": 2,
        "licenseAssigned": 1,
        "licenseAvailable": 1,
    }
    assert {record.imei: record.refused for record in sandbox.books.records()} == {IMEI: 1, OTHER_IMEI: 1}


@pytest.mark.parametrize(
    ("named", "code", "status"), [(True, "DeviceState", 400), (False, "DeviceNotFound", 404)]
)
async def test_a_poisoned_device_refuses_the_whole_batch(named: bool, code: str, status: int) -> None:  # noqa: FBT001
    sandbox = Sandbox(SandboxConfig(poison=(Poison(identifier=IMEI, error_code=code, named=named),)))
    async with caller_of(sandbox) as caller:
        answer = await caller.assign(request_body(device(OTHER_IMEI), device(IMEI)))
        assert (answer.status_code, code_of(answer)) == (status, PLATFORM + code)
        assert (IMEI in answer.text) == named
        assert (await caller.assign(request_body(device(OTHER_IMEI)))).status_code == 200
    assert held(sandbox) == {OTHER_IMEI: {SKU: 1}, IMEI: {}}


async def test_identifiers_of_one_request_belong_to_one_device() -> None:
    sandbox = Sandbox()
    async with caller_of(sandbox) as caller:
        await caller.assign(request_body(device(IMEI), device(ICCID)))
        assert len(held(sandbox)) == 2
        await caller.assign(request_body(device(ICCID, IMEI)))
        await caller.assign(request_body(device(ICCID)))
    [record] = sandbox.books.records()
    assert (record.imei, record.iccid, record.licenses, record.assigned) == (IMEI, ICCID, {SKU: 4}, 4)
    assert sandbox.totals().devices == 1


async def test_a_device_that_was_two_is_found_by_every_identifier() -> None:
    second_iccid = "89148000000800139716"
    sandbox = Sandbox()
    async with caller_of(sandbox) as caller:
        await caller.assign(request_body(device(IMEI), device(ICCID, second_iccid)))
        await caller.assign(request_body(device(IMEI, ICCID)))
        await caller.assign(request_body(device(second_iccid)))
    [record] = sandbox.books.records()
    assert (record.licenses, record.further_ids) == ({SKU: 4}, [f"ICCID:{second_iccid}"])


async def test_an_unknown_account_is_refused() -> None:
    async with caller_of(Sandbox(SandboxConfig(accounts=(ACCOUNT,)))) as caller:
        assert (await caller.assign(ONE)).status_code == 200
        answer = await caller.assign(request_body(device(IMEI), account="0000123456-00002"))
    assert (answer.status_code, code_of(answer)) == (404, PLATFORM + "REQUEST_FAILED.AccountNotFound")


IDENTIFIER, KIND = "INPUT_INVALID.Device.Identifier.Invalid", "INPUT_INVALID.Device.Kind.Invalid"


def _of(identifier: str, kind: str) -> dict[str, Any]:
    return request_body({"deviceIds": [{"id": identifier, "kind": kind}]})


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (request_body(), "400"),
        (request_body(*[device(IMEI)] * 101), "400"),
        (request_body(device(IMEI), account="ab"), "400"),
        (request_body(device(IMEI), account="0" * 33), "400"),
        (request_body(device(IMEI), sku="SIMSec-IOT"), "400"),
        (request_body(device()), "400"),
        (request_body(device(*[IMEI] * 101)), "400"),
        (request_body(device(IMEI)) | {"sku": SKU}, "400"),
        ({"accountName": ACCOUNT, "skuNumber": SKU}, "400"),
        ([], "400"),
        (_of("12", "IMEI"), PLATFORM + IDENTIFIER),
        (_of("86450803010987A", "IMEI"), PLATFORM + IDENTIFIER),
        (_of("864508030109877\n", "IMEI"), PLATFORM + IDENTIFIER),
        (_of("٨٦٤٥٠٨٠٣٠١٠٩٨٧٧", "IMEI"), PLATFORM + IDENTIFIER),
        (_of("8645080301098770", "IMEI"), PLATFORM + IDENTIFIER),
        (_of("891480000008001397081", "ICCID"), PLATFORM + IDENTIFIER),
        (_of(IMEI, "imei"), PLATFORM + KIND),
        (_of(IMEI, "IM"), PLATFORM + KIND),
    ],
)
async def test_an_invalid_body_is_refused_and_licenses_nothing(body: object, code: str) -> None:
    sandbox = Sandbox()
    async with caller_of(sandbox) as caller:
        answer = await caller.assign(body)
    assert (answer.status_code, code_of(answer)) == (400, code)
    assert sandbox.books.executions == []


@pytest.mark.parametrize("x_request_id", ["11234", "1-12", "12-345", "1-123a", "1-" + "1" * 31])
async def test_an_x_request_id_of_another_form_is_refused(x_request_id: str) -> None:
    sandbox = Sandbox()
    async with caller_of(sandbox) as caller:
        named = caller.headers | {"X-Request-ID": x_request_id}
        for method in ("POST", "DELETE"):
            answer = await caller.http.request(method, LICENSES, json=ONE, headers=named)
            assert (answer.status_code, code_of(answer)) == (400, "400")
    assert sandbox.books.executions == []


async def test_unassign_needs_an_x_request_id_and_assign_does_not() -> None:
    async with caller_of(Sandbox()) as caller:
        assert (await caller.assign(ONE)).status_code == 200
        assert (await caller.unassign(ONE, transaction=None)).status_code == 400
        assert (await caller.unassign(transaction=None)).status_code == 400


async def test_the_books_can_be_read_over_http_a_device_a_line() -> None:
    sandbox = Sandbox()
    numbers = [f"86{n:013d}" for n in range(2500)]
    async with caller_of(sandbox) as caller:
        for start in range(0, 2500, 100):
            await caller.assign(request_body(*map(device, numbers[start : start + 100])))
        books = await caller.http.get("http://127.0.0.1/sandbox/books")
    rows = [msgspec.json.decode(line, type=DeviceRecord) for line in books.text.splitlines()]
    assert [row.imei for row in rows] == numbers
    assert rows == list(sandbox.books.records())


async def test_only_json_is_accepted_and_produced() -> None:
    sandbox = Sandbox()
    async with caller_of(sandbox) as caller:
        as_text = await caller.http.post(LICENSES, content=b"{}", headers=caller.headers)
        for_xml = await caller.http.post(LICENSES, json=ONE, headers=caller.headers | {"Accept": "text/xml"})
        unknown = await caller.http.get("/m2m/v1/devices", headers=caller.headers)
        wrong_method = await caller.http.get(LICENSES, headers=caller.headers)
    answers = [as_text, for_xml, unknown, wrong_method]
    assert [answer.status_code for answer in answers] == [415, 406, 404, 405]
    assert [code_of(answer) for answer in answers] == ["415", "406", "404", "405"]
    assert sandbox.books.executions == []


@pytest.mark.parametrize("exclusive", [False, True])
async def test_a_device_may_hold_a_second_sku_unless_the_sandbox_is_exclusive(*, exclusive: bool) -> None:
    second, both = request_body(device(IMEI), sku=LIFETIME_SKU), [device(OTHER_IMEI), device(IMEI)]
    sandbox = Sandbox(SandboxConfig(rules=RuleConfig(exclusive=exclusive)))
    async with caller_of(sandbox) as caller:
        await caller.assign(ONE)
        assert (await caller.assign(request_body(*both))).status_code == 200, (
            "more of the same SKU is no matter"
        )
        assert (await caller.assign(second)).status_code == (400 if exclusive else 200)
        await caller.unassign(ONE)
        assert (await caller.assign(second)).status_code == 200
    assert LIFETIME_SKU in held(sandbox)[IMEI]
