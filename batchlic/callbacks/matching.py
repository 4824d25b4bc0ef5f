"""Which message tells the outcome of which device: joins over the run's devices and the store's messages.

A message tells the outcome of a device of the run in one of two ways.

1. It carries the requestId of the request that the carrier took for this device, and one of its identifiers.
2. Where an answer to a request for the device was lost, its requestId is not known. Then a message proves
   that it was executed if it is about that device on that account, carries a requestId that no known request
   of this run or of one beside it had, and came between the first request for the device and `WINDOW` after
   the last.

Identifiers are compared as IMEI first; a message whose IMEI names no device of the request is looked up by
its ICCID. A message that came to the address of another account tells nothing. Of several messages about one
device a success counts more than a failure, and an earlier one more than a later one: so the order in which
they come changes nothing, and no repeat does.
"""

from datetime import timedelta

import polars as pl

from batchlic.writer.schemas import OUTCOMES, RESULTS, Schema

LAST_TRY = timedelta(minutes=15)
"""From the carrier's first try to its last: three more, five minutes apart."""

WINDOW = 2 * LAST_TRY
"""As much again for an execution that comes late."""

_IDENTIFIERS = ("imei", "iccid")

DEVICES: Schema = {"plan_row": pl.UInt32(), "offset": pl.Int64()} | {
    name: RESULTS[name]
    for name in (
        "batch_id",
        "imei",
        "iccid",
        "account_name",
        "request_id",
        "status",
        "first_attempt_at",
        "last_attempt_at",
    )
}
"""What matching needs of a device: `plan_row` is its place in the plan, `offset` that in its batch."""


def told_outcomes(
    devices: pl.LazyFrame,
    messages: pl.LazyFrame,
    lost_answers: pl.DataFrame,
    other_requests: pl.LazyFrame | None,
) -> pl.LazyFrame:
    """The outcomes that messages tell of devices (columns: schemas.OUTCOMES), at most one a device.

    `devices` (columns: DEVICES) as the carrier's answers alone have them: what an operator settled is as
    doubtful as before. `messages`: the fields of Told, `received_at` as UTC. `lost_answers`: how many
    requests had no known answer (`lost`), for the whole `batch_id`, or for one `offset` in it where that is
    not null. `other_requests`: `request_id` of requests that other runs made; None where they can't be known,
    and then no message proves anything about a lost answer.
    """
    open_devices = devices.filter(pl.col("status").is_in(["accepted", "in_doubt"]))
    numbered = messages.with_row_index("message")
    by_request = _found(open_devices.drop_nulls("request_id"), numbered, ["request_id"])
    if lost_answers.is_empty():
        return latest_word([_outcomes(by_request)])
    if other_requests is None:
        strange = numbered.clear()
    else:
        known = pl.concat([open_devices.select("request_id").drop_nulls(), other_requests])
        strange = numbered.join(known, on="request_id", how="anti")
    with_lost = _with_lost(open_devices, lost_answers.lazy())
    proofs = _during(_found(with_lost, strange, []))
    is_final = pl.col("succeeded") | ~pl.col("plan_row").is_in(_may_have_succeeded(with_lost, proofs))
    return latest_word([_outcomes(by_request.filter(is_final)), *_proven(proofs)])


def latest_word(outcomes: list[pl.LazyFrame]) -> pl.LazyFrame:
    """At most one outcome a device: the first success, or else the first failure; in the plan's order."""
    return (
        pl.concat(outcomes)
        .sort("plan_row", pl.col("status") != "confirmed", "settled_at", "request_id")
        .unique("plan_row", keep="first", maintain_order=True)
    )


def _with_lost(devices: pl.LazyFrame, lost_answers: pl.LazyFrame) -> pl.LazyFrame:
    """The devices some of whose requests had no known answer, with how many of them: `lost`."""
    of_batch = lost_answers.filter(pl.col("offset").is_null()).group_by("batch_id").agg(pl.sum("lost"))
    of_device = lost_answers.drop_nulls("offset").group_by("batch_id", "offset").agg(pl.sum("lost"))
    both = devices.join(of_batch, on="batch_id", how="left").join(
        of_device, on=["batch_id", "offset"], how="left", suffix="_in_part"
    )
    lost = pl.sum_horizontal("lost", "lost_in_part")
    return both.with_columns(lost.alias("lost")).drop("lost_in_part").filter(pl.col("lost") > 0)


def _during(found: pl.LazyFrame) -> pl.LazyFrame:
    """The messages that came while requests for their device were under way, to an account's own address."""
    return found.filter(
        pl.col("received_at").is_between(pl.col("first_attempt_at"), pl.col("last_attempt_at") + WINDOW),
        pl.col("account_of_message") != "",
    )


def _proven(found: pl.LazyFrame) -> list[pl.LazyFrame]:
    """Outcomes of devices whose answers were lost.

    A success proves itself. Failures do only where there is one for every request that was lost: as long as
    one is outstanding, it may have succeeded.
    """
    failures = (
        found.filter(pl.col("status") == "in_doubt")
        .filter(~pl.col("succeeded").any().over("plan_row"))
        .filter(pl.col("told_request_id").n_unique().over("plan_row") >= pl.col("lost"))
    )
    return [_outcomes(found.filter("succeeded")), _outcomes(failures)]


def _may_have_succeeded(with_lost: pl.LazyFrame, found: pl.LazyFrame) -> pl.Series:
    """`plan_row` of the devices of which fewer lost requests are told to have failed than were lost."""
    failed = found.filter(~pl.col("succeeded")).group_by("plan_row")
    told = with_lost.join(failed.agg(pl.col("told_request_id").n_unique()), on="plan_row", how="left")
    is_open = pl.col("told_request_id").fill_null(0) < pl.col("lost")
    return told.filter(is_open).select("plan_row").collect()["plan_row"].implode()


def _found(devices: pl.LazyFrame, messages: pl.LazyFrame, on: list[str]) -> pl.LazyFrame:
    """Each message with the device that it is about: by IMEI, or else by ICCID."""
    told = messages.with_columns(
        pl.col("request_id").alias("told_request_id"), pl.col("account_name").alias("account_of_message")
    ).drop("account_name")
    of_devices = devices if "request_id" in on else devices.drop("request_id")
    parts = []
    for kind in _IDENTIFIERS:
        others = [name for name in _IDENTIFIERS if name != kind]
        here = told.filter(pl.col(kind) != "").drop(others)
        part = here.join(of_devices.drop(others).drop_nulls(kind), on=[*on, kind]).drop(kind)
        parts.append(part)
        told = told.join(part.select("message"), on="message", how="anti")
    is_of_account = (pl.col("account_of_message") == "") | (
        pl.col("account_of_message") == pl.col("account_name")
    )
    return pl.concat(parts).filter(is_of_account)


def _outcomes(found: pl.LazyFrame) -> pl.LazyFrame:
    failed = ~pl.col("succeeded")
    return found.select(
        "plan_row",
        pl.when(failed).then(pl.lit("failed")).otherwise(pl.lit("confirmed")).alias("status"),
        pl.col("told_request_id").alias("request_id"),
        pl.when(failed).then("error_code").alias("error_code"),
        pl.when(failed).then("error_message").alias("error_message"),
        pl.col("received_at").alias("settled_at"),
    ).select(pl.col(name).cast(kind) for name, kind in OUTCOMES.items())
