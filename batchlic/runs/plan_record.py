"""plan.json: how a plan came about. `apply` sends the plan only while all of it still holds."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from batchlic.atomic import explain_read_errors, replacing
from batchlic.carrier.catalog import Action
from batchlic.chunker import Plan, PlanGroup
from batchlic.errors import InventoryError, RefusedToStart, RunFolderError, UsageError
from batchlic.figures import time_in_files
from batchlic.job import Job
from batchlic.journal import InventoryFile, LicenseCount
from batchlic.reader import Source
from batchlic.reader.inputs.addresses import shown
from batchlic.reader.inputs.databases import in_folder
from batchlic.reader.inputs.frames import frame_of
from batchlic.reader.inputs.streams import STDIN
from batchlic.reader.scans import scan_parquet
from batchlic.runs.folder import RunFolder, missing_folder
from batchlic.runs.identity import hint_at_order, inputs_of, sha256_of, without_secrets
from batchlic.runs.preflight import planned_groups

VERSION = 1


class RecordedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The devices to send of one account and SKU; `action` is what a sync does with them."""

    account_name: str
    sku_number: str
    devices: int
    batches: int
    action: Action | None = None


class PlanRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of plan.json. Times are ISO 8601 in UTC.

    - `job`: the whole job, with absolute paths and without secrets.
    - `plan_sha256`, `rejects_sha256`: of plan.parquet and rejects.parquet.
    - `inputs`: the inventories, each with its size and SHA-256 if it is a file.
    - `not_comparable`: inventories that can't be read again: their addresses hold a login or signature, or
      they were frames of a program.
    - `ledger_number`: the number of the newest records in the ledger; 0 without a ledger.
    - `licenses`: the carrier's counts when the plan was made, if it was asked.
    - `kept`, `kept_sha256`: the columns of kept.parquet, and the SHA-256 of that file, if it exists.
    - `groups`: in the order of their batches.
    - The other fields are those of the plan in figures.
    """

    version: int = VERSION
    planned_at: str
    carrier: str
    job: dict[str, Any]
    plan_sha256: str
    rejects_sha256: str
    inputs: list[InventoryFile]
    not_comparable: list[str]
    ledger_number: int
    licenses: list[LicenseCount]
    sources: list[tuple[str, int]]
    rows_read: int
    rejected: dict[str, int]
    planned: int
    excluded: dict[str, int]
    batches: int
    groups: list[RecordedGroup]
    notes: list[str]
    kept: list[str] = []
    kept_sha256: str | None = None

    @property
    def plan(self) -> Plan:
        """The plan in figures."""
        return Plan(
            sources=tuple(Source(name, rows) for name, rows in self.sources),
            rows_read=self.rows_read,
            rejected=self.rejected,
            planned=self.planned,
            excluded=self.excluded,
            batches=self.batches,
            groups=tuple(PlanGroup(**msgspec.structs.asdict(group)) for group in self.groups),
            notes=tuple(self.notes),
            kept=tuple(self.kept),
        )

    @property
    def planned_job(self) -> Job:
        """The job of the plan."""
        return Job.model_validate(self.job)


def write_plan_record(
    job: Job,
    folder: RunFolder,
    plan: Plan,
    carrier: str,
    *,
    planned_at: int,
    ledger_number: int,
    licenses: Sequence[LicenseCount] = (),
) -> None:
    """Write plan.json for the plan in a folder. `planned_at` is in microseconds since 1970."""
    files = job.inventory.files
    absolute = _with_files(job, list(map(_absolute, files)))
    record = PlanRecord(
        planned_at=time_in_files(planned_at),
        carrier=carrier,
        job=without_secrets(absolute).model_dump(mode="json"),
        plan_sha256=sha256_of(folder.plan),
        rejects_sha256=sha256_of(folder.rejects),
        inputs=inputs_of(job, plan.downloaded),
        not_comparable=[shown(name) for name in files if shown(name) != name or frame_of(name) is not None],
        ledger_number=ledger_number,
        licenses=list(licenses),
        sources=[(source.name, source.rows) for source in plan.sources],
        rows_read=plan.rows_read,
        rejected=dict(plan.rejected),
        planned=plan.planned,
        excluded=dict(plan.excluded),
        batches=plan.batches,
        groups=[
            RecordedGroup(
                account_name=group.account_name,
                sku_number=group.sku_number,
                devices=group.devices,
                batches=group.batches,
                action=group.action,
            )
            for group in plan.groups
        ],
        notes=list(plan.notes),
        kept=list(plan.kept),
        kept_sha256=sha256_of(folder.kept) if plan.kept else None,
    )
    with replacing(folder.plan_record) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def read_plan_record(folder: RunFolder) -> tuple[PlanRecord, str]:
    """The record of the plan in a folder, and the SHA-256 of its file.

    Raises RunFolderError if there is none, or if it is damaged, and NoAccess if it can't be opened.
    """
    path = folder.plan_record
    with explain_read_errors(path):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise RunFolderError(_without_record(folder)) from None
    try:
        record = msgspec.json.decode(content, type=PlanRecord)
        record.planned_job  # noqa: B018 - raises if the job can't be read
    except (msgspec.MsgspecError, ValueError) as error:
        raise RunFolderError(f"{path}: is damaged, or of another version; plan again ({error})") from error
    if record.version != VERSION:
        raise RunFolderError(f"{path}: was written by another version of batchlic; plan again")
    return record, hashlib.sha256(content).hexdigest()


def _without_record(folder: RunFolder) -> str:
    if not folder.path.is_dir():
        return str(missing_folder(folder.path))
    if folder.plan.exists():
        return f"{folder.plan_record}: is missing, so nobody knows what this plan was made from; plan again"
    return f"{folder.path}: there is no plan; make one: batchlic plan INVENTORY --run-dir {folder.path}"


def refuse_changed_files(folder: RunFolder, record: PlanRecord) -> None:
    """Raise RefusedToStart if the files of a plan are not those that its record describes.

    The figures are counted in plan.parquet: somebody approves them.
    """
    recorded = [(folder.plan, record.plan_sha256), (folder.rejects, record.rejects_sha256)]
    if record.kept_sha256 is not None:
        recorded.append((folder.kept, record.kept_sha256))
    for path, sha256 in recorded:
        with explain_read_errors(path):
            is_there = path.is_file()
        if not is_there or sha256_of(path) != sha256:
            raise RefusedToStart(
                f"{path}: missing or changed since it was planned (SHA-256 {sha256}); nothing was sent. Plan "
                "again"
            )
    rows = scan_parquet(folder.plan)
    excluded = rows.filter(pl.col("batch_id").is_null()).group_by("held").len().collect()
    is_described = (
        planned_groups(folder.plan) == sorted(record.plan.groups, key=_by_target_and_action)
        and dict(excluded.iter_rows()) == record.excluded
        and rows.select(pl.len()).collect().item() == record.planned
    )
    if not is_described:
        raise RefusedToStart(
            f"{folder.plan_record}: its figures are not those of {folder.plan.name}; nothing was sent. Plan "
            "again"
        )


def _by_target_and_action(group: PlanGroup) -> tuple[str, str, str]:
    return group.account_name, group.sku_number, group.action or ""


def inventory_changes(record: PlanRecord) -> tuple[list[str], list[str]]:
    """How the inventories differ from those that were planned; and which can't be compared, as notes."""
    differences = list(_input_differences(record))
    notes = [
        f"{name} was not compared with the inventory that was planned: "
        f"{'its address holds a login or a signature' if '://' in name else 'it is no file'}"
        for name in _not_compared(record)
    ]
    return differences, notes


