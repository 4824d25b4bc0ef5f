"""Which message reports the outcome of which device: joins over the run's requests and the store's messages.

A message reports the outcome of a device of the run in one of three ways.

1. It has the requestId of the request that the carrier accepted for this device, and one of its identifiers.
   If it names several devices, it is also about those in other requests of the run.
2. It has such a requestId and names no device, and its fault blames what all devices of the request share.
   Then it is about all of them.
3. An answer to a request for the device was lost, so its requestId is not known. Then a message proves that
   this request was executed if
   - it is about that device on that account,
   - its requestId belongs to no known request of this run or of a run beside it,
   - it came between the first request for the device and `WINDOW` after the last one, and
   - in a migration, all lost answers are of one step: no message says which step it is about.

Identifiers and requestIds are compared as `identifiers.py` says. A message to the address of another account
is ignored. Of several messages about one device, a success counts more than a failure, and an earlier one
more than a later one. A message that reports neither counts only while there is no success and no failure.
So neither order nor repetition of messages changes the result.
"""

from datetime import timedelta
from typing import NamedTuple

import polars as pl

from batchlic.callbacks.identifiers import matches, naming_several, of_whole_requests, request_key
from batchlic.callbacks.verdicts import CANCELED, FAILURE, ON_HOLD, SUCCESS, WHOLE_REQUEST_CODES
from batchlic.chunker import DeviceStatus
from batchlic.reader.streaming import UTC, Schema
from batchlic.writer.callback_outcomes import OUTCOMES

LAST_TRY = timedelta(minutes=15)
"""From the carrier's first try to its last: three more, five minutes apart."""

WINDOW = 2 * LAST_TRY
"""Twice that, for an execution that comes late."""

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


class Reports(NamedTuple):
    """What messages report of a run (columns of each: OUTCOMES).

    - `outcomes`: the success or failure of a device, at most one per device and step.
    - `undecided`: what else was reported of devices, at most one per device and step.
    - `unjudged`: the messages with a requestId of the run that are about no device of its request.
    """

    outcomes: pl.LazyFrame
    undecided: pl.LazyFrame
    unjudged: pl.LazyFrame


def reports_of(
    requests: pl.DataFrame,
    messages: pl.DataFrame,
    lost_answers: pl.DataFrame,
    known_requests: pl.LazyFrame | None,
) -> Reports:
    """What messages report of a run.

    - `requests` (columns: REQUESTS): the requests by the carrier's answers alone. What an operator settled is
      still in doubt here.
    - `messages`: the fields of StoredMessage but `status` and `raw`, `received_at` as UTC, and `verdict`.
    - `lost_answers` (columns: LOST_ANSWERS): the requests without a known answer.
    - `known_requests`: `request_id` of the requests of this run and of others. None if those can't be
      read; then no message proves anything about a lost answer.
    """
    open_statuses = [DeviceStatus.ACCEPTED.value, DeviceStatus.IN_DOUBT.value]
    open_requests = requests.lazy().filter(pl.col("status").is_in(open_statuses)).with_columns(_REQUEST_KEY)
    keyed = messages.with_row_index("message").with_columns(_REQUEST_KEY).lazy()
    answered = open_requests.drop_nulls("request_id")
    found = _by_request(answered, keyed)
    judged = found.filter(_IS_OF_ACCOUNT & _IS_OF_ONE_STEP)
    unjudged = _unjudged(answered, keyed, found, judged)
    by_request = judged.select(_FOUND).lazy()
    if lost_answers.is_empty():
        return Reports(first_outcomes([_outcomes(by_request)]), _undecided(by_request), unjudged)
    if known_requests is None:
        unknown = keyed.clear()
    else:
        unknown = keyed.join(known_requests.select(_REQUEST_KEY), on="request_key", how="anti")
    # Collected like `found`: otherwise, polars plans thousands of joins, whatever the size of the run.
    lost = _not_cleared(open_requests, keyed, lost_answers.lazy()).collect().lazy()
    with_lost = _with_lost_answers(open_requests, lost).collect().lazy()
    found_lost = _in_time(matches(with_lost.filter("is_only_step"), unknown, []))
    proofs = found_lost.select(*_FOUND, "status", "lost").collect().lazy()
    failed = by_request.filter(_HAS_FAILED).join(
        _may_have_succeeded(with_lost, proofs), on=DEVICE_STEP, how="anti", nulls_equal=True
    )
    outcomes = [_outcomes(by_request.filter(_HAS_SUCCEEDED)), _outcomes(failed), *_proven(proofs)]
    undecided = _undecided(pl.concat([by_request, proofs.select(_FOUND)]))
    return Reports(first_outcomes(outcomes), undecided, unjudged)


