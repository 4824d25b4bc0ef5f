"""The job of a call: of its arguments, or of a job file with arguments in place of some of its values."""

from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Literal, TypeAlias

from batchlic.api.calls import StrPath
from batchlic.api.inventories import Inventories, Inventory
from batchlic.api.options import overrides
from batchlic.job import Job, load_job, make_job

Action: TypeAlias = Literal["assign", "unassign", "migrate", "sync"]

_WHERE = "arguments"
"""What errors name as the source of a wrong value."""


def job_of(action: Action, name: str | None, inventories: Inventories, options: Mapping[str, object]) -> Job:
    """The job of the arguments. Raises UsageError for wrong ones."""
    content = {"action": action, "name": name, "inventory": {"files": inventories.names}}
    return make_job(content, overrides(options), where=_WHERE)


def loaded_job(
    job: StrPath | Job, name: str | None, inventories: Inventories, options: Mapping[str, object]
) -> Job:
    """A job, or that of a file, with those of the arguments that are given. Raises UsageError."""
    tables = overrides(options)
    if inventories.names:
        tables.setdefault("inventory", {})["files"] = inventories.names
    given = {"name": name, **tables}
    if isinstance(job, Job):
        return make_job(job.model_dump(exclude_unset=True), given, where=_WHERE)
    return load_job(Path(job), given)


def job_to_plan(
    given: Inventory | Job, action: Action, name: str | None, options: Mapping[str, object]
) -> tuple[Job, Inventories]:
    """The job to plan, and its inventories. Raises UsageError."""
    if isinstance(given, Job) or (isinstance(given, str | PathLike) and _is_job_file(fspath(given))):
        inventories = Inventories([], {})
        return loaded_job(given, name, inventories, options), inventories
    inventories = Inventories.of(given)
    return job_of(action, name, inventories, options), inventories


def _is_job_file(given: str) -> bool:
    return given.endswith(".toml") and "://" not in given
