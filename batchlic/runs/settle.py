"""Records an operator's decision about devices whose answer was lost (promises D and E)."""

from collections.abc import Collection
from contextlib import closing
from time import monotonic

import polars as pl

from batchlic.chunker import DeviceStatus, Step, format_ranges
from batchlic.errors import StoppedEarly, UsageError
from batchlic.figures import counted
from batchlic.job import Job
from batchlic.journal import SETTLED_BY_CALLBACK, Journal, Part
from batchlic.runs.asking import Ask, ask_about_licenses
from batchlic.runs.finalize import finalize, has_ended, now
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import job_of, refuse_changed_plan
from batchlic.runs.ledger_sync import ledger_sync
from batchlic.runs.signals import finishing
from batchlic.runs.staging import recovered_journal, remove_report
from batchlic.runs.states import states_of
from batchlic.runs.user import user_name
from batchlic.writer.summary import Summary


def settle(
    folder: RunFolder,
    status: DeviceStatus,
    *,
    reason: str,
    batches: Collection[int] = (),
    devices: Collection[str] = (),
    consent_lifetime: bool = False,
    ask: Ask | None = None,
) -> Summary:
    """Record the operator's decision about devices in doubt, and write the files of the run again.

    `status` is accepted, failed or pending (send again). The decision is about `batches` and `devices` (IMEI
    or ICCID), or about all devices in doubt if neither is given. A batch stands for its devices in doubt, and
    for those that an operator has settled before, unless a migration has sent the other step since then. A
    pending device whose last answer was a refusal can be settled, too, but only by its own name. All others
    can't be settled: the carrier has accepted them, refused them for good, or not executed their request.

    In a migration, the decision is about one step of the device: the one in doubt, or the one refused.

    `ask` gets the question to confirm, with the number of devices, and may raise RefusedToStart.

    Raises UsageError if a named batch or device can't be settled. Raises RefusedToStart if a session is
    active, or if a Lifetime license would be requested again without consent.
    """
    if not reason.strip():
        raise UsageError("--reason is empty: say how you know the outcome of these devices")
    with folder.locked(), closing(recovered_journal(folder)) as journal:
        refuse_changed_plan(folder, journal.identity)
        job = job_of(journal.identity)
        began, had_ended = monotonic(), has_ended(journal)
        earlier = journal.identity.excluded.get(DeviceStatus.IN_DOUBT, 0)
        chosen = _chosen(_candidates(folder, journal), batches, devices, earlier)
        if status is DeviceStatus.PENDING:
            _require_consent(job, chosen, consent_lifetime=consent_lifetime)
        if ask is not None:
            resent = _assigned_skus(chosen) if status is DeviceStatus.PENDING else ()
            ask_about_licenses(ask, _question(folder, chosen, status), resent, job.skus)
        stopped = (
            None
            if had_ended
            else StoppedEarly("the run has not finished; resume it to send the remaining devices")
        )
        with finishing():
            with ledger_sync(job, journal.identity.carrier, locked=(folder,)) as ledger:
                ledger.reopen(folder, journal)
            remove_report(folder)
            journal.settle(parts_of(chosen), status, settled_by=user_name(), reason=reason, settled_at=now())
            return finalize(job, folder, journal, began=began, stopped=stopped)


_IS_IN_DOUBT = pl.col("status") == DeviceStatus.IN_DOUBT.value
_IS_SETTLED = pl.col("awaits_resend") | (pl.col("settled_by") != SETTLED_BY_CALLBACK).fill_null(value=False)


def _candidates(folder: RunFolder, journal: Journal) -> pl.DataFrame:
    """The devices that can be settled (columns: DEVICE_STATES)."""
    is_unresolved = (pl.col("status") == DeviceStatus.PENDING.value) & pl.col("is_refused")
    # A device in doubt since an earlier run is settled in that run.
    is_of_this_run = pl.col("batch_id").is_not_null()
    can_be_settled = _IS_IN_DOUBT | _IS_SETTLED | is_unresolved
    return states_of(folder, journal).filter(can_be_settled, is_of_this_run).collect()


def _chosen(
    candidates: pl.DataFrame, batches: Collection[int], devices: Collection[str], earlier: int
) -> pl.DataFrame:
    """The devices to settle. `earlier`: those in doubt since an earlier run."""
    if not batches and not devices:
        chosen = candidates.filter(_IS_IN_DOUBT)
        if chosen.is_empty() and earlier:
            those = f"{counted(earlier, 'device')} {'is' if earlier == 1 else 'are'}"
            raise UsageError(
                f"nothing is in doubt in this run itself: {those} in doubt since an earlier run. Resume "
                "or settle that one: batchlic ledger show --device DEVICE names it"
            )
        if chosen.is_empty():
            raise UsageError("nothing is in doubt in this run, so there is nothing to settle")
        return chosen
    in_batches = candidates.filter(_IS_IN_DOUBT | _IS_SETTLED)["batch_id"]
    names = {*in_batches, *candidates["imei"], *candidates["iccid"]}
    if unknown := [name for name in (*batches, *devices) if name not in names]:
        raise UsageError(
            f"{unknown[0]}: this batch or device is not in doubt; `batchlic status` lists those in doubt. A "
            "device that the carrier refuses again and again can be settled with --device"
        )
    is_named = pl.col("imei").is_in(list(devices)) | pl.col("iccid").is_in(list(devices))
    is_of_batch = pl.col("batch_id").is_in(list(batches)) & (_IS_IN_DOUBT | _IS_SETTLED)
    chosen = candidates.filter(is_of_batch | is_named.fill_null(value=False))
    was_sent_since = pl.col("last_attempt_at") > pl.col("settled_at")
    is_too_late = pl.col("from_sku").is_not_null() & ~_IS_IN_DOUBT & was_sent_since
    if (too_late := chosen.filter(is_too_late)).height:
        raise UsageError(
            f"batch {too_late['batch_id'][0]}: already settled, and its other step has been sent since then; "
            "it can't be settled again"
        )
    return chosen


def _require_consent(job: Job, chosen: pl.DataFrame, *, consent_lifetime: bool) -> None:
    license = job.license.model_copy(update={"consent_lifetime": consent_lifetime})
    job.model_copy(update={"license": license}).require_consent(_assigned_skus(chosen))


def _assigned_skus(chosen: pl.DataFrame) -> list[str]:
    """The SKUs of which the devices get a license by their requests in doubt, if they are not unassigned."""
    assigns = pl.col("step").is_null() | (pl.col("step") == Step.ASSIGN.value)  # the others take a license
    return chosen.filter(assigns)["sku_number"].unique().to_list()


def _question(folder: RunFolder, chosen: pl.DataFrame, status: DeviceStatus) -> str:
    devices = counted(chosen.height, "device")
    batches = counted(chosen["batch_id"].n_unique(), "batch")
    what = "send them again" if status is DeviceStatus.PENDING else f"settle them as {status}"
    return f"{folder.path}: {devices} in doubt, in {batches}: {what}?"


def parts_of(devices: pl.DataFrame) -> list[Part]:
    """The parts of batches that hold some devices (columns: batch_id, step, offset, batch_size)."""
    return [
        Part(
            batch_id,
            step,
            "" if len(group) == group["batch_size"][0] else format_ranges(group["offset"].to_list()),
            len(group),
        )
        for (batch_id, step), group in devices.group_by("batch_id", "step", maintain_order=True)
    ]
