"""Runs that name a device are found without a look at the requests of the others."""

from contextlib import AbstractContextManager
from pathlib import Path

import polars as pl
import pytest

from batchlic.chunker.schema import PLAN, REJECTS
from batchlic.errors import RunFolderError
from batchlic.journal import JournalQueries
from batchlic.runs.folder import RunFolder
from batchlic.runs.history import device_history, found_history
from batchlic.runs.identity import inspected, sha256_of
from tests.runs.kept_runs import begun

DEVICE = "353456789012348"
REJECTED = {"imei": "35-345678-901234-8", "reason": "mangled_number", "row": 7}


def run(path: Path, *imeis: str, rejects: tuple[dict[str, object], ...] = ()) -> RunFolder:
    """A run that planned these devices in one batch, and was killed before its first request."""
    plan = pl.DataFrame([{"imei": imei, "batch_id": 1} for imei in imeis], schema=PLAN)
    plan.write_parquet(path.with_suffix(".plan"))
    folder = RunFolder(begun(path, plan_sha256=sha256_of(path.with_suffix(".plan"))))
    path.with_suffix(".plan").replace(folder.plan)
    pl.DataFrame(rejects, schema=REJECTS).write_parquet(folder.rejects)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """One run that planned the device, one that rejected it, and seven without it."""
    run(tmp_path / "planned", "353456789012355", DEVICE)
    run(tmp_path / "rejected", "353456789012355", rejects=(REJECTED,))
    for number in range(7):
        run(tmp_path / f"other [{number}] é %20", "353456789012355", rejects=({"row": 1},))
    return tmp_path


def events(runs: Path) -> set[tuple[str, str]]:
    return {(Path(event.run_dir).name, event.event) for event in device_history(DEVICE, runs)}


def test_the_runs_that_planned_or_rejected_a_device_are_found(runs: Path) -> None:
    assert events(runs) == {("planned", "planned"), ("rejected", "rejected")}


def test_only_journals_with_requests_for_the_device_are_copied(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = []

    def noted(folder: RunFolder) -> AbstractContextManager[JournalQueries]:
        copied.append(folder.path.name)
        return inspected(folder)

    monkeypatch.setattr("batchlic.runs.history.inspected", noted)
    device_history(DEVICE, runs)
    assert copied == ["planned"]


@pytest.mark.parametrize("name", ["plan", "rejects"])
@pytest.mark.parametrize("damaged", ["planned", "other [3] é %20"])
def test_a_damaged_table_is_named_whoever_is_in_it(runs: Path, name: str, damaged: str) -> None:
    (runs / damaged / f"{name}.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunFolderError) as raised:
        device_history(DEVICE, runs)
    assert str(raised.value).startswith(f"{runs / damaged / name}.parquet: ")


def test_a_lost_journal_makes_a_history_incomplete(runs: Path) -> None:
    RunFolder(runs / "other [3] é %20").journal_file.unlink()
    (runs / "other [3] é %20" / "run.log").touch()
    with pytest.raises(RunFolderError, match="the journal is lost"):
        device_history(DEVICE, runs)


def test_the_sound_runs_are_searched_beside_damaged_ones(runs: Path) -> None:
    for name in ("other [3] é %20", "other [5] é %20"):
        (runs / name / "rejects.parquet").write_bytes(b"PAR1")
    found = found_history(DEVICE, [RunFolder(path) for path in sorted(runs.iterdir())])
    assert {event.event for event in found.events} == {"planned", "rejected"}
    assert len(found.problems) == 2
