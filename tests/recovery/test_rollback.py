"""Rollbacks take back assigned licenses by request or by device, once, and never Lifetime licenses."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from batchlic.chunker import DeviceStatus
from batchlic.errors import ExitCode, RefusedToStart, UsageError
from batchlic.journal import Part, SessionEnd
from batchlic.runs.folder import RunFolder
from batchlic.runs.history import device_history
from batchlic.runs.rollback import By, rollback
from batchlic.runs.run import new_run_id, resume
from batchlic.runs.settle import settle
from batchlic.runs.target import Target
from batchlic.runs.verify import verify
from batchlic.sandbox.config import Poison
from batchlic.writer.summary import Summary
from tests.recovery.builders import (
    ACCOUNT,
    DEVICES,
    FLEXIBLE,
    LIFETIME,
    LOSES_ANSWERS,
    Carrier,
    carrier,
    contents,
    fleet,
    imei,
    in_doubt,
    job,
    reopened,
    run,
)

BAD = {imei(7), imei(42)}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("backend")]


@pytest.fixture
def at() -> Iterator[Carrier]:
    with carrier(poison=tuple(Poison(identifier=device, named=False) for device in BAD)) as found:
        yield found


@pytest.fixture
def assigned(tmp_path: Path, at: Carrier) -> RunFolder:
    """A run of which two devices failed, so that two of its batches were split."""
    run(tmp_path / "run", at, job(fleet(tmp_path / "fleet.csv")))
    return RunFolder(tmp_path / "run")


def back(folder: RunFolder, by: By, target: Target) -> Summary:
    return rollback(folder, by, target, run_id=new_run_id())


def held(at: Carrier) -> Counter[str]:
    return Counter(sku for licenses in at.licenses().values() for sku in licenses)


@pytest.mark.parametrize("by", By)
def test_every_accepted_device_gives_its_license_back(assigned: RunFolder, at: Carrier, by: By) -> None:
    before = contents(assigned.path)
    assert held(at) == {FLEXIBLE: DEVICES - len(BAD)}
    summary = back(assigned, by, at.target)
    assert (summary.exit_code, summary.statuses) == (ExitCode.OK, {"accepted": DEVICES - len(BAD)})
    assert held(at) == {}
    undone = RunFolder(assigned.path / f"rollback-by-{by}")
    assert BAD.isdisjoint(pl.read_parquet(undone.results)["imei"])
    assert verify(undone).findings == []
    assert {name: data for name, data in contents(assigned.path).items() if name in before} == before


def test_by_request_there_is_one_delete_for_each_accepted_request(assigned: RunFolder, at: Carrier) -> None:
    audit = pl.read_parquet(assigned.audit).filter(pl.col("outcome") == "accepted")
    before = at.requests()
    back(assigned, By.REQUEST, at.target)
    undone = pl.read_parquet(assigned.path / "rollback-by-request" / "audit.parquet")
    assert sorted(undone["x_request_id"]) == sorted(audit["x_request_id"])
    assert at.requests() - before == len(audit)


def test_a_second_rollback_sends_nothing_or_is_refused(assigned: RunFolder, at: Carrier) -> None:
    first = back(assigned, By.REQUEST, at.target)
    before = at.requests()
    assert back(assigned, By.REQUEST, at.target) == first
    with pytest.raises(UsageError, match="already rolled back by request"):
        back(assigned, By.DEVICE, at.target)
    assert at.requests() == before


def test_a_rollback_that_was_stopped_is_resumed_like_any_run(assigned: RunFolder, at: Carrier) -> None:
    back(assigned, By.REQUEST, at.target)
    undone = RunFolder(assigned.path / "rollback-by-request")
    with reopened(undone.path) as journal:
        journal.settle(
            [Part(2, None, "", 9)], DeviceStatus.PENDING, settled_by="alice", reason="x", settled_at=1
        )
        journal.end(SessionEnd(0, 1, ExitCode.STOPPED))
    assert resume(undone, at.target).exit_code == ExitCode.OK
    assert back(assigned, By.REQUEST, at.target).exit_code == ExitCode.OK


def test_e_a_lifetime_run_is_refused_before_anything_is_sent(tmp_path: Path, at: Carrier) -> None:
    run(tmp_path / "run", at, job(fleet(tmp_path / "fleet.csv"), LIFETIME))
    before = at.requests()
    with pytest.raises(RefusedToStart, match="Lifetime"):
        back(RunFolder(tmp_path / "run"), By.REQUEST, at.target)
    assert at.requests() == before
    assert not list((tmp_path / "run").glob("rollback*"))


@pytest.mark.parametrize("by", By)
def test_e_lifetime_devices_of_a_mixed_run_are_irrevocable(tmp_path: Path, at: Carrier, by: By) -> None:
    rows = [f"{imei(n)},{LIFETIME if n % 2 else FLEXIBLE}" for n in range(10, 40)]
    (tmp_path / "mixed.csv").write_text("\n".join(["IMEI,SKU", *rows, ""]))
    license = {"account": ACCOUNT, "consent_lifetime": True}
    run(tmp_path / "run", at, job(tmp_path / "mixed.csv", license=license))
    summary = back(RunFolder(tmp_path / "run"), by, at.target)
    assert (summary.rows_read, summary.planned, summary.rejected) == (30, 15, {"irrevocable": 15})
    assert summary.exit_code == ExitCode.INCOMPLETE
    assert held(at) == {LIFETIME: 15}
    rejects = pl.read_parquet(tmp_path / "run" / f"rollback-by-{by}" / "rejects.parquet")
    assert set(rejects["sku_number"]) == {LIFETIME}


def test_d_devices_in_doubt_are_left_and_reported(tmp_path: Path) -> None:
    with carrier(faults=LOSES_ANSWERS) as at:
        limits = {"batch_size": 10, "resend_in_doubt": False}
        summary = run(tmp_path / "run", at, job(fleet(tmp_path / "fleet.csv"), limits=limits))
        doubtful = summary.statuses[DeviceStatus.IN_DOUBT]
        summary = back(RunFolder(tmp_path / "run"), By.DEVICE, at.target)
        assert summary.planned == DEVICES - doubtful
        assert f"{doubtful} devices in doubt are not rolled back" in summary.notes[0]
        assert held(at)[FLEXIBLE] >= doubtful


def test_only_an_assigning_run_with_accepted_devices_is_rolled_back(tmp_path: Path, at: Carrier) -> None:
    inventory = fleet(tmp_path / "fleet.csv")
    run(tmp_path / "taken", at, job(inventory, action="unassign"))
    with pytest.raises(UsageError, match="only assign and migrate runs"):
        back(RunFolder(tmp_path / "taken"), By.REQUEST, at.target)
    with carrier(faults=LOSES_ANSWERS) as other:
        in_doubt(tmp_path, other)
        settle(RunFolder(tmp_path / "run"), DeviceStatus.FAILED, reason="x")
        with pytest.raises(UsageError, match="talks to"):
            back(RunFolder(tmp_path / "run"), By.REQUEST, at.target)


def test_a_device_history_ends_with_the_rollback(assigned: RunFolder, at: Carrier) -> None:
    back(assigned, By.REQUEST, at.target)
    events = [event.event for event in device_history(imei(90), assigned.path.parent)]
    assert events == ["planned", "sent", "answered", "planned", "sent", "taken_back"]
