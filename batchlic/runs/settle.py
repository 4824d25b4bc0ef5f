"""Doubt, settled: an operator says what became of devices whose answer was lost (promises D and E)."""

import os
import pwd
from collections.abc import Collection
from contextlib import closing

import polars as pl

from batchlic.chunker import format_ranges
from batchlic.runs.finalize import has_ended, now, finalize
from batchlic.errors import StoppedEarly, UsageError
from batchlic.runs.identity import job_of, refuse_changed_plan
from batchlic.job import Job
from batchlic.journal import Journal, Verdict
from batchlic.journal.settlement import BY_CALLBACK
from batchlic.journal.steps import Step
from batchlic.runs.ledger_sync import ledger_sync
from batchlic.runs.folder import RunFolder
from batchlic.runs.staging import recovered_journal
from batchlic.writer.results import write_results
from batchlic.writer.summary import Summary


def settle(
    folder: RunFolder,
    verdict: Verdict,
    *,
    reason: str,
    batches: Collection[int] = (),
    devices: Collection[str] = (),
    consent_lifetime: bool = False,
) -> Summary:
    """Record the operator's decision about devices in doubt, and write the files of the run again.

    It is about the `batches` and `devices` (IMEI or ICCID) given, or about all that is in doubt. What an
    operator settled before may be settled anew where it is named, unless a migration has acted on it since;
    what the carrier said is not to be settled. Raises UsageError where something named is not to be settled,
    RefusedToStart where the run is at work or a Lifetime license would be asked for again without consent.
    """
    if not reason.strip():
        raise UsageError("a settlement needs a reason: say how you know")
    with folder.locked(), closing(recovered_journal(folder)) as journal:
        refuse_changed_plan(folder, journal.identity)
        job = job_of(journal.identity)
        started_at, had_ended = now(), has_ended(journal)
        chosen = _chosen(_candidates(folder, journal), batches, devices)
        if verdict is Verdict.RESEND:
            _require_consent(job, chosen, consent_lifetime=consent_lifetime)
        with ledger_sync(job, journal.identity.carrier, holding=(folder,)) as past:
            past.reopen(folder, journal)
        parts = parts_of(chosen, journal.identity.batches)
        journal.settle(parts, verdict, settled_by=_operator(), reason=reason, settled_at=now())
        rest = None if had_ended else StoppedEarly("settled in part: resume the run to go on")
        return finalize(job, folder, journal, started_at=started_at, stopped=rest)


def _candidates(folder: RunFolder, journal: Journal) -> pl.DataFrame:
    """Devices in doubt and those that an operator settled, with their place in their batch."""
    with folder.scratch() as results:
        write_results(results, plan=folder.plan, journal=journal, outcomes=folder.outcomes)
        return (
            pl.scan_parquet(results)
            .with_columns(
                pl.int_range(pl.len()).over("batch_id").alias("offset"),
                pl.len().over("batch_id").alias("batch_size"),
            )
            .filter(
                (pl.col("status") == "in_doubt") | (pl.col("settled_by") != BY_CALLBACK),
                pl.col("batch_id").is_not_null(),  # what an earlier run left in doubt is settled there
            )
            .collect()
        )


_WAS_SENT_SINCE = pl.col("last_attempt_at") > pl.col("settled_at")


def _chosen(candidates: pl.DataFrame, batches: Collection[int], devices: Collection[str]) -> pl.DataFrame:
    if not batches and not devices:
        chosen = candidates.filter(pl.col("status") == "in_doubt")
        if chosen.is_empty():
            raise UsageError("nothing is in doubt: there is nothing to settle")
        return chosen
    known = {*candidates["batch_id"], *candidates["imei"], *candidates["iccid"]}
    if strange := [name for name in (*batches, *devices) if name not in known]:
        raise UsageError(f"{strange[0]}: not in doubt; `batchlic status` shows what is")
    named = pl.col("imei").is_in(list(devices)) | pl.col("iccid").is_in(list(devices))
    chosen = candidates.filter(pl.col("batch_id").is_in(list(batches)) | named.fill_null(value=False))
    is_acted_on = pl.col("from_sku").is_not_null() & (pl.col("status") != "in_doubt") & _WAS_SENT_SINCE
    if (acted_on := chosen.filter(is_acted_on)).height:
        raise UsageError(
            f"batch {acted_on['batch_id'][0]}: settled before, and the other step has been taken since; "
            "that is not to be settled anew"
        )
    return chosen


def _require_consent(job: Job, chosen: pl.DataFrame, *, consent_lifetime: bool) -> None:
    license = job.license.model_copy(update={"consent_lifetime": consent_lifetime})
    gets_new = pl.col("step").is_null() | (pl.col("step") == Step.ASSIGN.word)  # a migration also takes away
    job.model_copy(update={"license": license}).require_consent(
        chosen.filter(gets_new)["sku_number"].unique()
    )


def parts_of(chosen: pl.DataFrame, batches: int) -> list[tuple[int, str, int]]:
    """Batch (of a migration: the number of the step in doubt), row ranges (empty for all) and devices.

    `chosen`: `batch_id`, `offset`, `batch_size` and `step`, a row a device.
    """
    return [
        (
            Step[step.upper()].number(batch_id, batches) if step else batch_id,
            "" if len(group) == group["batch_size"][0] else format_ranges(group["offset"].to_list()),
            len(group),
        )
        for (batch_id, step), group in chosen.group_by("batch_id", "step", maintain_order=True)
    ]


def _operator() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        return f"uid {os.getuid()}"
