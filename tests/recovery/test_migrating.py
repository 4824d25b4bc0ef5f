"""Migrations against a sandbox over TCP: order, licenses, doubt, ledger, rollback, history and export."""

from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from batchlic.carrier.catalog import Action
from batchlic.chunker import DeviceStatus
from batchlic.errors import ExitCode, RefusedToStart, UsageError
from batchlic.ledger import Ledger
from batchlic.ledger.files import export_ledger, import_files
from batchlic.reader import ReadOptions
from batchlic.runs.export import export
from batchlic.runs.folder import RunFolder
from batchlic.runs.history import device_history
from batchlic.runs.rollback import By, rollback
from batchlic.runs.run import new_run_id, resume
from batchlic.runs.settle import settle
from batchlic.runs.status import status
from batchlic.runs.verify import verify
from batchlic.sandbox.config import Fault, Poison, RuleConfig
from batchlic.writer.export import Format, Selection
from tests.recovery import builders
from tests.recovery.builders import (
    BATCH_SIZE,
    DEVICES,
    FLEXIBLE,
    LIFETIME,
    carrier,
    fleet,
    imei,
    job,
    run,
)
from tests.recovery.migrations import (
    NEW,
    held,
    interrupted,
    known,
    losing_an_answer_about,
    moving,
    onboarded,
    stopping_at,
    with_limits,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("either_backend")]


def actions(folder: Path) -> list[str]:
    return pl.read_parquet(folder / "audit.parquet").sort("seq")["action"].to_list()


@pytest.mark.parametrize(("order", "first"), [("auto", "assign"), ("unassign-first", "unassign")])
def test_every_device_is_on_the_new_sku_exactly_once(tmp_path: Path, order: str, first: str) -> None:
    with carrier() as at:
        summary = run(tmp_path / "move", at, moving(onboarded(tmp_path, at), order=order))
        assert held(at) == {((NEW, 1),): DEVICES}
    assert (summary.exit_code, summary.action, summary.statuses) == (0, "migrate", {"accepted": DEVICES})
    assert actions(tmp_path / "move")[0] == first
    assert verify(RunFolder(tmp_path / "move")).findings == []


@pytest.mark.parametrize("order", ["auto", "unassign-first"])
def test_d_a_carrier_that_deduplicates_gives_the_new_license_once(tmp_path: Path, order: str) -> None:
    with carrier(rules=RuleConfig(deduplicate=True), faults={Fault.RESET_AFTER: 0.15}) as at:
        inventory = onboarded(tmp_path, at)
        summary = run(tmp_path / "move", at, moving(inventory, order=order))
        assert summary.statuses == {"accepted": DEVICES}
        assert held(at) == {((NEW, 1),): DEVICES}


def test_a_carrier_that_allows_one_sku_needs_unassign_first(
    tmp_path: Path,
) -> None:
    with carrier(rules=RuleConfig(exclusive=True)) as at:
        inventory = onboarded(tmp_path, at)
        summary = run(tmp_path / "move", at, moving(inventory))
        assert "accepted" not in summary.statuses
        assert held(at) == {((FLEXIBLE, 1),): DEVICES}
        assert run(tmp_path / "again", at, moving(inventory, order="unassign-first")).exit_code == 0
        assert held(at) == {((NEW, 1),): DEVICES}


def test_resume_keeps_the_order_of_the_last_session(tmp_path: Path) -> None:
    with carrier(rules=RuleConfig(exclusive=True)) as at:
        inventory, folder = onboarded(tmp_path, at), RunFolder(tmp_path / "move")
        interrupted(folder.path, at, moving(inventory))
        with stopping_at(Action.ASSIGN, NEW):
            run(folder.path, at, with_limits(moving(inventory, order="unassign-first"), max_concurrency=1))
        assert held(at) == {(): BATCH_SIZE, ((FLEXIBLE, 1),): DEVICES - BATCH_SIZE}
        assert resume(folder, at.target).statuses == {"accepted": DEVICES}
        assert held(at) == {((NEW, 1),): DEVICES}


def test_too_few_licenses_are_exit_4_and_nothing_is_sent(tmp_path: Path) -> None:
    with carrier(licenses={FLEXIBLE: 1000, NEW: DEVICES - 1}) as at:
        inventory = onboarded(tmp_path, at)
        before = at.requests()
        summary = run(tmp_path / "move", at, moving(inventory))
        assert summary.exit_code == ExitCode.REFUSED
        assert f"has {DEVICES - 1} of {NEW} left for {DEVICES} devices" in (summary.stopped_because or "")
        assert (at.requests(), summary.statuses) == (before, {"pending": DEVICES})


