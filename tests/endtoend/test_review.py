"""`plan`, `approve` and `apply` as commands, by several users of the operating system."""

import grp
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.endtoend.program import ACCOUNT, FLEXIBLE, as_user, batchlic, fleet, summary

OPTIONS = ("fleet.csv", "--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "runs/R")
GROUP = next((group for group in grp.getgrall() if group.gr_gid != 0), None)
GID = GROUP.gr_gid if GROUP else 0
BOSS, STRANGER = (61002, GID), (61003, 61003)

needs_users = pytest.mark.skipif(
    os.geteuid() != 0 or GROUP is None, reason="only root can start processes of other users"
)


@pytest.fixture
def spool() -> Iterator[Path]:
    """A folder in which the members of a group may read the runs. Root plans and sends here."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        (path / "runs").mkdir()
        fleet(path / "fleet.csv", 120)
        os.chown(path / "runs", -1, GID)
        (path / "runs").chmod(0o750)
        yield path


@pytest.mark.slow
@needs_users
def test_a_member_of_the_group_approves_and_the_planner_sends(spool: Path) -> None:
    assert GROUP is not None
    group = ("--require-approval", "--approval-group", GROUP.gr_name)
    plan = batchlic("plan", *OPTIONS, "--sandbox", *group, cwd=spool)
    assert plan.code == 0, plan.err
    assert batchlic("apply", "runs/R", "--sandbox", cwd=spool).code == 4
    assert batchlic("approve", "runs/R", "--yes", cwd=spool).code == 4
    assert as_user(STRANGER, "approve", "runs/R", "--yes", cwd=spool).code == 2
    unasked = as_user(BOSS, "approve", "runs/R", cwd=spool)
    assert (unasked.code, "120 devices in 2 requests" in unasked.err) == (4, True)
    approved = as_user(BOSS, "approve", "runs/R", "--yes", cwd=spool)
    assert approved.code == 0, approved.err
    sent = batchlic("apply", "runs/R", "--sandbox", cwd=spool)
    assert sent.code == 0, sent.err
    assert any(f"approved by uid {BOSS[0]}" in note for note in summary(spool / "runs/R")["notes"])


@needs_users
def test_whoever_may_not_write_approvals_learns_whom_to_ask(spool: Path) -> None:
    assert batchlic("plan", *OPTIONS, "--sandbox", "--require-approval", cwd=spool).code == 0
    ended = as_user(BOSS, "approve", "runs/R", "--yes", cwd=spool)
    assert ended.code == 2
    assert "runs/R" in ended.err
    assert "permissions" in ended.err


def test_a_job_file_requires_approval_of_every_command_that_sends(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 5)
    (tmp_path / "job.toml").write_text(
        'action = "assign"\n[inventory]\nfiles = ["fleet.csv"]\n[approval]\nrequired = true\n'
        f'[license]\naccount = "{ACCOUNT}"\nsku = "{FLEXIBLE}"\n'
    )
    direct = batchlic("run", "job.toml", "--sandbox", "--run-dir", "runs/R", cwd=tmp_path)
    assert (direct.code, "batchlic approve runs/R" in direct.err) == (4, True)
    assert not (tmp_path / "runs/R").exists()
    option = batchlic("assign", *OPTIONS, "--sandbox", "--require-approval", cwd=tmp_path)
    assert option.code == 4


@pytest.mark.slow
def test_a_plan_without_required_approval_is_applied_as_it_is(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 5)
    assert batchlic("plan", *OPTIONS, "--sandbox", cwd=tmp_path).code == 0
    sent = batchlic("apply", "runs/R", "--sandbox", "--json", cwd=tmp_path)
    assert json.loads(sent.out)["statuses"] == {"accepted": 5}
    other = batchlic("plan", *OPTIONS, "--sandbox", cwd=tmp_path)
    assert (other.code, "holds a run already" in other.err) == (2, True)


def test_apply_without_a_plan_says_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "runs/R").mkdir(parents=True)
    ended = batchlic("apply", "runs/R", "--sandbox", cwd=tmp_path)
    assert (ended.code, "batchlic plan INVENTORY --run-dir runs/R" in ended.err) == (2, True)
