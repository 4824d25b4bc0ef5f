"""Plans that are reviewed before they are sent: what is sent, and which plans are out of date."""

import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from batchlic.carrier.credentials import Credentials, Secret
from batchlic.errors import (
    BatchlicError,
    ExitCode,
    InventoryError,
    RefusedToStart,
    RunFolderError,
    UsageError,
)
from batchlic.job import Job
from batchlic.runs.apply import apply, plan_for_review
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import sha256_of
from batchlic.runs.ledger_sync import snapshot_for_plan
from batchlic.runs.preflight import NOT_ASKED, Findings
from batchlic.runs.run import resume, start
from batchlic.runs.target import Target
from batchlic.runs.verify import verify
from tests.endtoend.program import FLEXIBLE, books, contents, imei, totals
from tests.runs.test_run import carrier, job_of

NAME = Secret("sandbox")
KEYS = Credentials(client_id=NAME, client_secret=NAME, username=NAME, password=NAME)


def rows(*numbers: int) -> list[str]:
    return [f"{imei(number)}," for number in numbers]


def planned(job: Job, folder: RunFolder, target: Target) -> RunFolder:
    with snapshot_for_plan(job, folder, target.name) as known:
        plan_for_review(job, folder, target.name, known)
    return folder


def requests(target: Target) -> int:
    return sum(totals(target.base_url)["requests"].values())


def test_apply_sends_the_reviewed_plan_byte_for_byte_and_once(tmp_path: Path) -> None:
    folder, job = RunFolder(tmp_path / "run"), job_of(tmp_path, [*rows(*range(250)), "123,"], max_rejects=1)
    with carrier() as target:
        planned(job, folder, target)
        before = contents(folder.path)
        assert apply(folder, target, run_id="run").statuses == {"accepted": 250}
        assert {name: contents(folder.path)[name] for name in before} == before
        assert apply(folder, target, run_id="again").run_id == "run"
        assert requests(target) == 3
    with closing(folder.journal.open()) as journal:
        assert journal.identity.plan_sha256 == sha256_of(folder.plan)
    assert verify(folder).findings == []


@pytest.mark.slow
def test_apply_continues_a_run_that_stopped(tmp_path: Path) -> None:
    folder, job = RunFolder(tmp_path / "run"), job_of(tmp_path, rows(*range(300)), give_up_after=1)
    with carrier() as target:
        planned(job, folder, target)
        away = Target(target.name, "http://127.0.0.1:9/api", target.credentials, ())
        assert apply(folder, away, run_id="run").exit_code == ExitCode.STOPPED
        summary = apply(folder, target, run_id="again")
    assert (summary.run_id, summary.statuses) == ("run", {"accepted": 300})


def test_an_inventory_that_changes_while_it_is_planned_leaves_no_plan_to_apply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """plan.json would have the SHA-256 of the new file, and the plan the devices of the old one."""
    folder, job = RunFolder(tmp_path / "run"), job_of(tmp_path, rows(*range(10)))

    def change(*_: object, **__: object) -> Findings:
        job_of(tmp_path, rows(*range(11)))
        return NOT_ASKED

    monkeypatch.setattr("batchlic.runs.apply.ask_carrier", change)
    target = Target("https://carrier.test/api", "https://carrier.test/api", KEYS, ())
    with pytest.raises(InventoryError, match="changed while it was planned"):
        plan_for_review(job, folder, target.name, None, target=target)
    assert not folder.plan_record.exists()


def change_inventory(folder: Path, _: Target) -> None:
    job_of(folder, rows(*range(11)))


def lose_inventory(folder: Path, _: Target) -> None:
    (folder / "fleet.csv").unlink()


def license_one_device(folder: Path, target: Target) -> None:
    (folder / "other").mkdir()
    start(job_of(folder / "other", rows(3, 77)), RunFolder(folder / "other-run"), target, run_id="other")


def lose_ledger(folder: Path, _: Target) -> None:
    (folder / "ledger.db").unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (change_inventory, r".*fleet\.csv has changed \(\d+ bytes, was \d+\)"),
        (lose_inventory, r"an inventory can't be read again: .*fleet\.csv"),
        (license_one_device, r"run other \(.*other-run\) has recorded 1 of its devices"),
        (lose_ledger, r"its ledger .*ledger\.db is gone"),
    ],
)
def test_a_plan_that_is_out_of_date_is_refused_with_the_difference(
    tmp_path: Path, change: Callable[[Path, Target], None], difference: str
) -> None:
    (tmp_path / "earlier").mkdir()
    with carrier() as target:
        start(job_of(tmp_path / "earlier", rows(500)), RunFolder(tmp_path / "first"), target, run_id="first")
        folder = planned(job_of(tmp_path, rows(*range(10))), RunFolder(tmp_path / "run"), target)
        change(tmp_path, target)
        before = requests(target)
        with pytest.raises(RefusedToStart, match=f"out of date, and nothing was sent: {difference}"):
            apply(folder, target, run_id="run")
        assert requests(target) == before
    assert not folder.journal.exists()


