"""A retry sends the failed devices of a run again, as a new run that is linked with it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchlic.carrier.credentials import Credentials, Secret
from batchlic.errors import RefusedToStart, UsageError
from batchlic.job import Job, make_job
from batchlic.runs.folder import RunFolder
from batchlic.runs.guards import guards_of
from batchlic.runs.identity import inspected, job_of
from batchlic.runs.prune import prune
from batchlic.runs.retry import _HAS_ONLY_ITS_OLD_LICENSE, refuse_other_status, retry
from batchlic.runs.rollback import By, rollback
from batchlic.runs.run import new_run_id, start
from batchlic.runs.status import status
from batchlic.runs.target import Target
from batchlic.sandbox.config import Poison, SandboxConfig
from batchlic.writer.summary import Summary
from tests.endtoend.program import ACCOUNT, FLEXIBLE, LIFETIME, batchlic, books, fleet, imei, keys
from tests.forking import serving
from tests.reader.databases import sqlite_file

pytestmark = pytest.mark.slow

BUNDLE = "TS-BUNDLE-KTO-SIMSEC-MRC"
STATE, KIND = "INPUT_INVALID.DeviceState.Invalid", "INPUT_INVALID.Device.Kind.Invalid"
POISON = (Poison(identifier=imei(3)), Poison(identifier=imei(7)), Poison(identifier=imei(9), error_code=KIND))
NAME = Secret("sandbox")
KEYS = Credentials(client_id=NAME, client_secret=NAME, username=NAME, password=NAME)


@contextmanager
def carrier(*poison: Poison) -> Iterator[Target]:
    """The same carrier each time, by its name, with these devices that it refuses."""
    with serving(SandboxConfig(poison=poison)) as url:
        yield Target("https://carrier.test/api", url, KEYS, ())


@dataclass(frozen=True)
class Runs:
    """A folder of runs; `first` has sent 12 devices, of which 3 failed."""

    path: Path

    @property
    def first(self) -> RunFolder:
        return RunFolder(self.path / "first")

    def job(self, **changes: Any) -> Job:  # noqa: ANN401
        license = {"account": ACCOUNT, "sku": FLEXIBLE, **changes.pop("license", {})}
        content = {
            "name": "nightly",
            "action": "assign",
            "inventory": {"files": [str(fleet(self.path / "fleet.csv", 12))], "min_rows": 12},
            "license": {key: value for key, value in license.items() if value},
            "limits": {"batch_size": 4, "max_rejects": 5},
            **changes,
        }
        return make_job(content, {}, where="test")

    def begin(self, **changes: Any) -> Summary:  # noqa: ANN401
        with carrier(*POISON) as target:
            return start(self.job(**changes), self.first, target, run_id="first-run")

    def retry(self, target: Target, name: str = "second", **options: Any) -> Summary:  # noqa: ANN401
        return retry(self.first, target, RunFolder(self.path / name), run_id=new_run_id(), **options)

    def sent(self, name: str = "second") -> dict[str, str]:
        """The status of each device of a run."""
        results = pl.read_parquet(self.path / name / "results.parquet")
        return dict(zip(results["imei"], results["status"], strict=True))


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_only_the_failed_devices_are_sent_with_the_options_of_the_run(runs: Runs) -> None:
    assert runs.begin().statuses == {"accepted": 9, "failed": 3}
    with carrier() as target:
        summary = runs.retry(target)
        assert {name for name, book in books(target.base_url).items() if book["licenses"]} == {*runs.sent()}
    assert runs.sent() == {imei(number): "accepted" for number in (3, 7, 9)}
    assert summary.exit_code == 0
    with inspected(RunFolder(runs.path / "second")) as journal:
        job = job_of(journal.identity)
        assert (job.name, job.limits.batch_size, job.limits.max_rejects) == ("nightly", 4, 5)


def test_a_run_of_a_database_is_retried_and_rolled_back_without_it(runs: Runs) -> None:
    database = sqlite_file(runs.path / "fleet.db", [(imei(number),) for number in range(12)], "imei")
    runs.begin(inventory={"files": [database], "query": "SELECT imei FROM fleet"})
    (runs.path / "fleet.db").unlink()
    with carrier() as target:
        assert runs.retry(target).statuses == {"accepted": 3}
        assert rollback(runs.first, By.DEVICE, target, run_id="back").planned == 9


def test_both_runs_name_each_other_and_guards_pass_over_the_retry(runs: Runs) -> None:
    runs.begin()
    with carrier() as target:
        runs.retry(target)
    [back], [on] = (status(RunFolder(runs.path / name)).related for name in ("second", "first"))
    assert (back.relation, back.run_id, on.relation) == ("retry_of", "first-run", "retried_by")
    guarded = make_job(runs.job().model_dump(mode="json"), {"inventory": {"max_change": "10%"}}, where="test")
    last = guards_of(guarded, RunFolder(runs.path / "tomorrow"), target.name).last
    assert last is not None
    assert last.identity.run_id == "first-run"


def test_a_code_chooses_among_the_failed_devices(runs: Runs) -> None:
    runs.begin()
    with carrier() as target:
        with pytest.raises(UsageError, match=rf"{KIND} \(1 device\), {STATE} \(2 devices\)"):
            runs.retry(target, codes=["REQUEST_FAILED"])
        runs.retry(target, codes=[KIND])
        assert {*runs.sent()} == {imei(9)}
        third = runs.retry(
            target, "third"
        )  # the others: those of the earlier retry are not sent a second time
        assert third.notes[:2] == [
            "sends 2 of the 3 failed devices of run first-run again",
            f"left out: 1 failed device in earlier retries: {runs.path}/second",
        ]
        assert {*runs.sent("third")} == {imei(3), imei(7)}
        with pytest.raises(RefusedToStart, match=r"in earlier retries: .*second, .*third"):
            runs.retry(target, "fourth")
    assert {path.name for path in runs.path.iterdir() if path.is_dir()} - {".locks"} == {
        "first",
        "second",
        "third",
    }


def test_a_retry_that_fails_is_retried_itself(runs: Runs) -> None:
    runs.begin()
    with carrier(*POISON[:2]) as target:
        assert runs.retry(target).statuses == {"accepted": 1, "failed": 2}
    second = RunFolder(runs.path / "second")
    with carrier() as target:
        retry(second, target, RunFolder(runs.path / "third"), run_id=new_run_id())
    assert {*runs.sent("third")} == {imei(3), imei(7)}


def test_nothing_is_sent_while_a_session_is_at_work_or_nothing_failed(runs: Runs) -> None:
    runs.begin()
    with carrier() as target:
        with runs.first.locked(), pytest.raises(RefusedToStart, match="first"):
            runs.retry(target)
        runs.retry(target)
        with pytest.raises(RefusedToStart, match="no device failed"):
            retry(RunFolder(runs.path / "second"), target, RunFolder(runs.path / "x"), run_id="x")
        with pytest.raises(UsageError, match="holds a run already"):
            runs.retry(target)
    assert not (runs.path / "x").exists()


def test_e_lifetime_licenses_need_consent_again(runs: Runs) -> None:
    runs.begin(license={"sku": LIFETIME, "consent_lifetime": True})
    with carrier() as target:
        with pytest.raises(RefusedToStart, match="--consent-lifetime"):
            runs.retry(target)
        assert not (runs.path / "second").exists()
        runs.retry(target, consent_lifetime=True)
    assert set(runs.sent().values()) == {"accepted"}


def test_a_migration_moves_the_devices_that_have_their_old_license(runs: Runs) -> None:
    licenses = {"sku": None, "from_sku": FLEXIBLE, "to_sku": BUNDLE}
    assert runs.begin(action="migrate", license=licenses).statuses == {"accepted": 9, "failed": 3}
    with carrier() as target:
        runs.retry(target)
    results = pl.read_parquet(runs.path / "second" / "results.parquet")
    assert set(results.select("imei", "from_sku", "sku_number").rows()) == {
        (imei(number), FLEXIBLE, BUNDLE) for number in (3, 7, 9)
    }


@pytest.mark.parametrize(
    ("unassign", "assign", "restore", "has_only_the_old_one"),
    [
        ("failed", None, None, True),
        (None, "failed", None, True),
        ("failed", "confirmed", "accepted", True),
        ("accepted", "failed", "accepted", True),
        ("accepted", "failed", None, False),
        ("accepted", "failed", "failed", False),
        ("failed", "accepted", None, False),
        ("confirmed", "confirmed", "accepted", False),
    ],
)
def test_a_device_without_exactly_its_old_license_is_not_migrated_again(
    *, unassign: str | None, assign: str | None, restore: str | None, has_only_the_old_one: bool
) -> None:
    steps = {"unassign_status": [unassign], "assign_status": [assign], "restore_status": [restore]}
    frame = pl.DataFrame(steps, schema=dict.fromkeys(steps, pl.String()))
    assert frame.select(_HAS_ONLY_ITS_OLD_LICENSE).item() is has_only_the_old_one


@pytest.mark.parametrize(
    ("where", "hint"),
    [
        ("status=in_doubt", "batchlic settle"),
        ("status=pending", "batchlic resume"),
        ("status=rejected", "--what rejects"),
        ("status=accepted", "only failed devices"),
        ("status=lost", "known: "),
        ("code=x", "--code"),
        ("failed", "status=failed"),
    ],
)
def test_devices_that_did_not_fail_are_refused_with_the_right_command(where: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        refuse_other_status(where, RunFolder(Path("runs/one")))


def test_a_rollback_is_not_retried(runs: Runs) -> None:
    runs.begin()
    with carrier() as target:
        rollback(runs.first, By.DEVICE, target, run_id="back")
        back = RunFolder(runs.first.path / "rollback-by-device")
        with pytest.raises(UsageError, match="a rollback is not retried"):
            retry(back, target, RunFolder(runs.path / "x"), run_id="x")


def test_the_command_retries_and_the_folder_is_kept_for_the_retried_run_only(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 12)
    command = ("assign", "fleet.csv", "--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "runs/one")
    with serving(SandboxConfig(poison=POISON)) as url:
        assert batchlic(*command, settings=keys(url), cwd=tmp_path).code == 3
        refused = batchlic("retry", "one", "--where", "status=in_doubt", settings=keys(url), cwd=tmp_path)
        assert (refused.code, "batchlic settle" in refused.err) == (2, True)
        ended = batchlic("retry", "one", "--code", KIND, "--json", settings=keys(url), cwd=tmp_path)
    assert ended.code == 3
    found = json.loads(ended.out)
    assert (found["planned"], found["statuses"]) == (1, {"failed": 1})
    shown = batchlic("status", found["run_id"], cwd=tmp_path)
    assert "Retry of" in shown.out
    pruned = prune(tmp_path / "runs", ended_before=datetime(2100, 1, 1, tzinfo=UTC), dry_run=True)
    [reason] = [run.reason for run in pruned.kept if Path(run.run_dir).name != "one"]
    assert reason.startswith("it is a retry of run "), pruned


@pytest.mark.parametrize("action", ["unassign", "assign"])
def test_a_device_whose_license_a_later_run_has_changed_is_not_sent(runs: Runs, action: str) -> None:
    """Only the device of the other failure is left: the third one was decided about later."""
    runs.begin(action=action)
    other = {"assign": "unassign", "unassign": "assign"}[action]
    (runs.path / "one.csv").write_text(f"IMEI\n{imei(3)}\n")
    one = {"inventory": {"files": [str(runs.path / "one.csv")]}, "name": "one", "ledger": {"allow_new": True}}
    with carrier() as target:
        for number, again in enumerate([action, other]):
            start(runs.job(action=again, **one), RunFolder(runs.path / str(number)), target, run_id=again)
        summary = runs.retry(target)
    assert {*runs.sent()} == {imei(7), imei(9)}
    assert "left out: 1 failed device whose license a later run has changed" in summary.notes
