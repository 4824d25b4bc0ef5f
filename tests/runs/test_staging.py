"""A session that was replaced neither stages nor publishes files: they would be those of its successor."""

from pathlib import Path

import pytest

from batchlic.atomic import staged_path
from batchlic.database.leases import LeaseLost
from batchlic.journal import Journal
from batchlic.runs.folder import RunFolder
from batchlic.runs.staging import publish_staged
from tests.runs.test_preflight import carrier, run_at
from tests.writer.builders import journal_of


def lose(_: Journal) -> None:
    raise LeaseLost("another session has taken over")


async def lose_while_sending(_: object) -> None:
    raise LeaseLost("another session has taken over")


def test_k_a_replaced_session_stages_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run")
    monkeypatch.setattr("batchlic.runs.submit.send_here", lose_while_sending)
    monkeypatch.setattr(Journal, "check_held", lose)
    with carrier(100) as target, pytest.raises(LeaseLost):
        run_at(target, folder.path, 10)
    assert folder.plan.exists()
    assert not any(path.exists() or staged_path(path).exists() for path in folder.published_files)


def test_k_a_replaced_session_leaves_the_staged_files_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    staged = staged_path(folder.results)
    staged.write_bytes(b"of the session that has taken over")
    monkeypatch.setattr(Journal, "check_held", lose)
    with pytest.raises(LeaseLost):
        publish_staged(folder, journal_of([], [1]))
    assert staged.exists()