def test_a_plan_for_which_licenses_became_too_few_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with carrier(licenses={FLEXIBLE: 12}) as target:
        folder = planned(job_of(tmp_path, rows(*range(10))), RunFolder(tmp_path / "run"), target)
        (tmp_path / "other").mkdir()
        start(job_of(tmp_path / "other", rows(20, 21, 22)), RunFolder(tmp_path / "3"), target, run_id="3")
        with pytest.raises(RefusedToStart, match="has 9 licenses of SIMSec-IoT left, and the plan needs 10"):
            apply(folder, target, run_id="run")
        assert len(books(target.base_url)) == 3


@pytest.mark.slow
def test_what_does_not_touch_its_devices_leaves_a_plan_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with carrier() as target:
        first = job_of(tmp_path / "other", rows(1, 2, 3))
        start(first, RunFolder(tmp_path / "first"), target, run_id="first")
        folder = planned(job_of(tmp_path, rows(*range(10))), RunFolder(tmp_path / "run"), target)
        start(job_of(tmp_path / "other", rows(50, 51)), RunFolder(tmp_path / "2"), target, run_id="2")
        (tmp_path / "more.csv").write_text("IMEI\n")
        assert apply(folder, target, run_id="run").statuses == {"skipped": 3, "accepted": 7}


@pytest.mark.slow
def test_a_skipped_device_that_lost_its_license_makes_a_plan_out_of_date(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with carrier() as target:
        start(job_of(tmp_path / "other", rows(1, 2)), RunFolder(tmp_path / "first"), target, run_id="first")
        folder = planned(job_of(tmp_path, rows(*range(5))), RunFolder(tmp_path / "run"), target)
        back = job_of(tmp_path / "other", rows(2), action="unassign")
        start(back, RunFolder(tmp_path / "back"), target, run_id="back")
        with pytest.raises(RefusedToStart, match=r"run back .* has recorded 1 of its devices"):
            apply(folder, target, run_id="run")


def shorten_plan(folder: RunFolder) -> None:
    pl.read_parquet(folder.plan).head(5).write_parquet(folder.plan)


def remove_rejects(folder: RunFolder) -> None:
    folder.rejects.unlink()


def describe_fewer_devices(folder: RunFolder) -> None:
    record = json.loads(folder.plan_record.read_text())
    record["groups"][0]["devices"] -= 1
    folder.plan_record.write_text(json.dumps(record))


def damage_record(folder: RunFolder) -> None:
    folder.plan_record.write_text(folder.plan_record.read_text()[:-20])


def remove_record(folder: RunFolder) -> None:
    folder.plan_record.unlink()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (shorten_plan, RefusedToStart, r"plan\.parquet: missing or changed"),
        (remove_rejects, RefusedToStart, r"rejects\.parquet: missing or changed"),
        (describe_fewer_devices, RefusedToStart, r"its figures are not those of plan\.parquet"),
        (damage_record, RunFolderError, "is damaged"),
        (remove_record, RunFolderError, "plan again"),
    ],
)
def test_a_plan_whose_files_were_changed_is_refused(
    tmp_path: Path, change: Callable[[RunFolder], None], error: type[BatchlicError], message: str
) -> None:
    with carrier() as target:
        folder = planned(job_of(tmp_path, rows(*range(10))), RunFolder(tmp_path / "run"), target)
        change(folder)
        with pytest.raises(error, match=message):
            apply(folder, target, run_id="run")
        assert requests(target) == 0


def test_a_plan_is_sent_only_to_the_carrier_that_it_was_made_for(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with carrier() as target:
        planned(job_of(tmp_path, rows(1)), folder, target)
        other = Target("https://elsewhere.example", target.base_url, target.credentials, ())
        with pytest.raises(UsageError, match=r"is for http://127.*, not for https://elsewhere"):
            apply(folder, other, run_id="run")


def test_a_run_whose_journal_is_lost_is_not_applied_again(tmp_path: Path) -> None:
    with carrier() as target:
        folder = planned(job_of(tmp_path, rows(1)), RunFolder(tmp_path / "run"), target)
        apply(folder, target, run_id="run")
        for path in folder.path.glob("journal.db*"):
            path.unlink()
        with pytest.raises(RunFolderError, match="the journal is lost"):
            apply(folder, target, run_id="again")
        assert requests(target) == 1


def test_apply_finds_the_inventories_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = job_of(tmp_path, rows(1, 2))
    inventory = job.inventory.model_copy(update={"files": ["fleet.csv"]})
    with carrier() as target:
        folder = planned(job.model_copy(update={"inventory": inventory}), RunFolder(tmp_path / "run"), target)
        monkeypatch.chdir(os.sep)
        assert apply(folder, target, run_id="run").statuses == {"accepted": 2}


def test_another_run_in_the_folder_of_a_plan_takes_its_record_away(tmp_path: Path) -> None:
    with carrier() as target:
        folder = planned(job_of(tmp_path, rows(1, 2)), RunFolder(tmp_path / "run"), target)
        start(job_of(tmp_path, rows(1, 2, 3)), folder, target, run_id="run")
        assert not folder.plan_record.exists()
        assert resume(folder, target).statuses == {"accepted": 3}
