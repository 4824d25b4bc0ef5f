"""What a plan is expected to need: requests, time at the rate of the last run, licenses."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from batchlic.carrier.catalog import Action
from batchlic.chunker import PlanGroup
from batchlic.errors import RefusedToStart
from batchlic.job import Job, make_job
from batchlic.journal import LicenseCount
from batchlic.runs import estimate as module
from batchlic.runs.apply import plan_for_review
from batchlic.runs.estimate import describe_licenses, describe_time, estimate
from batchlic.runs.folder import RunFolder
from batchlic.runs.learned import LearnedLimit, LearnedLimits
from batchlic.runs.plan_record import read_plan_record
from batchlic.runs.run import start
from tests.endtoend.program import ACCOUNT, FLEXIBLE, LIFETIME, summary
from tests.runs.test_apply import rows
from tests.runs.test_run import carrier, job_of

OTHER = "0000123456-00002"


def job(*, to_sku: str | None = None, action: str = "assign", **limits: float | str) -> Job:
    license = {"from_sku": FLEXIBLE, "to_sku": to_sku} if to_sku else {"sku": FLEXIBLE}
    content = {"action": action, "inventory": {"files": ["x"]}, "license": license, "limits": limits}
    return make_job(content, {}, where="test")


def group(devices: int, account: str = ACCOUNT, sku: str = FLEXIBLE) -> PlanGroup:
    return PlanGroup(account_name=account, sku_number=sku, devices=devices, batches=-(-devices // 100))


def ran(
    name: str, requests: int, per_second: float, *, account: str = ACCOUNT, at: str = "https://c"
) -> object:
    """An earlier run of full batches, as far as an estimate looks at it."""
    return SimpleNamespace(
        identity=SimpleNamespace(
            run_id=name, carrier=at, licenses=[LicenseCount(account, FLEXIBLE, 0, 0)], job={"license": {}}
        ),
        listed=SimpleNamespace(
            began_at="2026-11-21T21:35:58.000000Z",
            statuses={"accepted": requests * 100},
            requests={"accepted": requests, "refused": 0},
            devices_per_second=per_second * 100,
        ),
        journal_file=SimpleNamespace(stat=lambda: SimpleNamespace(st_mtime=0.0)),
    )


def expected_after(
    monkeypatch: pytest.MonkeyPatch, runs: Sequence[object], job: Job, *groups: PlanGroup
) -> module.Estimate:
    """The estimate with these earlier runs, the newest first."""
    for run in runs:
        run.journal = SimpleNamespace(identity=lambda run=run: (run.identity, 0))  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "listed_run", lambda run: run.listed)
    folder = SimpleNamespace(beside=lambda: iter(runs))
    return estimate(job, folder, "https://c", groups)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("job", "seconds", "basis"),
    [
        (job(), 125.0, "as in run last of 2026-11-21T21:35:58Z"),
        (job(max_rate=10.0), 250.0, "the max_rate of the job"),
        (job(max_rate=100.0), 125.0, "as in run last of 2026-11-21T21:35:58Z"),
        (job(fixed_rate=50.0), 50.0, "the fixed_rate of the job"),
        (
            job(action="migrate", to_sku="TS-BUNDLE-KTO-SIMSEC-MRC"),
            250.0,
            "as in run last of 2026-11-21T21:35:58Z",
        ),
    ],
)
def test_the_time_is_that_of_the_last_run_within_the_limits_of_the_job(
    monkeypatch: pytest.MonkeyPatch, job: Job, seconds: float, basis: str
) -> None:
    found = expected_after(monkeypatch, [ran("last", 500, 20.0)], job, group(250_000))
    assert (found.seconds, found.basis) == (seconds, basis)


@pytest.mark.parametrize(
    ("runs", "rate"),
    [
        ([], None),
        ([ran("elsewhere", 500, 20.0, at="https://other")], None),
        ([ran("new", 500, 20.0), ran("old", 500, 7.0)], 20.0),
        ([ran("short", 3, 900.0), ran("long", 500, 7.0)], 7.0),
        ([ran("short", 3, 900.0)], 900.0),
        ([ran("other account", 500, 20.0, account=OTHER), ran("same", 500, 7.0)], 7.0),
        ([ran("other account", 500, 20.0, account=OTHER)], 20.0),
    ],
)
def test_the_newest_run_counts_that_is_long_and_has_the_account(
    monkeypatch: pytest.MonkeyPatch, runs: list[object], rate: float | None
) -> None:
    assert expected_after(monkeypatch, runs, job(), group(100)).requests_per_second == rate


@pytest.mark.parametrize(
    ("limit", "limits", "rate"),
    [
        ({"per_s": 12.5}, {}, 12.5),
        ({"quota": 600, "period_s": 60.0}, {}, 10.0),
        ({"per_s": 12.5}, {"max_rate": 3.0}, 3.0),
        ({"per_s": 12.5}, {"headroom": "20%"}, 10.0),
        ({"calls": 4}, {}, 7.0),
        ({"per_s": 12.5, "is_noise": True}, {}, 7.0),
    ],
)
def test_the_limit_that_a_run_of_the_account_found_counts_most(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    limit: dict[str, Any],
    limits: dict[str, Any],
    rate: float,
) -> None:
    found = LearnedLimit(seen_at=datetime.now(UTC), **limit)
    known = LearnedLimits(carriers={"https://c": {ACCOUNT: found}})
    (tmp_path / "fleet.limits.json").write_bytes(msgspec.json.encode(known))
    planned = job(**limits)
    planned = planned.model_copy(
        update={"ledger": planned.ledger.model_copy(update={"path": str(tmp_path / "fleet.db")})}
    )
    runs = [ran("last", 500, 7.0)]
    assert expected_after(monkeypatch, runs, planned, group(100)).requests_per_second == rate
    assert expected_after(monkeypatch, runs, planned, group(100, OTHER)).requests_per_second == min(
        7.0, limits.get("max_rate", 7.0)
    )


def test_runs_in_a_store_are_in_the_order_of_their_ends(tmp_path: Path) -> None:
    for number, name in enumerate(("old", "new"), start=1):
        (tmp_path / name).mkdir()
        (tmp_path / name / "store.json").touch()
        (tmp_path / name / "summary.json").touch()
        os.utime(tmp_path / name / "summary.json", (number, number))
    assert [module._changed_at(RunFolder(tmp_path / name)) for name in ("old", "new")] == [1, 2]


def test_without_an_earlier_run_the_time_is_said_to_be_unknown(tmp_path: Path) -> None:
    found = estimate(job(), RunFolder(tmp_path / "run"), "https://c", [group(250), group(1, OTHER)])
    assert (found.devices, found.requests, found.seconds) == (251, 4, None)
    assert "4 requests; how long that takes is not known" in describe_time(found)


def test_licenses_are_those_of_the_new_sku_and_lifetime_ones_are_irrevocable(tmp_path: Path) -> None:
    folder, groups = RunFolder(tmp_path / "run"), [group(10), group(5, OTHER)]
    moved = estimate(job(action="migrate", to_sku=LIFETIME), folder, "https://c", groups)
    assert [(need.sku_number, need.needed, need.left, need.is_irrevocable) for need in moved.licenses] == [
        (LIFETIME, 10, None, True),
        (LIFETIME, 5, None, True),
    ]
    assert "10 licenses of SIMSec-IoT-Lt needed" in describe_licenses(moved)[0]
    assert "never be taken back" in describe_licenses(moved)[0]
    assert estimate(job(action="unassign"), folder, "https://c", groups).licenses == []


def test_the_licenses_that_a_sync_takes_back_are_not_needed(tmp_path: Path) -> None:
    groups = [replace(group(10), action=Action.UNASSIGN), replace(group(5), action=Action.ASSIGN)]
    found = estimate(job(action="sync"), RunFolder(tmp_path / "run"), "https://c", groups)
    assert (found.devices, [need.needed for need in found.licenses]) == (15, [5])


@pytest.mark.slow
def test_a_run_says_before_it_sends_what_is_expected(tmp_path: Path) -> None:
    questions: list[str] = []

    def ask(question: str, **_: object) -> None:
        questions.append(question)
        raise RefusedToStart("no")

    with carrier(licenses={FLEXIBLE: 1000}) as target:
        start(job_of(tmp_path, rows(*range(200))), RunFolder(tmp_path / "1"), target, run_id="1")
        second = job_of(tmp_path, rows(*range(200, 450)))
        with pytest.raises(RefusedToStart):
            start(second, RunFolder(tmp_path / "2"), target, run_id="2", ask=ask)
        start(second, RunFolder(tmp_path / "2"), target, run_id="2")
    [question] = questions
    assert "Expected: 3 requests, about 0:01 at " in question
    assert "250 licenses of SIMSec-IoT needed on account 0000123456-00001, 800 left" in question
    assert any(
        note.startswith("expected: 3 requests, about 0:01") for note in summary(tmp_path / "2")["notes"]
    )


def test_a_plan_can_ask_how_many_licenses_are_left(tmp_path: Path) -> None:
    folder, job = RunFolder(tmp_path / "run"), job_of(tmp_path, rows(*range(10)))
    with carrier(licenses={FLEXIBLE: 25}) as target:
        _, expected = plan_for_review(job, folder, target.name, None, target=target)
        assert [need.left for need in expected.licenses] == [25]
        assert [one.available for one in read_plan_record(folder)[0].licenses] == [25]
        more = job_of(tmp_path, rows(*range(30)))
        with pytest.raises(RefusedToStart, match="25 licenses"):
            plan_for_review(more, RunFolder(tmp_path / "2"), target.name, None, target=target)
        partial = job_of(tmp_path, rows(*range(30)), allow_partial=True)
        plan, _ = plan_for_review(partial, folder, target.name, None, target=target)
        assert (plan.planned, dict(plan.rejected)) == (25, {"no_license": 5})
    assert json.loads(folder.plan_record.read_text())["planned"] == 25