def _not_compared(record: PlanRecord) -> list[str]:
    return [file.name for file in record.inputs if file.sha256 is None or file.name in record.not_comparable]


def _input_differences(record: PlanRecord) -> Iterator[str]:
    job = record.planned_job
    left_out = set(_not_compared(record))
    files = [name for name in job.inventory.files if name not in left_out]
    then = [file for file in record.inputs if file.name not in left_out]
    if not files:
        return
    try:
        now = inputs_of(_with_files(job, files))
    except (InventoryError, UsageError) as error:
        yield f"an inventory can't be read again: {error}"
        return
    if len(now) != len(then):
        yield f"there are {len(now)} inventories, but the plan was made from {len(then)}"
        return
    for given, known in zip(now, then, strict=True):
        if given.sha256 != known.sha256:
            sizes = f"({given.size or 0:,} bytes, was {known.size or 0:,})"
            yield f"{known.name} has changed {sizes}{hint_at_order(given)}"


def _with_files(job: Job, files: list[str]) -> Job:
    return job.model_copy(update={"inventory": job.inventory.model_copy(update={"files": files})})


def _absolute(name: str) -> str:
    is_path = name != STDIN and "://" not in name and shown(name) == name and frame_of(name) is None
    if not is_path:
        return in_folder(name, Path.cwd())
    return os.path.abspath(name)  # noqa: PTH100 - a link stays a link
