"""Approvals: whose file counts, for which plan, and where the journal and the audit have it."""

import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from batchlic.errors import RefusedToStart, UsageError
from batchlic.job import Job
from batchlic.runs.apply import apply
from batchlic.runs.approval import (
    approve,
    find_approval,
    holds_only_approvals,
    notes_on_approval,
    read_for_approval,
)
from batchlic.runs.folder import RunFolder
from batchlic.runs.plan_record import read_plan_record
from batchlic.runs.prune import _refuse_foreign_files
from batchlic.runs.run import start
from batchlic.runs.target import Target
from batchlic.runs.verify import verify
from tests.runs.test_apply import planned, requests, rows
from tests.runs.test_run import carrier, job_of

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
BOSS = 61002
"""The number of a user that no machine has."""


def approved_job(folder: Path, *, group: str | None = None) -> Job:
    job = job_of(folder, rows(*range(10)))
    return job.model_copy(
        update={"approval": job.approval.model_copy(update={"required": True, "group": group})}
    )


def approved(folder: RunFolder, by: int = BOSS) -> Path:
    """An approval that is owned by a user, as if that user had written it."""
    record, sha256 = read_plan_record(folder)
    approve(folder, record, sha256, approved_at=1_700_000_000_000_000)
    path = folder.approvals / f"{by}.json"
    written = folder.approvals / f"{os.geteuid()}.json"
    path.write_text(written.read_text().replace(f'"uid": {os.geteuid()},', f'"uid": {by},'))
    if path != written:
        written.unlink()
    path.chmod(0o644)
    os.chown(path, by, -1)
    return path


@pytest.mark.slow
@needs_root
def test_the_journal_the_audit_and_the_summary_have_the_approval(tmp_path: Path) -> None:
    with carrier() as target:
        folder = planned(approved_job(tmp_path), RunFolder(tmp_path / "run"), target)
        with pytest.raises(RefusedToStart, match="not approved"):
            apply(folder, target, run_id="run")
        approved(folder)
        summary = apply(folder, target, run_id="run")
    with closing(folder.journal.open()) as journal:
        approval = journal.identity.approval
    assert approval
    assert (approval.uid, approval.plan_sha256) == (BOSS, read_plan_record(folder)[0].plan_sha256)
    first = pl.read_parquet(folder.audit).row(0, named=True)
    assert (first["seq"], first["action"], first["outcome"]) == (0, "approve", "approved")
    assert first["settled_by"] == f"uid {BOSS} (uid {BOSS})"
    assert approval.record_sha256 in first["reason"]
    assert any(f"approved by uid {BOSS}" in note for note in summary.notes)
    assert verify(folder).findings == []
    _refuse_foreign_files(folder)  # `runs prune` knows all files of the folder


def plan_again(folder: RunFolder, job: Job, target: Target) -> None:
    planned(job, folder, target)


def plan_more(folder: RunFolder, job: Job, target: Target) -> None:
    job_of(folder.parent, rows(*range(11)))
    planned(job, folder, target)


def change_limits(folder: RunFolder, *_: object) -> None:
    record = json.loads(folder.plan_record.read_text())
    record["job"]["limits"]["max_rate"] = 1.0
    folder.plan_record.write_text(json.dumps(record))


@needs_root
@pytest.mark.parametrize("change", [plan_again, plan_more, change_limits])
def test_the_approval_of_a_changed_plan_does_not_count(
    tmp_path: Path, change: Callable[[RunFolder, Job, Target], None]
) -> None:
    with carrier() as target:
        folder, job = RunFolder(tmp_path / "run"), approved_job(tmp_path)
        approved(planned(job, folder, target))
        change(folder, job, target)
        with pytest.raises(RefusedToStart, match=f"uid {BOSS}.* approved another plan"):
            apply(folder, target, run_id="run")
        assert requests(target) == 0


def by_the_planner(folder: RunFolder) -> None:
    approved(folder, by=os.geteuid())


def in_the_name_of_another(folder: RunFolder) -> None:
    path = approved(folder)
    path.write_text(path.read_text().replace(str(BOSS), "61003"))


