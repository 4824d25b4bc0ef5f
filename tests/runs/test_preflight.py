"""License counts are checked before anything is sent, and compared with accepted devices at the end."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import anyio
import polars as pl
import pytest

from batchlic.carrier.auth import CarrierUnreachable
from batchlic.carrier.catalog import Action
from batchlic.carrier.client import AccountError, Carrier, open_client
from batchlic.carrier.credentials import Credentials, Secret
from batchlic.carrier.messages import Subscription
from batchlic.chunker import DeviceStatus, PlanGroup
from batchlic.errors import ExitCode, RefusedToStart
from batchlic.job import Job, make_job
from batchlic.journal import LicenseCount
from batchlic.runs.folder import RunFolder
from batchlic.runs.preflight import (
    Findings,
    compare_counts,
    confirm_new_ledger,
    count_mismatches,
    devices_that_fit,
    preflight,
    refuse_too_few,
)
from batchlic.runs.run import new_run_id, resume, start
from batchlic.runs.status import status
from batchlic.runs.target import Target
from batchlic.sandbox.config import SandboxConfig
from batchlic.writer.device_states import request_totals
from batchlic.writer.summary import Summary
from tests.callbacks.builders import ACCOUNT, SKU, fleet
from tests.forking import serving
from tests.writer.builders import JournaledAttempt, journal_of, plan_of

NAME = Secret("sandbox")
CREDENTIALS = Credentials(client_id=NAME, client_secret=NAME, username=NAME, password=NAME)
GROUP = PlanGroup(account_name=ACCOUNT, sku_number=SKU, devices=10, batches=1)


def run(folder: Path, devices: int, licenses: int, *, allow_partial: bool = False) -> Summary:
    with carrier(licenses) as target:
        return run_at(target, folder / "run", devices, allow_partial=allow_partial)


def run_at(target: Target, folder: Path, devices: int, *, allow_partial: bool = False) -> Summary:
    given = job(folder.parent, devices, allow_partial=allow_partial)
    return start(given, RunFolder(folder), target, run_id=new_run_id())


@contextmanager
def carrier(licenses: int) -> Iterator[Target]:
    with serving(SandboxConfig(licenses={SKU: licenses})) as url:
        yield Target(url, url, CREDENTIALS, ())


def job(folder: Path, devices: int, *, allow_partial: bool) -> Job:
    content = {
        "action": "assign",
        "report": {"write": False},
        "inventory": {"files": [str(fleet(folder / "fleet.csv", devices))]},
        "license": {"account": ACCOUNT, "sku": SKU},
        "limits": {"allow_partial": allow_partial},
    }
    return make_job(content, {}, where="test")


def test_too_few_licenses_refuse_the_run_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(RefusedToStart, match=r"120 licenses of SIMSec-IoT left for 250 devices"):
        run(tmp_path, 250, 120)
    assert not (tmp_path / "run" / "journal.db").exists()


def test_as_many_as_fit_are_licensed_and_the_others_are_rejected(tmp_path: Path) -> None:
    summary = run(tmp_path, 250, 120, allow_partial=True)
    assert (summary.planned, summary.rejected, summary.batches) == (120, {"no_license": 130}, 2)
    assert summary.statuses == {"accepted": 120}
    assert summary.exit_code == ExitCode.INCOMPLETE
    assert summary.rows_read == summary.planned + sum(summary.rejected.values())
    rejects = pl.read_parquet(tmp_path / "run" / "rejects.parquet")
    plan = pl.read_parquet(tmp_path / "run" / "plan.parquet")
    assert rejects["reason"].unique().to_list() == ["no_license"]
    assert sorted([*rejects["row"], *plan["row"]]) == list(range(1, 251))


@pytest.mark.slow
def test_the_same_devices_fit_each_time(tmp_path: Path) -> None:
    plans = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run(tmp_path / name, 250, 120, allow_partial=True)
        plans.append(pl.read_parquet(tmp_path / name / "run" / "plan.parquet").drop("source"))
    assert plans[0].equals(plans[1])
    assert plans[0]["batch_id"].unique().sort().to_list() == [1, 2]


def test_enough_licenses_change_neither_plan_nor_notes(tmp_path: Path) -> None:
    summary = run(tmp_path, 250, 250)
    assert (summary.statuses, summary.exit_code) == ({"accepted": 250}, ExitCode.OK)
    assert [note for note in summary.notes if "licenses" in note] == []


@pytest.mark.slow
def test_devices_that_the_ledger_excludes_need_no_license(tmp_path: Path) -> None:
    with carrier(100) as target:
        assert run_at(target, tmp_path / "first", 60).statuses == {"accepted": 60}
        with pytest.raises(RefusedToStart, match=r"40 licenses of SIMSec-IoT left for 60 devices"):
            run_at(target, tmp_path / "second", 120)
        summary = run_at(target, tmp_path / "third", 120, allow_partial=True)
    assert summary.statuses == {"accepted": 40, "skipped": 60}
    assert (summary.planned, summary.rejected, summary.rows_read) == (100, {"no_license": 20}, 120)
    assert [note for note in summary.notes if "licenses" in note] == []


@pytest.mark.slow
def test_resume_counts_licenses_for_the_devices_left_to_send(tmp_path: Path) -> None:
    with carrier(100) as target:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("batchlic.runs.submit.send_here", unreachable)
            assert run_at(target, tmp_path / "killed", 60).statuses == {"pending": 60}
        others = tmp_path / "elsewhere"
        others.mkdir()
        run_at(target, others / "run", 70)
        with pytest.raises(RefusedToStart, match=r"30 licenses of SIMSec-IoT left for 60 devices"):
            resume(RunFolder(tmp_path / "killed"), target)
        assert status(RunFolder(tmp_path / "killed")).statuses == {"pending": 60}


async def unreachable(*_: object, **__: object) -> list[str]:
    raise CarrierUnreachable("test")


@pytest.mark.slow
@pytest.mark.parametrize("error", [AccountError("no"), CarrierUnreachable("no")])
def test_a_run_continues_without_license_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def refuse(*_: object) -> list[Subscription]:
        raise error

    monkeypatch.setattr(Carrier, "subscriptions", refuse)
    summary = run(tmp_path, 10, 10)
    assert (summary.statuses, summary.exit_code) == ({"accepted": 10}, ExitCode.OK)
    assert [note for note in summary.notes if "license counts" in note and "unknown" in note]


def test_license_counts_are_checked_without_a_list_of_listeners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> list[object]:
        raise AccountError("no")

    monkeypatch.setattr(Carrier, "listeners", refuse)
    with pytest.raises(RefusedToStart, match="too few licenses"):
        run(tmp_path, 10, 5)


def one_count(assigned: int | None, available: int | None) -> Callable[..., object]:
    async def answer(*_: object) -> list[Subscription]:
        return [Subscription(SKU, "Flexible", None, assigned, available)]

    return answer


def test_one_number_is_enough_to_see_that_there_are_too_few_licenses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Carrier, "subscriptions", one_count(None, 5))
    with pytest.raises(RefusedToStart, match=f"{ACCOUNT} has 5 licenses of {SKU} left for 10 devices"):
        run(tmp_path, 10, 10)


def test_one_number_is_enough_to_see_that_the_ledger_has_no_record() -> None:
    counts = [LicenseCount(ACCOUNT, SKU, assigned=5000, available=None)]
    with pytest.raises(RefusedToStart, match="the carrier counts 5,000 licenses of"):
        confirm_new_ledger([GROUP], counts, "ledger.db")


@pytest.mark.slow
@pytest.mark.parametrize(("assigned", "available"), [(None, 10), (0, None), (None, None)])
def test_a_number_that_the_carrier_does_not_give_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assigned: int | None, available: int | None
) -> None:
    monkeypatch.setattr(Carrier, "subscriptions", one_count(assigned, available))
    summary = run(tmp_path, 10, 10)
    assert summary.statuses == {"accepted": 10}
    noted = "\n".join(summary.notes)
    if assigned is available is None:
        assert "license counts are unknown: they are missing" in noted
    else:
        unknown = "assigned" if assigned is None else "available"
        assert f"the number of {unknown} licenses of {SKU} is unknown" in noted


@pytest.mark.slow
def test_an_account_without_counts_counts_as_having_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> list[Subscription]:
        return []

    monkeypatch.setattr(Carrier, "subscriptions", nothing)
    assert run(tmp_path, 10, 10).statuses == {"accepted": 10}


@pytest.mark.slow
def test_a_run_with_a_listener_has_no_note_about_listeners(tmp_path: Path) -> None:
    async def listening(target: Target) -> None:
        async with open_client(target.base_url, target.credentials) as client:
            await client.login()
            await client.register_listener(ACCOUNT, "https://127.0.0.1:9001/callbacks/CarrierService")

    with carrier(1) as target:
        anyio.run(listening, target)
        summary = run_at(target, tmp_path / "run", 1)
    assert [note for note in summary.notes if "CarrierService" in note] == []


@pytest.mark.slow
def test_a_run_without_a_listener_has_a_note(tmp_path: Path) -> None:
    assert [note for note in run(tmp_path, 1, 1).notes if "CarrierService" in note]


def test_many_accounts_without_a_listener_have_one_note() -> None:
    accounts = [ACCOUNT, *(f"0000123456-0000{n}" for n in range(2, 5))]
    groups = [replace(GROUP, account_name=account) for account in accounts]

    async def ask(target: Target) -> Findings:
        async with open_client(target.base_url, target.credentials) as client:
            return await preflight(client, groups, listeners=True)

    with carrier(1) as target:
        notes = anyio.run(ask, target).notes
    assert [note.split(":")[0] for note in notes] == [f"account {ACCOUNT} and 3 others"]


def test_each_group_has_its_own_license_count() -> None:
    other = PlanGroup(account_name=ACCOUNT, sku_number="other-sku", devices=5, batches=1)
    counts = [LicenseCount(ACCOUNT, SKU, assigned=0, available=3)]
    assert devices_that_fit([GROUP, other], counts) == [3, 5]
    refuse_too_few([other], counts)
    with pytest.raises(RefusedToStart):
        refuse_too_few([GROUP, other], counts)


def test_an_unreachable_carrier_does_not_fail_the_preflight() -> None:
    async def ask() -> list[str]:
        async with open_client("http://127.0.0.1:1/api", CREDENTIALS) as client:
            return (await preflight(client, [GROUP], listeners=True)).notes

    [note] = anyio.run(ask)
    assert "unknown" in note


def asked_to_wait(seconds: float) -> Callable[..., Findings]:
    return lambda *_args, **_kwargs: Findings([], [], ready_at=time.monotonic() + seconds)


@pytest.mark.parametrize("method", ["login", "subscriptions"])
def test_j_the_preflight_reports_a_wait_that_the_carrier_asked_for(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    async def throttled(*_: object) -> None:
        raise CarrierUnreachable("HTTP 403: over rate", retry_after_s=3600.0)

    async def logged_in(*_: object) -> None:
        """Do nothing."""

    async def ask() -> Findings:
        async with open_client("http://127.0.0.1:1/api", CREDENTIALS) as client:
            return await preflight(client, [GROUP], listeners=False)

    monkeypatch.setattr(Carrier, "login", logged_in)
    monkeypatch.setattr(Carrier, method, throttled)
    began = time.monotonic()
    assert anyio.run(ask).ready_at >= began + 3600


@pytest.mark.slow
def test_j_the_login_of_a_run_waits_as_the_preflight_was_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logins, login, ready_at = [], Carrier.login, time.monotonic() + 0.5

    async def noted(client: Carrier) -> None:
        logins.append(time.monotonic())
        await login(client)

    monkeypatch.setattr(Carrier, "login", noted)
    monkeypatch.setattr("batchlic.runs.run.ask_carrier", lambda *_, **__: Findings([], [], ready_at=ready_at))
    assert run(tmp_path, 10, 10).statuses == {"accepted": 10}
    assert logins[0] >= ready_at


@pytest.mark.slow
def test_j_a_run_stops_if_the_preflight_was_asked_to_wait_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with carrier(10) as target:
        monkeypatch.setattr("batchlic.runs.run.ask_carrier", asked_to_wait(86_400))
        stopped = run_at(target, tmp_path / "run", 10)
        assert (stopped.exit_code, stopped.statuses) == (ExitCode.STOPPED, {"pending": 10})
        assert re.search(r"asks batchlic to wait 86[34]\d\d s", stopped.stopped_because or "")
        monkeypatch.setattr("batchlic.runs.run.ask_carrier", asked_to_wait(-1))
        assert resume(RunFolder(tmp_path / "run"), target).statuses == {"accepted": 10}


@pytest.mark.parametrize(
    ("action", "after", "expected"),
    [
        (Action.ASSIGN, 110, []),
        (Action.ASSIGN, 115, []),
        (Action.ASSIGN, 109, ["rose by 9, while 10 devices"]),
        (Action.ASSIGN, 116, ["rose by 16, while 10 devices"]),
        (Action.UNASSIGN, 90, []),
        (Action.UNASSIGN, 100, ["fell by 0, while 10 devices"]),
    ],
)
def test_an_unexpected_change_of_license_counts_is_noted(
    action: Action, after: int, expected: list[str]
) -> None:
    sent = {(ACCOUNT, SKU): {DeviceStatus.ACCEPTED: 10, DeviceStatus.IN_DOUBT: 5}}
    before = [LicenseCount(ACCOUNT, SKU, assigned=100, available=50)]
    found = [LicenseCount(ACCOUNT, SKU, assigned=after, available=50)]
    notes = count_mismatches(sent, before, found, action)
    assert len(notes) == len(expected)
    assert all(text in note for text, note in zip(expected, notes, strict=True))


@pytest.mark.anyio
@pytest.mark.parametrize(("assigned", "notes"), [(117, 2), (112, 0)])
async def test_devices_sent_again_are_named_when_counts_do_not_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assigned: int, notes: int
) -> None:
    async def counted(*_: object) -> list[LicenseCount]:
        return [LicenseCount(ACCOUNT, SKU, assigned=assigned, available=50)]

    monkeypatch.setattr("batchlic.runs.preflight.count", counted)
    lost = JournaledAttempt(1, outcome="ambiguous")
    attempts = [lost, JournaledAttempt(1, request_id="r-1"), JournaledAttempt(2, request_id="r-2")]
    plan_of(tmp_path / "plan.parquet", [5, 7])
    before = [LicenseCount(ACCOUNT, SKU, assigned=100, available=50)]
    with closing(journal_of(attempts, [5, 7], licenses=before)) as journal:
        found = await compare_counts(cast("Carrier", None), RunFolder(tmp_path), journal)
    assert len(found) == notes
    assert all("5 devices were sent again" in note and "--what resent" in note for note in found[1:])


@pytest.mark.slow
def test_the_counts_are_printed_as_a_table_and_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    from batchlic.cli.app import app  # noqa: PLC0415

    app(["subscriptions", "--account", ACCOUNT, "--sku", SKU, "--sandbox"], standalone_mode=False)
    head, line = capfd.readouterr().out.splitlines()
    assert head.split() == ["SKU", "license", "purchased", "assigned", "available"]
    assert line.split() == [SKU, "Flexible", "10,000,000", "0", "10,000,000"]
    app(["subscriptions", "--account", ACCOUNT, "--sandbox", "--json"], standalone_mode=False)
    assert len(json.loads(capfd.readouterr().out)) == 4


def test_a_throttled_batch_still_needs_its_licenses(tmp_path: Path) -> None:
    sizes = (5, 7)
    attempts = [
        JournaledAttempt(1, request_id="r-1"),
        JournaledAttempt(2, outcome="throttled", http_status=429),
    ]
    plan = plan_of(tmp_path / "plan.parquet", sizes)
    with closing(journal_of(attempts, sizes)) as journal:
        totals = request_totals(plan, journal)
        assert totals == {("0000123456-00001", "SIMSec-IoT"): {DeviceStatus.ACCEPTED: 5}}
