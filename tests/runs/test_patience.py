"""A question that the carrier throttles is asked again after the wait that it asks for."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio
import pytest

from batchlic.carrier.auth import CarrierUnreachable
from batchlic.carrier.client import AccountError, Carrier
from batchlic.carrier.messages import CallbackListener, Subscription
from batchlic.chunker import PlanGroup
from batchlic.errors import RefusedToStart
from batchlic.events import EventStream
from batchlic.runs.patience import LONGEST_WAIT_S, TIMES_ASKED_AGAIN, UNTOLD_WAIT_S, patiently, warn
from batchlic.runs.preflight import Findings, count, preflight, refuse_new_ledger, refuse_too_few
from tests.callbacks.builders import ACCOUNT, SKU

GROUP = PlanGroup(account_name=ACCOUNT, sku_number=SKU, devices=300, batches=3)
OTHER = replace(GROUP, account_name="0000999999-00001")
THROTTLED = CarrierUnreachable("HTTP 429", retry_after_s=2.0, http_status=429)

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []

    async def note(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(anyio, "sleep", note)
    return waited


def fails(*errors: Exception) -> Callable[..., Awaitable[str]]:
    """Raises the errors one after another, and then answers."""
    left = list(errors)

    async def ask(*_: object) -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return ask


@pytest.mark.parametrize("times", range(1, TIMES_ASKED_AGAIN + 1))
async def test_a_throttled_question_is_asked_again_after_the_wait(waits: list[float], times: int) -> None:
    told: list[tuple[float, str]] = []
    assert await patiently(fails(*[THROTTLED] * times), lambda *wait: told.append(wait)) == "answer"
    assert waits == [2.0] * times
    assert told == [(2.0, "HTTP 429")] * times


async def test_a_429_without_a_wait_is_asked_again_after_a_short_one(waits: list[float]) -> None:
    assert await patiently(fails(CarrierUnreachable("HTTP 429", http_status=429))) == "answer"
    assert waits == [UNTOLD_WAIT_S]


@pytest.mark.parametrize(
    "error",
    [
        CarrierUnreachable("connection refused"),
        CarrierUnreachable("HTTP 404", http_status=404),
        CarrierUnreachable("HTTP 429", retry_after_s=LONGEST_WAIT_S + 1, http_status=429),
        AccountError("no"),
    ],
    ids=str,
)
async def test_any_other_failure_is_raised_at_once(waits: list[float], error: Exception) -> None:
    with pytest.raises(type(error)):
        await patiently(fails(error))
    assert waits == []


async def test_a_question_is_not_asked_for_ever(waits: list[float]) -> None:
    with pytest.raises(CarrierUnreachable):
        await patiently(fails(*[THROTTLED] * (TIMES_ASKED_AGAIN + 1)))
    assert len(waits) == TIMES_ASKED_AGAIN


class Asked(Carrier):
    """A carrier that has these license counts, and answers questions about listeners by `hear`."""

    def __init__(
        self, *listed: Subscription, throttled: int = 0, hear: Callable[..., Awaitable[object]] | None = None
    ) -> None:
        self._listed = list(listed)
        self._throttled = throttled
        self._hear = hear
        self.asked: list[str] = []

    async def login(self) -> None:
        """Do nothing."""

    def counted_as(self, account: str) -> str:
        return account

    async def subscriptions(self, account: str, sku: str | None = None) -> list[Subscription]:  # noqa: ARG002
        self.asked.append(account)
        if self._throttled and account == ACCOUNT:
            self._throttled -= 1
            raise THROTTLED
        return self._listed

    async def listeners(self, account: str) -> list[CallbackListener]:
        if self._hear is not None:
            await self._hear()
        return [CallbackListener(account, "CarrierService", "https://us.test")]


def has(sku: str, assigned: int, available: int) -> Subscription:
    return Subscription(sku, "", None, assigned, available)


async def ask(carrier: Carrier, *groups: PlanGroup) -> Findings:
    return await preflight(carrier, groups, listeners=True)


@pytest.mark.parametrize("throttled", [0, 1, TIMES_ASKED_AGAIN])
async def test_throttled_license_counts_are_checked_all_the_same(throttled: int) -> None:
    found = await ask(Asked(has(SKU, 0, 10), throttled=throttled), GROUP)
    assert (found.unreachable, found.notes) == (None, [])
    with pytest.raises(RefusedToStart, match="10 licenses of SIMSec-IoT left for 300 devices"):
        refuse_too_few([GROUP], found.counts)


async def test_a_throttled_question_does_not_skip_the_check_of_a_new_ledger() -> None:
    with pytest.raises(RefusedToStart, match="the carrier counts 300 licenses"):
        await refuse_new_ledger(Asked(has(SKU, 300, 10), throttled=2), [GROUP], "ledger.db")


@pytest.mark.parametrize("error", [CarrierUnreachable("HTTP 404", http_status=404), AccountError("no")])
async def test_an_unanswered_question_about_listeners_costs_no_license_counts(error: Exception) -> None:
    found = await ask(Asked(has(SKU, 0, 10), hear=fails(error)), GROUP, OTHER)
    assert [one.account_name for one in found.counts] == [ACCOUNT, OTHER.account_name]
    assert found.unreachable is None
    [note] = found.notes
    assert note.startswith(f"account {ACCOUNT}: its listeners")


async def test_counts_that_came_before_an_outage_are_not_called_unknown() -> None:
    carrier = Asked(has(SKU, 0, 10))

    async def fall_silent(*_: object) -> list[CallbackListener]:
        carrier.subscriptions = fails(CarrierUnreachable("HTTP 502", http_status=502))  # type: ignore[assignment,method-assign]
        return [CallbackListener(ACCOUNT, "CarrierService", "https://us.test")]

    carrier.listeners = fall_silent  # type: ignore[assignment,method-assign]
    found = await ask(carrier, GROUP, OTHER)
    assert [one.account_name for one in found.counts] == [ACCOUNT]
    assert found.notes == [
        f"account {OTHER.account_name}: license counts and listeners are unknown: HTTP 502"
    ]


async def test_a_refusal_names_the_skus_that_the_carrier_lists_instead() -> None:
    counts = await count(Asked(has("SIMSec-IoT-Lt", 0, 5), has("Other", 0, 5)), [GROUP])
    with pytest.raises(RefusedToStart, match=r"300 devices \(the carrier lists Other, SIMSec-IoT-Lt\)"):
        refuse_too_few([GROUP], counts)
    many = await count(Asked(*(has(f"SKU-{number}", 0, 5) for number in range(8))), [GROUP])
    with pytest.raises(RefusedToStart, match=r"SKU-4 and 3 others\)"):
        refuse_too_few([GROUP], many)


async def test_a_sku_that_may_be_in_a_damaged_entry_is_unknown() -> None:
    found = await ask(Asked(has("other", 0, 5), Subscription("", "", None, None, None)), GROUP)
    refuse_too_few([GROUP], found.counts)
    assert found.counts == []
    assert "license counts are unknown" in found.notes[0]


async def test_a_throttled_question_does_not_begin_again_at_the_first_account() -> None:
    carrier, told = Asked(has(SKU, 0, 10), throttled=2), EventStream()
    lines: list[object] = []
    with told.attached("test", lines.append):
        assert len(await count(carrier, [OTHER, GROUP], warn(told))) == 2
    assert len(lines) == 2
    assert "batchlic waits 2 s before it asks again: HTTP 429" in str(lines[0])
    assert carrier.asked == [OTHER.account_name, *[ACCOUNT] * 3]


@pytest.mark.parametrize("status", [429, 502, 503])
async def test_g_a_login_with_a_wait_is_not_repeated(waits: list[float], status: int) -> None:
    logins = []

    class Refusing(Asked):
        async def login(self) -> None:
            logins.append(status)
            raise CarrierUnreachable("no login", retry_after_s=2.0, http_status=status)

    began = time.monotonic()
    found = await ask(Refusing(), GROUP)
    assert (logins, waits) == ([status], [])
    assert found.ready_at >= began + 2.0


async def test_j_the_wait_after_the_last_question_about_listeners_is_obeyed(waits: list[float]) -> None:
    throttled = fails(*[THROTTLED] * (TIMES_ASKED_AGAIN + 1))
    found = await ask(Asked(has(SKU, 0, 10), hear=throttled), GROUP, OTHER)
    assert len(found.counts) == 2
    assert waits == [2.0] * (TIMES_ASKED_AGAIN + 1)


async def test_j_a_long_wait_after_a_question_about_listeners_ends_the_questions() -> None:
    long = CarrierUnreachable("HTTP 429", retry_after_s=LONGEST_WAIT_S + 1, http_status=429)
    carrier = Asked(has(SKU, 0, 10), hear=fails(long))
    began = time.monotonic()
    found = await ask(carrier, GROUP, OTHER)
    assert carrier.asked == [ACCOUNT]
    assert [one.account_name for one in found.counts] == [ACCOUNT]
    assert found.ready_at > began + LONGEST_WAIT_S
    assert found.unanswered([GROUP, OTHER]) == [OTHER]
    assert [note.split(":")[0] for note in found.notes] == [
        f"account {ACCOUNT}",
        f"account {OTHER.account_name}",
    ]
