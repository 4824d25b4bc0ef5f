"""Which message reports the outcome of which device: joins over the run's requests and the store's messages.

A message reports the outcome of a device of the run in one of two ways.

1. It has the requestId of the request that the carrier took for this device, and one of its identifiers.
2. An answer to a request for the device was lost, so its requestId is not known. Then a message proves that
   this request was executed if
   - it is about that device on that account,
   - its requestId belongs to no known request of this run or of a run beside it,
   - it came between the first request for the device and `WINDOW` after the last one, and
   - in a migration, all lost answers are of one step: no message says which step it is about.

Identifiers are compared by IMEI first. A message whose IMEI matches no device of the request is compared by
its ICCID. A message to the address of another account is ignored. Of several messages about one device, a
success counts more than a failure, and an earlier one more than a later one. So neither order nor repetition
of messages changes the result.
"""

from datetime import timedelta

import polars as pl

from batchlic.chunker import DeviceStatus
from batchlic.reader.streaming import UTC, Schema
from batchlic.writer.callback_outcomes import OUTCOMES

LAST_TRY = timedelta(minutes=15)
"""From the carrier's first try to its last: three more, five minutes apart."""

WINDOW = 2 * LAST_TRY
"""Twice that, for an execution that comes late."""

_IDENTIFIERS = ("imei", "iccid")

REQUESTS: Schema = {
    "plan_row": pl.UInt32(),
    "batch_id": pl.UInt32(),
    "step": pl.String(),
    "offset": pl.Int64(),
    **dict.fromkeys(("imei", "iccid", "account_name", "request_id", "status"), pl.String()),
    "first_attempt_at": UTC,
    "last_attempt_at": UTC,
}
"""One request for one device, as in device_states.REQUEST_STATES: `plan_row` is the device's row in the plan,
`offset` its place in its batch."""

DEVICE_STEP = ["plan_row", "step"]
"""What there is at most one outcome for."""


def reported_outcomes(
    requests: pl.LazyFrame,
    messages: pl.LazyFrame,
    lost_answers: pl.DataFrame,
    known_requests: pl.LazyFrame | None,
) -> pl.LazyFrame:
    """The outcomes that messages report (columns: OUTCOMES), at most one a device and step.

    - `requests` (columns: REQUESTS): as the carrier's answers alone have them. What an operator settled is
      still in doubt here.
    - `messages`: the fields of DeviceMessage, `received_at` as UTC.
    - `lost_answers` (columns: LOST_ANSWERS): the requests without a known answer.
    - `known_requests`: `request_id` of the requests of this run and of others. None where those can't be
      read; then no message proves anything about a lost answer.
    """
    open_statuses = [DeviceStatus.ACCEPTED.value, DeviceStatus.IN_DOUBT.value]
    open_requests = requests.filter(pl.col("status").is_in(open_statuses))
    numbered = messages.with_row_index("message")
    by_request = _matches(open_requests.drop_nulls("request_id"), numbered, ["request_id"])
    # A requestId that the carrier gave to two steps of a device proves neither.
    by_request = by_request.filter(pl.col("step").n_unique().over("message", "plan_row") == 1)
    if lost_answers.is_empty():
        return first_outcomes([_outcomes(by_request)])
    if known_requests is None:
        unknown = numbered.clear()
    else:
        unknown = numbered.join(known_requests, on="request_id", how="anti")
    with_lost = _with_lost_answers(open_requests, _not_cleared(open_requests, numbered, lost_answers.lazy()))
    proofs = _in_time(_matches(with_lost.filter("is_only_step"), unknown, []))
    failed = by_request.filter(~pl.col("succeeded")).join(
        _may_have_succeeded(with_lost, proofs), on=DEVICE_STEP, how="anti", nulls_equal=True
    )
    return first_outcomes([_outcomes(by_request.filter("succeeded")), _outcomes(failed), *_proven(proofs)])


def first_outcomes(outcomes: list[pl.LazyFrame]) -> pl.LazyFrame:
    """At most one outcome a device and step, in order: the first success, or else the first failure."""
    return (
        pl.concat(outcomes)
        .sort(*DEVICE_STEP, pl.col("status") != DeviceStatus.CONFIRMED.value, "settled_at", "request_id")
        .unique(DEVICE_STEP, keep="first", maintain_order=True)
    )


def _not_cleared(requests: pl.LazyFrame, messages: pl.LazyFrame, lost_answers: pl.LazyFrame) -> pl.LazyFrame:
    """The lost answers without those that were cleared, by the message about the clearing request."""
    place = ["batch_id", "step", "offset"]
    clearing = lost_answers.select(*place, "cleared_by").drop_nulls("cleared_by")
    to_clear = requests.drop("request_id").join(clearing, on=place, nulls_equal=True)
    clears = to_clear.with_columns(pl.col("cleared_by").alias("request_id"))
    cleared = _matches(clears, messages.filter("succeeded"), ["request_id"])
    key = [*place, "cleared_by"]
    return lost_answers.join(cleared.select(key), on=key, how="anti")


