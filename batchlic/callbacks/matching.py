"""Which message tells the outcome of which device: joins over the run's devices and the store's messages.

A message tells the outcome of a device of the run in one of two ways.

1. It carries the requestId of the request that the carrier took for this device, and one of its identifiers.
2. Where an answer to a request for the device was lost, its requestId is not known. Then a message proves
   that it was executed if it is about that device on that account, carries a requestId that no known request
   of this run or of one beside it had, and came between the first request for the device and `WINDOW` after
   the last. Of a migration that holds only where all that was lost is of one step, as no message says which
   step it is about.

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

DEVICES: Schema = {"plan_row": pl.UInt32(), "number": pl.UInt32(), "offset": pl.Int64()} | {
    name: RESULTS[name]
    for name in (
        "step",
        "imei",
        "iccid",
        "account_name",
        "request_id",
        "status",
        "first_attempt_at",
        "last_attempt_at",
    )
}
"""What matching needs of a device, or of a step of it: `plan_row` is its place in the plan, `offset` that in
its batch, and `number` that of the batch, or of the step, in the journal."""

ONE = ["plan_row", "step"]
"""What there is one outcome for."""


def told_outcomes(
    devices: pl.LazyFrame,
    messages: pl.LazyFrame,
    lost_answers: pl.DataFrame,
    known_requests: pl.LazyFrame | None,
) -> pl.LazyFrame:
    """The outcomes that messages tell of devices (columns: schemas.OUTCOMES), at most one a device and step.

    `devices` (columns: DEVICES) as the carrier's answers alone have them: what an operator settled is as
    doubtful as before. `messages`: the fields of Told, `received_at` as UTC. `lost_answers` (columns:
    losses.LOSSES): the requests that had no known answer. `known_requests`: `request_id` of the requests of
    this run and of others; None where those can't be known, and then no message proves anything about a lost
    answer.
    """
    open_devices = devices.filter(pl.col("status").is_in(["accepted", "in_doubt"]))
    numbered = messages.with_row_index("message")
    by_request = _found(open_devices.drop_nulls("request_id"), numbered, ["request_id"])
    # A requestId that the carrier gave to two steps of a device proves neither.
    by_request = by_request.filter(pl.col("step").n_unique().over("message", "plan_row") == 1)
    if lost_answers.is_empty():
        return latest_word([_outcomes(by_request)])
    if known_requests is None:
        strange = numbered.clear()
    else:
        strange = numbered.join(known_requests, on="request_id", how="anti")
    with_lost = _with_lost(open_devices, _outstanding(open_devices, numbered, lost_answers.lazy()))
    proofs = _during(_found(with_lost.filter("is_alone"), strange, []))
    failed = by_request.filter(~pl.col("succeeded")).join(
        _may_have_succeeded(with_lost, proofs), on=ONE, how="anti", nulls_equal=True
    )
    return latest_word([_outcomes(by_request.filter("succeeded")), _outcomes(failed), *_proven(proofs)])


def latest_word(outcomes: list[pl.LazyFrame]) -> pl.LazyFrame:
    """At most one outcome a device and step: the first success, or else the first failure; in order."""
    return (
        pl.concat(outcomes)
        .sort(*ONE, pl.col("status") != "confirmed", "settled_at", "request_id")
        .unique(ONE, keep="first", maintain_order=True)
    )


def _outstanding(devices: pl.LazyFrame, messages: pl.LazyFrame, lost_answers: pl.LazyFrame) -> pl.LazyFrame:
    """The lost answers but for those whose request is told to have been taken back."""
    place = ["number", "offset", "cleared_by"]
    to_clear = devices.drop("request_id").join(lost_answers.select(place).drop_nulls(), on=place[:2])
    clears = to_clear.with_columns(pl.col("cleared_by").alias("request_id"))
    cleared = _found(clears, messages.filter("succeeded"), ["request_id"])
    return lost_answers.join(cleared.select(place), on=place, how="anti")


def _with_lost(devices: pl.LazyFrame, lost_answers: pl.LazyFrame) -> pl.LazyFrame:
    """The devices some of whose requests had no known answer, with how many of them, and `is_alone`."""
    summed = [pl.sum("lost"), pl.all("is_alone")]
    of_batch = lost_answers.filter(pl.col("offset").is_null()).group_by("number").agg(summed)
    of_device = lost_answers.drop_nulls("offset").group_by("number", "offset").agg(summed)
    both = devices.join(of_batch, on="number", how="left").join(
        of_device, on=["number", "offset"], how="left", suffix="_in_part"
    )
    return both.with_columns(
        pl.sum_horizontal("lost", "lost_in_part").alias("lost"),
        pl.all_horizontal(pl.col("is_alone", "is_alone_in_part").fill_null(value=True)).alias("is_alone"),
    ).filter(pl.col("lost") > 0)


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
        .filter(~pl.col("succeeded").any().over(ONE))
        .filter(pl.col("told_request_id").n_unique().over(ONE) >= pl.col("lost"))
    )
    return [_outcomes(found.filter("succeeded")), _outcomes(failures)]


def _may_have_succeeded(with_lost: pl.LazyFrame, found: pl.LazyFrame) -> pl.LazyFrame:
    """The devices and steps (columns: ONE) of which fewer lost requests are told to have failed than were."""
    failed = found.filter(~pl.col("succeeded")).group_by(ONE).agg(pl.col("told_request_id").n_unique())
    told = with_lost.join(failed, on=ONE, how="left", nulls_equal=True)
    return told.filter(pl.col("told_request_id").fill_null(0) < pl.col("lost")).select(ONE)


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
        *ONE,
        pl.when(failed).then(pl.lit("failed")).otherwise(pl.lit("confirmed")).alias("status"),
        pl.col("told_request_id").alias("request_id"),
        pl.when(failed).then("error_code").alias("error_code"),
        pl.when(failed).then("error_message").alias("error_message"),
        pl.col("received_at").alias("settled_at"),
    ).select(pl.col(name).cast(kind) for name, kind in OUTCOMES.items())