def written_by_the_planner(folder: RunFolder) -> None:
    os.chown(approved(folder), os.geteuid(), -1)


def writable_to_others(folder: RunFolder) -> None:
    approved(folder).chmod(0o664)


def a_link(folder: RunFolder) -> None:
    path = approved(folder)
    path.rename(folder.parent / "elsewhere.json")
    path.symlink_to(folder.parent / "elsewhere.json")


def a_second_name(folder: RunFolder) -> None:
    os.link(approved(folder), folder.parent / "elsewhere.json")


def damaged(folder: RunFolder) -> None:
    approved(folder).write_text("{}")


def a_pipe(folder: RunFolder) -> None:
    os.mkfifo(folder.approvals / f"{BOSS}.json")


@needs_root
@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (by_the_planner, "made the plan"),
        (in_the_name_of_another, "not the user that it names"),
        (written_by_the_planner, "made the plan"),
        (writable_to_others, "can be changed by others"),
        (a_link, "can't be opened"),
        (a_second_name, "is a link"),
        (damaged, "is no approval"),
        (a_pipe, "is a link, or not a file"),
    ],
)
def test_a_forged_approval_does_not_count(
    tmp_path: Path, forge: Callable[[RunFolder], None], reason: str
) -> None:
    with carrier() as target:
        folder = planned(approved_job(tmp_path), RunFolder(tmp_path / "run"), target)
    record, sha256 = read_plan_record(folder)
    forge(folder)
    with pytest.raises(RefusedToStart, match=reason):
        find_approval(folder, record, sha256)


@needs_root
def test_who_owns_any_file_of_the_plan_cannot_approve_it(tmp_path: Path) -> None:
    with carrier() as target:
        folder = planned(approved_job(tmp_path), RunFolder(tmp_path / "run"), target)
    record, sha256 = read_plan_record(folder)
    approved(folder)
    os.chown(folder.plan, BOSS, -1)
    with pytest.raises(RefusedToStart, match="made the plan"):
        find_approval(folder, record, sha256)


def test_the_planner_is_told_to_find_another_user(tmp_path: Path) -> None:
    with carrier() as target:
        folder = planned(approved_job(tmp_path), RunFolder(tmp_path / "run"), target)
    with pytest.raises(RefusedToStart, match="another user of the operating system"):
        read_for_approval(folder)


def test_a_job_that_requires_approval_is_sent_only_by_apply(tmp_path: Path) -> None:
    folder, job = RunFolder(tmp_path / "run"), approved_job(tmp_path)
    with carrier() as target:
        with pytest.raises(RefusedToStart, match=r"batchlic plan .*batchlic approve .*batchlic apply"):
            start(job, folder, target, run_id="run")
        planned(job, folder, target)
        with pytest.raises(RefusedToStart, match="holds a plan that requires the approval"):
            start(job_of(tmp_path, rows(1)), folder, target, run_id="run")
        assert requests(target) == 0


def test_an_unknown_group_is_refused_before_anything_is_planned(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with carrier() as target, pytest.raises(UsageError, match=r"approval\.group: .*no-such-group"):
        planned(approved_job(tmp_path, group="no-such-group"), folder, target)
    assert not folder.path.exists()


def test_a_folder_of_approvals_with_other_files_is_no_folder_of_approvals(tmp_path: Path) -> None:
    folder = tmp_path / "approvals"
    folder.mkdir()
    (folder / "1000.json").touch()
    assert holds_only_approvals(folder)
    (folder / "minutes.txt").touch()
    assert not holds_only_approvals(folder)


@needs_root
@pytest.mark.parametrize("boss", [0, BOSS])
def test_an_approval_by_root_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boss: int) -> None:
    with carrier() as target:
        folder = planned(approved_job(tmp_path), RunFolder(tmp_path / "run"), target)
    for path in (folder.path, folder.plan, folder.rejects, folder.plan_record):
        os.chown(path, BOSS + 1, -1)
    approved(folder, boss)
    monkeypatch.setattr(os, "geteuid", lambda: BOSS + 1)
    notes = notes_on_approval(find_approval(folder, *read_plan_record(folder)), folder)
    assert any("root" in note for note in notes[1:]) is (boss == 0)
