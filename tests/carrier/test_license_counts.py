"""The license counts of one SKU, in lists of every shape."""

import pytest

from batchlic.carrier.license_counts import total_of
from batchlic.carrier.messages import Subscription
from tests.carrier.script import client_of
from tests.carrier.test_questions import ACCOUNT, says

SKU = "SIMSec-IoT"
ENTRY = {"skuNumber": SKU, "licensePurchased": 10, "licenseAssigned": 0, "licenseAvailable": 10}
FOUND = Subscription(SKU, "", 10, 0, 10)


def listed(sku: str, assigned: int | None, available: int | None) -> Subscription:
    return Subscription(sku, "flexible", None, assigned, available)


@pytest.mark.parametrize("spelling", [SKU, "SIMSEC-IOT", " simsec-iot "])
def test_a_sku_is_found_in_any_spelling(spelling: str) -> None:
    total = total_of([listed("other", 1, 1), listed(spelling, 3, 4)], SKU)
    assert total == listed(SKU, 3, 4)


def test_a_sku_that_is_not_listed_has_no_total() -> None:
    assert total_of([listed("other", 1, 1)], SKU) is None


def test_several_entries_of_a_sku_are_added() -> None:
    entries = [listed(SKU, 300, 0), listed("other", 7, 7), listed(SKU, 0, 10_000)]
    assert total_of(entries, SKU) == total_of(entries[::-1], SKU) == listed(SKU, 300, 10_000)


def test_an_entry_that_is_listed_twice_counts_once() -> None:
    assert total_of([listed(SKU, 5, 5)] * 2, SKU) == listed(SKU, 5, 5)


def test_a_count_that_one_entry_lacks_is_unknown() -> None:
    assert total_of([listed(SKU, 5, 10), listed(SKU, 5, None)], SKU) == listed(SKU, 10, None)
    assert total_of([listed(SKU, 5, None)], SKU) == listed(SKU, 5, None)


@pytest.mark.parametrize(("others", "available"), [([], 0), ([3], 0), ([30], 25)])
def test_an_account_with_too_many_licenses_has_none_available(others: list[int], available: int) -> None:
    entries = [listed(SKU, 105, -5), *(listed(SKU, 0, other) for other in others)]
    assert total_of(entries, SKU) == listed(SKU, 105, available)


def test_a_negative_number_of_assigned_licenses_is_unknown() -> None:
    assert total_of([listed(SKU, -1, 5)], SKU) == listed(SKU, None, 5)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "shape",
    [
        ENTRY,
        [ENTRY, None],
        [ENTRY, {"licenseType": "y", "licenseAvailable": 1}],
        [{"skuNumber": None, "licenseAvailable": 1}, ENTRY],
        [ENTRY, "more", 7, [ENTRY]],
    ],
    ids=str,
)
async def test_an_entry_that_is_damaged_costs_no_other_one(shape: object) -> None:
    async with client_of(says(200, {"accountName": ACCOUNT, "subscriptionList": shape})) as (client, _):
        assert [one for one in await client.subscriptions(ACCOUNT) if one.sku_number] == [FOUND]


@pytest.mark.anyio
@pytest.mark.parametrize("count", [True, [10], {"value": 10}, "ten"])
async def test_a_count_in_an_unknown_form_is_unknown(count: object) -> None:
    body = {"subscriptionList": [ENTRY | {"licenseAvailable": count}]}
    async with client_of(says(200, body)) as (client, _):
        assert await client.subscriptions(ACCOUNT) == [Subscription(SKU, "", 10, 0, None)]
