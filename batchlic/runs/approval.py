"""The approval of a plan by a second person: another user of the operating system.

An approval is a file whose owner is the approver. The system sets the owner, so the person who planned can't
write an approval in another name. The file names the SHA-256 of the plan: it approves no other plan.

The planner makes the plan readable to a group, and gives the group a folder for approvals. The folder has the
sticky bit: a member can add a file there, and nobody else's can be replaced.
"""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from batchlic.atomic import explain_disk_errors, explain_read_errors, replacing
from batchlic.errors import RefusedToStart, UsageError
from batchlic.figures import time_in_files, time_on_terminal
from batchlic.job import Job
from batchlic.journal import PlanApproval
from batchlic.objectstore.copies import is_copy
from batchlic.runs.folder import RunFolder
from batchlic.runs.plan_record import PlanRecord, read_plan_record, refuse_changed_files

_FOLDER_MODE = 0o750
_FILE_MODE = 0o640
_APPROVALS_MODE = 0o3770
"""Group members may add files (setgid: of the same group), and remove only their own (sticky)."""
_APPROVAL_MODE = 0o644
"""The planner reads the approval; only those who may open its folder can."""
_LARGEST = 10_000
"""Bytes of an approval: a larger file is none."""


def group_id(name: str | None) -> int | None:
    """The number of a group that this process may give files to. Raises UsageError."""
    if name is None:
        return None
    try:
        number = grp.getgrnam(name).gr_gid
    except KeyError:
        raise UsageError(f"approval.group: this machine has no group {name}") from None
    if os.geteuid() != 0 and number not in {os.getegid(), *os.getgroups()}:
        raise UsageError(f"approval.group: {user_name(os.geteuid())} is not a member of the group {name}")
    return number


def share_with_approvers(job: Job, folder: RunFolder) -> None:
    """Make a folder for approvals, and give the approvers' group access to the plan.

    The caller has locked the folder. Raises UsageError as `group_id` does.
    """
    if not job.approval.required:
        return
    _refuse_object_store(folder)
    group = group_id(job.approval.group)
    with explain_disk_errors(folder.approvals):
        folder.approvals.mkdir(mode=0o700, exist_ok=True)
        if group is None:
            return
        for path in _plan_files(folder):
            os.chown(path, -1, group)
            path.chmod(_FILE_MODE)
        for path, mode in ((folder.approvals, _APPROVALS_MODE), (folder.path, _FOLDER_MODE)):
            os.chown(path, -1, group)
            path.chmod(mode)


def refuse_unapproved(job: Job, folder: RunFolder) -> None:
    """Raise RefusedToStart if a run must not start without an approved plan."""
    how = (
        f"plan it (batchlic plan … --run-dir {folder.argument}), let another user approve it "
        f"(batchlic approve {folder.argument}), then send it (batchlic apply {folder.argument})"
    )
    if job.approval.required:
        raise RefusedToStart(f"this job requires the approval of a second person; nothing was sent: {how}")
    if folder.plan_record.exists() and read_plan_record(folder)[0].planned_job.approval.required:
        raise RefusedToStart(
            f"{folder.path}: holds a plan that requires the approval of a second person; nothing was sent. "
            f"Approve it (batchlic approve {folder.argument}) and send it "
            f"(batchlic apply {folder.argument}), or give another folder with --run-dir"
        )


def _refuse_object_store(folder: RunFolder) -> None:
    """Raise UsageError for a folder in an object store: files have no owners there."""
    if is_copy(folder.path):
        raise UsageError(
            f"{folder.path}: files in an object store have no owners, so nobody can approve a plan there: "
            "give a run folder on a disk"
        )


def read_for_approval(folder: RunFolder) -> tuple[PlanRecord, str]:
    """The record of a plan that this user may approve, and the SHA-256 of its file. Writes nothing.

    Raises RefusedToStart if the plan has changed, if its run has begun, or if this user planned it, and
    NoAccess if it can't be opened.
    """
    _refuse_object_store(folder)
    record, sha256 = read_plan_record(folder)
    if folder.journal.exists():
        raise RefusedToStart(f"{folder.path}: the run has begun already; nothing was approved")
    refuse_changed_files(folder, record)
    if os.geteuid() in _owners(folder):
        raise RefusedToStart(
            f"{folder.path}: {user_name(os.geteuid())} made this plan; another user of the operating system "
            "has to approve it"
        )
    return record, sha256