def _with_lost_answers(requests: pl.LazyFrame, lost_answers: pl.LazyFrame) -> pl.LazyFrame:
    """The requests for devices with lost answers: how many (`lost`), and `is_only_step`."""
    totals = [pl.sum("lost"), pl.all("is_only_step")]
    batch, device = ["batch_id", "step"], ["batch_id", "step", "offset"]
    of_batch = lost_answers.filter(pl.col("offset").is_null()).group_by(batch).agg(totals)
    of_device = lost_answers.drop_nulls("offset").group_by(device).agg(totals)
    both = requests.join(of_batch, on=batch, how="left", nulls_equal=True).join(
        of_device, on=device, how="left", suffix="_in_part", nulls_equal=True
    )
    is_only_step = pl.col("is_only_step", "is_only_step_in_part").fill_null(value=True)
    return both.with_columns(
        pl.sum_horizontal("lost", "lost_in_part").alias("lost"),
        pl.all_horizontal(is_only_step).alias("is_only_step"),
    ).filter(pl.col("lost") > 0)


def _in_time(matches: pl.LazyFrame) -> pl.LazyFrame:
    """The messages that came while requests for their device were under way, to an account's own address."""
    return matches.filter(
        pl.col("received_at").is_between(pl.col("first_attempt_at"), pl.col("last_attempt_at") + WINDOW),
        pl.col("account_of_message") != "",
    )


def _proven(proofs: pl.LazyFrame) -> list[pl.LazyFrame]:
    """Outcomes of devices whose answers were lost.

    A success proves itself. Failures prove something only where there is one for every lost request: while
    one is missing, that request may have succeeded.
    """
    failures = (
        proofs.filter(pl.col("status") == DeviceStatus.IN_DOUBT.value)
        .filter(~pl.col("succeeded").any().over(DEVICE_STEP))
        .filter(pl.col("request_id_of_message").n_unique().over(DEVICE_STEP) >= pl.col("lost"))
    )
    return [_outcomes(proofs.filter("succeeded")), _outcomes(failures)]


def _may_have_succeeded(with_lost: pl.LazyFrame, proofs: pl.LazyFrame) -> pl.LazyFrame:
    """The devices and steps (columns: DEVICE_STEP) with more lost requests than reported failures."""
    failures = pl.col("request_id_of_message").n_unique()
    failed = proofs.filter(~pl.col("succeeded")).group_by(DEVICE_STEP).agg(failures)
    counted = with_lost.join(failed, on=DEVICE_STEP, how="left", nulls_equal=True)
    return counted.filter(pl.col("request_id_of_message").fill_null(0) < pl.col("lost")).select(DEVICE_STEP)


def _matches(requests: pl.LazyFrame, messages: pl.LazyFrame, keys: list[str]) -> pl.LazyFrame:
    """Each message with the request for the device that it is about: by IMEI, or else by ICCID."""
    unmatched = messages.with_columns(
        pl.col("request_id").alias("request_id_of_message"),
        pl.col("account_name").alias("account_of_message"),
    ).drop("account_name")
    candidates = requests if "request_id" in keys else requests.drop("request_id")
    parts = []
    for kind in _IDENTIFIERS:
        others = [name for name in _IDENTIFIERS if name != kind]
        with_identifier = unmatched.filter(pl.col(kind) != "").drop(others)
        of_kind = candidates.drop(others).drop_nulls(kind)
        part = with_identifier.join(of_kind, on=[*keys, kind]).drop(kind)
        parts.append(part)
        unmatched = unmatched.join(part.select("message"), on="message", how="anti")
    is_of_account = (pl.col("account_of_message") == "") | (
        pl.col("account_of_message") == pl.col("account_name")
    )
    return pl.concat(parts).filter(is_of_account)


def _outcomes(matches: pl.LazyFrame) -> pl.LazyFrame:
    failed = ~pl.col("succeeded")
    status = (
        pl.when(failed)
        .then(pl.lit(DeviceStatus.FAILED.value))
        .otherwise(pl.lit(DeviceStatus.CONFIRMED.value))
    )
    return matches.select(
        *DEVICE_STEP,
        status.alias("status"),
        pl.col("request_id_of_message").alias("request_id"),
        pl.when(failed).then("error_code").alias("error_code"),
        pl.when(failed).then("error_message").alias("error_message"),
        pl.col("received_at").alias("settled_at"),
    ).select(pl.col(name).cast(kind) for name, kind in OUTCOMES.items())