def first_outcomes(outcomes: list[pl.LazyFrame]) -> pl.LazyFrame:
    """At most one outcome a device and step, in order: the first success, or else the first failure."""
    return (
        pl.concat(outcomes)
        .sort(*DEVICE_STEP, pl.col("status") != DeviceStatus.CONFIRMED.value, "settled_at", "request_id")
        .unique(DEVICE_STEP, keep="first", maintain_order=True)
    )


def first_undecided(undecided: list[pl.LazyFrame]) -> pl.LazyFrame:
    """At most one report per device and step: canceled, or else on hold, or else the latest."""
    reported = pl.col("reported")
    return (
        pl.concat(undecided)
        .sort(
            *DEVICE_STEP,
            reported != CANCELED,
            reported != ON_HOLD,
            -pl.col("settled_at").dt.epoch("us"),
            reported,
            "request_id",
        )
        .unique(DEVICE_STEP, keep="first", maintain_order=True)
    )


_REQUEST_KEY = request_key(pl.col("request_id")).alias("request_key")

_HAS_SUCCEEDED, _HAS_FAILED = pl.col("verdict") == SUCCESS, pl.col("verdict") == FAILURE

_IS_OF_ACCOUNT = (pl.col("account_of_message") == "") | (
    pl.col("account_of_message") == pl.col("account_name")
)

_IS_OF_ONE_STEP = pl.col("step").n_unique().over("message", "plan_row") == 1
"""A requestId that the carrier gave to two steps of a device proves neither."""

_NAMES_NO_DEVICE = pl.all_horizontal(pl.col("imei", "iccid", "further_ids") == "")

_FOUND = [*DEVICE_STEP, "request_id", "verdict", "error_code", "error_message", "received_at"]
"""Columns of a message and a request that belong together."""


def _by_request(requests: pl.LazyFrame, messages: pl.LazyFrame) -> pl.DataFrame:
    """The messages with the requests for devices that they are about, by the requestId."""
    blames_all = _HAS_FAILED & pl.col("error_code").is_in(sorted(WHOLE_REQUEST_CODES))
    whole = of_whole_requests(requests, messages.filter(_NAMES_NO_DEVICE & blames_all))
    needed = ["message", *_FOUND, "account_name", "account_of_message"]
    # Collected, because several queries read it: polars would join once for each of them.
    found = matches(requests, messages, ["request_key"]).select(needed).collect()
    several = naming_several(requests, messages).collect()
    if several.is_empty():
        return pl.concat([found, whole.select(needed).collect()])
    others = _of_other_requests(requests, several.lazy(), found.lazy()).select(needed)
    return pl.concat([found, others.collect(), whole.select(needed).collect()])


def _of_other_requests(requests: pl.LazyFrame, several: pl.LazyFrame, found: pl.LazyFrame) -> pl.LazyFrame:
    """The further devices that messages name, if they are in another request of the run (of the same step).

    The run sent each device once, so the message can only be about that request.
    """
    step = pl.col("step").fill_null("").alias("step_key")
    steps = found.filter(_IS_OF_ACCOUNT).select("message", step).unique()
    keyed = several.join(steps, on="message")
    named = matches(requests.with_columns(step), keyed, ["step_key"])
    return named.join(found, on=["message", *DEVICE_STEP], how="anti", nulls_equal=True)


def _unjudged(
    requests: pl.LazyFrame, messages: pl.LazyFrame, found: pl.DataFrame, judged: pl.DataFrame
) -> pl.LazyFrame:
    """The messages with the requestId of a request that are about none of its devices, and why."""
    not_judged = found.lazy().join(judged.lazy(), on="message", how="anti")
    why_found = (
        pl.when(_IS_OF_ACCOUNT.any())
        .then(pl.lit("its requestId was given to two steps of the device"))
        .otherwise(pl.lit("was sent to the address of another account"))
    )
    why_not_found = (
        pl.when(_NAMES_NO_DEVICE)
        .then(pl.lit("names no device"))
        .otherwise(pl.lit("names no device of its request"))
    )
    return (
        messages.join(judged.lazy(), on="message", how="anti")
        .join(requests, on="request_key", how="semi")
        .join(not_judged.group_by("message").agg(why_found.alias("why")), on="message", how="left")
        .with_columns(
            pl.coalesce("why", why_not_found).alias("reported"),
            pl.col("received_at").alias("settled_at"),
            pl.col("error_code", "error_message").replace("", None),
            *(pl.lit(None).alias(name) for name in ("plan_row", "step", "status")),
        )
        .sort("settled_at", "request_id", "error_code", "error_message", "reported")
        .select(pl.col(name).cast(kind) for name, kind in OUTCOMES.items())
    )