def approve(folder: RunFolder, record: PlanRecord, record_sha256: str, *, approved_at: int) -> PlanApproval:
    """Approve the plan that `read_for_approval` returned. `approved_at`: microseconds since 1970.

    Raises NoAccess or StoppedEarly if the approval can't be written.
    """
    uid = os.geteuid()
    approval = PlanApproval(
        user=user_name(uid),
        uid=uid,
        approved_at=time_in_files(approved_at),
        plan_sha256=record.plan_sha256,
        record_sha256=record_sha256,
    )
    if folder.approvals.is_symlink():
        raise RefusedToStart(f"{folder.approvals}: is a link; nothing was approved")
    path = folder.approvals / f"{uid}.json"
    with explain_read_errors(folder.approvals):
        folder.approvals.mkdir(mode=0o755, exist_ok=True)
        if not os.access(folder.approvals, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(13, os.strerror(13), str(folder.approvals))
    with replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(approval), indent=2) + b"\n")
        temporary.chmod(_APPROVAL_MODE)
    return approval


def find_approval(folder: RunFolder, record: PlanRecord, record_sha256: str) -> PlanApproval:
    """The newest approval of exactly this plan by another user than the planner and the one of this process.

    Raises RefusedToStart that says why each approval that is there does not count.
    """
    valid: list[PlanApproval] = []
    reasons: list[str] = []
    for path in _files(folder.approvals):
        try:
            approval = _read(path, folder)
        except _Invalid as invalid:
            reasons.append(f"{path.name}: {invalid}")
            continue
        if (approval.plan_sha256, approval.record_sha256) == (record.plan_sha256, record_sha256):
            valid.append(approval)
        else:
            at = time_on_terminal(approval.approved_at)
            reasons.append(f"{approval.approver} approved another plan, at {at}")
    if valid:
        return max(valid, key=lambda one: one.approved_at)
    found = f" ({'; '.join(reasons)})" if reasons else ""
    raise RefusedToStart(
        f"{folder.path}: this plan is not approved{found}; nothing was sent. Another user has to approve it: "
        f"batchlic approve {folder.argument}"
    )


def notes_on_approval(approval: PlanApproval, folder: RunFolder) -> list[str]:
    """Who approved the plan, for the summary; and if the system could not have kept the two apart."""
    notes = [f"the plan was approved by {approval.approver} at {time_on_terminal(approval.approved_at)}"]
    if 0 in {os.geteuid(), approval.uid, *_owners(folder)}:
        notes.append(
            "the plan was made, approved or sent by root, who can write files in any name: the approval "
            "guards against mistakes, not against the administrator"
        )
    return notes


def holds_only_approvals(folder: Path) -> bool:
    """Whether a folder is one of approvals, with nothing else in it."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    names = [path.name for path in folder.iterdir()]
    return all(name.endswith((".json", ".tmp")) and name.lstrip(".")[:1].isdigit() for name in names)


class _Invalid(Exception):
    """A file is no approval; the text says why."""


def _files(folder: Path) -> Iterator[Path]:
    with explain_read_errors(folder), suppress(FileNotFoundError):
        yield from sorted(path for path in folder.iterdir() if path.suffix == ".json")


def _read(path: Path, folder: RunFolder) -> PlanApproval:
    """The approval in a file. Its owner counts, whatever it says of itself."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise _Invalid(f"can't be opened ({error.strerror})") from error
    with closing(os.fdopen(descriptor, "rb")) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise _Invalid("is a link, or not a file")
        if status.st_mode & 0o022:
            raise _Invalid("can be changed by others than its owner")
        content = file.read(_LARGEST)
    try:
        approval = msgspec.json.decode(content, type=PlanApproval)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _Invalid("is no approval") from None
    if status.st_uid in _owners(folder):
        raise _Invalid(f"{user_name(status.st_uid)} made the plan, and can't approve it")
    if status.st_uid == os.geteuid():
        raise _Invalid(f"{user_name(status.st_uid)} would send the plan, and can't approve it")
    if status.st_uid != approval.uid:
        raise _Invalid(f"the owner of the file is {user_name(status.st_uid)}, not the user that it names")
    return msgspec.structs.replace(approval, user=user_name(status.st_uid))


def _owners(folder: RunFolder) -> set[int]:
    """The users who made the plan: those who can change its files."""
    return {path.stat().st_uid for path in (folder.path, *_plan_files(folder))}


def _plan_files(folder: RunFolder) -> list[Path]:
    kept = [folder.kept] if folder.kept.is_file() else []
    return [folder.plan, folder.rejects, *kept, folder.plan_record]


def user_name(uid: int) -> str:
    """The name of a user of the operating system."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container's user without a name
        return f"uid {uid}"