def test_restore_sends_batches_beyond_the_count_unassign_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchlic.pool.breaker.FIRST_PAUSE", 0.001)
    with carrier(licenses={FLEXIBLE: 1000, NEW: DEVICES // 2}) as at:
        summary = run(tmp_path / "move", at, moving(onboarded(tmp_path, at), restore=True))
        assert (summary.exit_code, summary.statuses) == (
            3,
            {"accepted": DEVICES // 2, "failed": DEVICES // 2},
        )
        assert held(at) == {((NEW, 1),): DEVICES // 2, ((FLEXIBLE, 1),): DEVICES // 2}
    rows = pl.read_parquet(tmp_path / "move" / "results.parquet").filter(status="failed")
    assert rows["error_message"].str.starts_with("has its old license back (not confirmed): ").all()
    assert known(tmp_path) == {FLEXIBLE: (50, 50, 0), NEW: (50, 0, 0)}


def test_devices_get_their_old_license_back_before_refusals_stop_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchlic.pool.breaker.FIRST_PAUSE", 0.001)
    with carrier(licenses={FLEXIBLE: 1000, NEW: 0}) as at:
        inventory = fleet(tmp_path / "fleet.csv", 3 * DEVICES)
        run(tmp_path / "onboarding", at, job(inventory))
        summary = run(tmp_path / "move", at, with_limits(moving(inventory, restore=True), max_concurrency=2))
        assert summary.exit_code == ExitCode.STOPPED
        assert summary.statuses[DeviceStatus.PENDING] > 0
        assert held(at) == {((FLEXIBLE, 1),): 3 * DEVICES}
    assert "Not enough licenses" in (summary.stopped_because or "")
    assert "--order" not in (summary.stopped_because or "")


def test_without_restore_devices_left_with_no_license_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchlic.pool.breaker.FIRST_PAUSE", 0.001)
    with carrier(licenses={FLEXIBLE: 1000, NEW: 95}) as at:
        summary = run(tmp_path / "move", at, moving(onboarded(tmp_path, at), order="unassign-first"))
        assert (summary.exit_code, summary.statuses) == (6, {"accepted": 95, "pending": 5})
        without = {device for device, licenses in at.licenses().items() if not licenses}
    rows = pl.read_parquet(tmp_path / "move" / "results.parquet").filter(status="pending")
    assert set(rows["imei"]) == without
    assert all(device in (summary.stopped_because or "") for device in without)


def test_e_moving_to_lifetime_needs_consent_and_is_final(tmp_path: Path) -> None:
    with carrier() as at:
        inventory = onboarded(tmp_path, at)
        before = at.requests()
        with pytest.raises(RefusedToStart, match="Lifetime"):
            run(tmp_path / "move", at, moving(inventory, LIFETIME, consent_lifetime=False))
        leaving = moving(inventory, NEW, from_sku=LIFETIME)
        summary = run(tmp_path / "leave", at, leaving)
        assert (summary.exit_code, summary.rejected, summary.planned) == (3, {"irrevocable": DEVICES}, 0)
        assert at.requests() == before
        assert run(tmp_path / "stay", at, moving(inventory, LIFETIME)).exit_code == ExitCode.OK
        assert held(at) == {((LIFETIME, 1),): DEVICES}


def test_a_row_that_names_another_sku_is_not_moved(tmp_path: Path) -> None:
    with carrier() as at:
        rows = [f"{imei(0)},{FLEXIBLE}", f"{imei(1)},", f"{imei(2)},{NEW}", f"{imei(3)},{LIFETIME}"]
        (tmp_path / "fleet.csv").write_text("\n".join(["IMEI,SKU", *rows, ""]))
        summary = run(tmp_path / "move", at, moving(tmp_path / "fleet.csv"))
        assert (summary.planned, summary.rejected) == (2, {"other_sku": 2})


def test_moved_devices_are_skipped_and_new_ones_are_moved(tmp_path: Path) -> None:
    with carrier() as at:
        inventory = onboarded(tmp_path, at)
        half = fleet(tmp_path / "half.csv", DEVICES // 2)
        assert run(tmp_path / "half", at, moving(half)).statuses == {"accepted": DEVICES // 2}
        summary = run(tmp_path / "all", at, moving(inventory))
        assert summary.statuses == {"accepted": DEVICES // 2, "skipped": DEVICES // 2}
        assert held(at) == {((NEW, 1),): DEVICES}
        assert known(tmp_path) == {FLEXIBLE: (0, DEVICES, 0), NEW: (DEVICES, 0, 0)}
        assert run(tmp_path / "again", at, job(inventory)).statuses == {"accepted": DEVICES}


def test_a_device_with_both_licenses_gets_no_second_new_one(tmp_path: Path) -> None:
    with carrier() as at:
        inventory = onboarded(tmp_path, at)
        run(tmp_path / "both", at, job(inventory, NEW))
        before = at.requests()
        summary = run(tmp_path / "move", at, moving(inventory))
        assert (summary.exit_code, summary.statuses, at.requests()) == (3, {"failed": DEVICES}, before)
    rows = pl.read_parquet(tmp_path / "move" / "results.parquet")
    assert rows["error_message"].str.starts_with("holds both licenses").all()


@pytest.mark.parametrize("ledger", [True, False])
def test_a_stopped_migration_leaves_both_licenses_in_the_ledger(tmp_path: Path, *, ledger: bool) -> None:
    with carrier() as at:
        inventory = fleet(tmp_path / "fleet.csv")
        run(tmp_path / "onboarding", at, job(inventory, ledger={"use": ledger}))
        with stopping_at(Action.UNASSIGN, FLEXIBLE):
            run(tmp_path / "move", at, moving(inventory))
        both = held(at)[(FLEXIBLE, 1), (NEW, 1)]
        assert both > 0
        summary = run(tmp_path / "again", at, moving(inventory))
        assert summary.statuses[DeviceStatus.FAILED] == both
        rows = pl.read_parquet(tmp_path / "again" / "results.parquet").filter(status="failed")
        assert rows["error_message"].str.contains("batchlic resume").all()
        assert known(tmp_path)[NEW] == (DEVICES, 0, 0)


def test_d_a_migration_continues_after_its_doubts_are_settled(tmp_path: Path) -> None:
    with carrier(faults={Fault.RESET_AFTER: 0.25}) as at:
        inventory = fleet(tmp_path / "fleet.csv")
        folder = RunFolder(tmp_path / "move")
        summary = run(folder.path, at, moving(inventory, LIFETIME))
        doubts = status(folder).doubts
        assert sum(len(doubt.devices) for doubt in doubts) == summary.statuses[DeviceStatus.IN_DOUBT] > 0
        assert {doubt.sku_number for doubt in doubts} == {LIFETIME}
        with pytest.raises(RefusedToStart, match="Lifetime"):
            settle(folder, DeviceStatus.PENDING, reason="again")
        some = settle(
            folder, DeviceStatus.ACCEPTED, reason="the portal says so", batches=[doubts[0].batch_id]
        )
        assert some.statuses[DeviceStatus.PENDING] == BATCH_SIZE
        settle(folder, DeviceStatus.ACCEPTED, reason="the portal says so")
        done = resume(folder, at.target)
        assert done.statuses == {"accepted": DEVICES}
        assert held(at) == {((LIFETIME, 1),): DEVICES}
        assert verify(folder).findings == []


@pytest.mark.parametrize(
    ("lost", "order", "first", "then"),
    [
        (NEW, "auto", DeviceStatus.ACCEPTED, DeviceStatus.FAILED),
        (FLEXIBLE, "auto", DeviceStatus.FAILED, DeviceStatus.ACCEPTED),
        (NEW, "unassign-first", DeviceStatus.FAILED, DeviceStatus.ACCEPTED),
    ],
)
def test_a_settled_step_stays_settled_once_the_other_step_was_sent(
    tmp_path: Path, lost: str, order: str, first: DeviceStatus, then: DeviceStatus
) -> None:
    with carrier() as at:
        inventory, folder = fleet(tmp_path / "fleet.csv", BATCH_SIZE), RunFolder(tmp_path / "move")
        run(tmp_path / "onboarding", at, job(inventory))
        with losing_an_answer_about(lost):
            moves = moving(inventory, order=order, restore=True)
            run(folder.path, at, with_limits(moves, resend_in_doubt=False))
        settle(folder, first, reason="the portal says so")
        summary = resume(folder, at.target)
        with pytest.raises(UsageError, match="its other step has been sent since"):
            settle(folder, then, reason="no", batches=[1])
        assert status(folder).statuses == summary.statuses


def test_a_migration_is_rolled_back_by_device(tmp_path: Path) -> None:
    with carrier() as at:
        folder = RunFolder(tmp_path / "move")
        run(folder.path, at, moving(onboarded(tmp_path, at)))
        with pytest.raises(UsageError, match="--by device"):
            rollback(folder, By.REQUEST, at.target, run_id=new_run_id())
        summary = rollback(folder, By.DEVICE, at.target, run_id=new_run_id())
        assert (summary.action, summary.statuses) == ("migrate", {"accepted": DEVICES})
        assert held(at) == {((FLEXIBLE, 1),): DEVICES}


def test_a_migration_to_lifetime_is_not_rolled_back(tmp_path: Path) -> None:
    with carrier() as at:
        run(tmp_path / "move", at, moving(onboarded(tmp_path, at), LIFETIME))
        with pytest.raises(RefusedToStart, match="can't be taken back"):
            rollback(RunFolder(tmp_path / "move"), By.DEVICE, at.target, run_id=new_run_id())


def test_a_device_history_has_both_requests_and_their_skus(tmp_path: Path) -> None:
    with carrier() as at:
        run(tmp_path / "move", at, moving(onboarded(tmp_path, at)))
    events = [event for event in device_history(imei(1), tmp_path) if event.run_dir.endswith("move")]
    assert [(event.event, event.action, event.sku_number) for event in events] == [
        ("planned", "migrate", FLEXIBLE),
        ("sent", "assign", NEW),
        ("answered", "assign", NEW),
        ("sent", "unassign", FLEXIBLE),
        ("taken_back", "unassign", FLEXIBLE),
    ]


def test_exported_failed_devices_can_be_migrated_again(tmp_path: Path) -> None:
    bad = {imei(7), imei(42)}
    with carrier(poison=tuple(Poison(identifier=device) for device in bad)) as at:
        inventory = fleet(tmp_path / "fleet.csv")
        summary = run(tmp_path / "move", at, moving(inventory))
        assert summary.statuses == {"accepted": DEVICES - 2, "failed": 2}
        export(RunFolder(tmp_path / "move"), Selection.FAILED, Format.CSV, tmp_path / "again.csv")
        again = run(tmp_path / "again", at, moving(tmp_path / "again.csv"))
        assert (again.planned, again.rejected) == (2, {})


def test_only_the_order_may_change_between_sessions(tmp_path: Path) -> None:
    with carrier() as at:
        inventory = fleet(tmp_path / "fleet.csv")
        interrupted(tmp_path / "move", at, moving(inventory))
        with pytest.raises(UsageError, match="restore is True, was False"):
            run(tmp_path / "move", at, moving(inventory, restore=True))
        summary = run(tmp_path / "move", at, moving(inventory, order="unassign-first"))
        assert summary.statuses == {"accepted": DEVICES}
    assert actions(tmp_path / "move")[0] == "unassign"


def test_a_lost_ledger_is_rebuilt_from_results_of_a_migration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builders, "STORE", None)  # only a file is lost alone
    with carrier() as at:
        run(tmp_path / "move", at, moving(onboarded(tmp_path, at)))
        before = known(tmp_path)
        (tmp_path / "ledger.db").unlink()
        with closing(Ledger(tmp_path / "ledger.db")) as ledger:
            files = [str(tmp_path / name / "results.parquet") for name in ("move", "onboarding")]
            import_files(ledger, files, ReadOptions(), carrier=at.target.name)
        assert known(tmp_path) == before


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_an_export_of_the_ledger_keeps_both_licenses_of_a_migration(tmp_path: Path, form: str) -> None:
    with carrier() as at:
        inventory = onboarded(tmp_path, at)
        with stopping_at(Action.UNASSIGN, FLEXIBLE):
            run(tmp_path / "move", at, moving(inventory))
        before, exported = known(tmp_path), tmp_path / f"ledger.{form}"
        assert min(before[FLEXIBLE][0], before[NEW][0]) > 0
        with closing(Ledger(tmp_path / "ledger.db")) as ledger:
            export_ledger(ledger, exported)
        (tmp_path / "ledger.db").unlink()
        with closing(Ledger(tmp_path / "ledger.db")) as ledger:
            import_files(ledger, [str(exported)], ReadOptions(), carrier=at.target.name)
        assert known(tmp_path) == before


def test_two_active_runs_do_not_share_devices(tmp_path: Path) -> None:
    with carrier() as at:
        inventory = fleet(tmp_path / "fleet.csv")
        interrupted(tmp_path / "move", at, moving(inventory))
        with RunFolder(tmp_path / "move").locked(), pytest.raises(RefusedToStart, match="is at work on 100"):
            run(tmp_path / "rival", at, job(inventory, NEW))
        run(tmp_path / "later", at, job(inventory, NEW))
        with pytest.raises(RefusedToStart, match="has recorded 100 of the devices"):
            resume(RunFolder(tmp_path / "move"), at.target)