def _not_cleared(requests: pl.LazyFrame, messages: pl.LazyFrame, lost_answers: pl.LazyFrame) -> pl.LazyFrame:
    """The lost answers without those that were cleared, by the message about the clearing request."""
    place = ["batch_id", "step", "offset"]
    clearing = lost_answers.select(*place, "cleared_by").drop_nulls("cleared_by")
    to_clear = requests.join(clearing, on=place, nulls_equal=True)
    clears = to_clear.with_columns(request_key(pl.col("cleared_by")).alias("request_key"))
    cleared = matches(clears, messages.filter(_HAS_SUCCEEDED), ["request_key"]).filter(_IS_OF_ACCOUNT)
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


def _in_time(found: pl.LazyFrame) -> pl.LazyFrame:
    """The messages that came while requests for their device were under way, to an account's own address."""
    return found.filter(
        pl.col("received_at").is_between(pl.col("first_attempt_at"), pl.col("last_attempt_at") + WINDOW),
        pl.col("account_of_message") == pl.col("account_name"),
    ).with_columns(pl.col("request_id_of_message").alias("request_id"))


def _proven(proofs: pl.LazyFrame) -> list[pl.LazyFrame]:
    """Outcomes of devices whose answers were lost.

    A success proves itself. Failures prove something only where there is one for every lost request: while
    one is missing, that request may have succeeded.
    """
    failures = (
        proofs.filter(pl.col("status") == DeviceStatus.IN_DOUBT.value)
        .filter(~_HAS_SUCCEEDED.any().over(DEVICE_STEP))
        .filter(_HAS_FAILED)
        .filter(_REQUEST_KEY.n_unique().over(DEVICE_STEP) >= pl.col("lost"))
    )
    return [_outcomes(proofs.filter(_HAS_SUCCEEDED)), _outcomes(failures)]


def _may_have_succeeded(with_lost: pl.LazyFrame, proofs: pl.LazyFrame) -> pl.LazyFrame:
    """The devices and steps (columns: DEVICE_STEP) with more lost requests than reported failures."""
    failures = _REQUEST_KEY.n_unique().alias("failures")
    failed = proofs.filter(_HAS_FAILED).group_by(DEVICE_STEP).agg(failures)
    counted = with_lost.join(failed, on=DEVICE_STEP, how="left", nulls_equal=True)
    return counted.filter(pl.col("failures").fill_null(0) < pl.col("lost")).select(DEVICE_STEP)


def _undecided(found: pl.LazyFrame) -> pl.LazyFrame:
    """What is reported that is neither success nor failure, at most one report per device and step."""
    undecided = found.filter(~_HAS_SUCCEEDED & ~_HAS_FAILED).select(
        *DEVICE_STEP,
        pl.lit(None).alias("status"),
        pl.col("verdict").alias("reported"),
        "request_id",
        pl.lit(None).alias("error_code"),
        pl.lit(None).alias("error_message"),
        pl.col("received_at").alias("settled_at"),
    )
    return first_undecided([undecided.select(pl.col(name).cast(kind) for name, kind in OUTCOMES.items())])


def _outcomes(found: pl.LazyFrame) -> pl.LazyFrame:
    """The successes and failures."""
    status = (
        pl.when(_HAS_FAILED)
        .then(pl.lit(DeviceStatus.FAILED.value))
        .otherwise(pl.lit(DeviceStatus.CONFIRMED.value))
    )
    return (
        found.filter(_HAS_SUCCEEDED | _HAS_FAILED)
        .select(
            *DEVICE_STEP,
            status.alias("status"),
            pl.lit(None).alias("reported"),
            "request_id",
            pl.when(_HAS_FAILED).then("error_code").alias("error_code"),
            pl.when(_HAS_FAILED).then("error_message").alias("error_message"),
            pl.col("received_at").alias("settled_at"),
        )
        .select(pl.col(name).cast(kind) for name, kind in OUTCOMES.items())
    )
