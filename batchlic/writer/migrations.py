"""The status of a migrated device: a table of rules derives it from the states of the steps."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import polars as pl

from batchlic.chunker import DeviceStatus, Step

STEP_STATUSES = {step: f"{step}_status" for step in (Step.UNASSIGN, Step.ASSIGN, Step.RESTORE)}
"""Columns of results.parquet with the status of each step; null if nothing was sent for the step."""

MIGRATION_COLUMNS = ("from_sku", "step", *STEP_STATUSES.values())
"""Columns of results.parquet that only a migration fills."""

EXECUTED = (DeviceStatus.ACCEPTED.value, DeviceStatus.CONFIRMED.value)
"""Statuses of a request that the carrier accepted."""

# The states of one step of a device. REFUSED: by an answer; DENIED: accepted, then failed by a callback.
UNSENT, PENDING, RESEND = "unsent", "pending", "resend"
IN_DOUBT, REFUSED, DENIED, ACCEPTED, CONFIRMED = "in_doubt", "refused", "denied", "accepted", "confirmed"

ANY = frozenset({UNSENT, PENDING, RESEND, IN_DOUBT, REFUSED, DENIED, ACCEPTED, CONFIRMED})
DONE = frozenset({ACCEPTED, CONFIRMED})
FAILED = frozenset({REFUSED, DENIED})
WAITING = frozenset({PENDING, RESEND})
NOT_OVER = ANY - DONE - FAILED

# Conditions of rules, in addition to the states of the steps.
ALWAYS, OLD_RESTORABLE, NEW_RESTORABLE, UNASSIGNED_FIRST = "", "old", "new", "unassigned_first"


class Rule(NamedTuple):
    """If the steps have these states and the condition is true, the device has this status.

    `step` is the step whose request and error the result shows. `holds` names the licenses that the device
    holds if it did not move.
    """

    unassign: Collection[str]
    assign: Collection[str]
    restore: Collection[str]
    condition: str
    status: DeviceStatus
    step: Step
    holds: str | None = None


_OLD_BACK = "has its old license back"
_NONE_STUCK = "holds no license, and could not be given the old one back"
_NONE = "holds no license"
_ONLY_OLD = "has only its old license again"
_BOTH = "holds both licenses"
_STILL_OLD = "still has its old license"

_S = DeviceStatus
RULES = (
    # unassign    assign      restore     condition          status        step           the device …
    Rule({IN_DOUBT}, ANY, ANY, ALWAYS, _S.IN_DOUBT, Step.UNASSIGN),
    Rule(ANY, {IN_DOUBT}, ANY, ALWAYS, _S.IN_DOUBT, Step.ASSIGN),
    Rule(ANY, ANY, {IN_DOUBT}, ALWAYS, _S.IN_DOUBT, Step.RESTORE),
    # A step that may have been executed and is sent again decides what the device holds.
    Rule(FAILED, {RESEND}, ANY, ALWAYS, _S.PENDING, Step.UNASSIGN),
    Rule({RESEND}, FAILED, ANY, ALWAYS, _S.PENDING, Step.ASSIGN),
    # The new license was assigned, the old one was not unassigned.
    Rule(FAILED, DONE, DONE, ALWAYS, _S.FAILED, Step.UNASSIGN, _ONLY_OLD),
    Rule({REFUSED}, DONE, WAITING, NEW_RESTORABLE, _S.PENDING, Step.RESTORE, _BOTH),
    Rule({REFUSED}, DONE, NOT_OVER, NEW_RESTORABLE, _S.PENDING, Step.UNASSIGN, _BOTH),
    Rule(FAILED, DONE, ANY, ALWAYS, _S.FAILED, Step.UNASSIGN, _BOTH),
    # The old license was unassigned, the new one was not assigned.
    Rule(DONE, FAILED, DONE, ALWAYS, _S.FAILED, Step.ASSIGN, _OLD_BACK),
    Rule(DONE, FAILED, FAILED, ALWAYS, _S.FAILED, Step.ASSIGN, _NONE_STUCK),
    Rule(DONE, {REFUSED}, WAITING, OLD_RESTORABLE, _S.PENDING, Step.RESTORE, _NONE),
    Rule(DONE, {REFUSED}, NOT_OVER, OLD_RESTORABLE, _S.PENDING, Step.ASSIGN, _NONE),
    Rule(DONE, FAILED, ANY, ALWAYS, _S.FAILED, Step.ASSIGN, _NONE),
    # The first step failed, or both did.
    Rule(FAILED, ANY, ANY, ALWAYS, _S.FAILED, Step.UNASSIGN, _STILL_OLD),
    Rule(ANY, FAILED, ANY, ALWAYS, _S.FAILED, Step.ASSIGN, _STILL_OLD),
    # Both steps took effect although the first one had been undone.
    Rule(DONE, DONE, DONE, UNASSIGNED_FIRST, _S.FAILED, Step.ASSIGN, _BOTH),
    Rule(DONE, DONE, DONE, ALWAYS, _S.FAILED, Step.UNASSIGN, _NONE),
    # The device has moved.
    Rule({CONFIRMED}, {CONFIRMED}, ANY, ALWAYS, _S.CONFIRMED, Step.ASSIGN),
    Rule(DONE, DONE, ANY, ALWAYS, _S.ACCEPTED, Step.ASSIGN),
)
"""The first rule that matches decides. If no rule matches, the device is pending, at the step sent last."""

_SHOWN_OF_STEP = (
    "x_request_id",
    "request_id",
    "http_status",
    "error_code",
    "settled_at",
    "settled_by",
    "awaits_resend",
    "is_refused",
)


def migrated(devices: pl.DataFrame, to_sku: str, restorable: Collection[str]) -> pl.DataFrame:
    """Rows of results.parquet from devices with the outcome of each step, in columns that end with its name.

    `answered_<step>` is the status of a step by the carrier's answers alone: if a callback denies a step
    later, the other step is not undone. `restorable` are the SKUs whose step is undone if the other step
    fails.
    """
    conditions = {
        ALWAYS: pl.lit(value=True),
        OLD_RESTORABLE: pl.col("sku_number").is_in(list(restorable)),
        NEW_RESTORABLE: pl.lit(to_sku in restorable),
        UNASSIGNED_FIRST: pl.col("first_attempt_at_unassign") < pl.col("first_attempt_at_assign"),
    }
    stated = devices.with_columns(_state(step).alias(f"state_{step}") for step in STEP_STATUSES)
    ruled = stated.with_columns(rule=pl.coalesce(*(_match(i, conditions) for i in range(len(RULES)))))
    decided = ruled.with_columns(
        _column_of_rules("step", _step_sent_last()),
        _column_of_rules("status", pl.lit(DeviceStatus.PENDING.value)),
        _column_of_rules("holds", pl.lit(None, pl.String)),
    )
    return decided.with_columns(
        *(_of_deciding_step(name).alias(name) for name in _SHOWN_OF_STEP),
        pl.coalesce(_message(), _of_deciding_step("error_message")).alias("error_message"),
        _over_steps(pl.sum_horizontal, "attempts"),
        _over_steps(pl.min_horizontal, "first_attempt_at"),
        _over_steps(pl.max_horizontal, "last_attempt_at"),
        *(pl.col(f"status_{step}").alias(name) for step, name in STEP_STATUSES.items()),
        pl.col("sku_number").alias("from_sku"),
        pl.lit(to_sku).alias("sku_number"),
    )


def _state(step: Step) -> pl.Expr:
    """The state of a step, by its name in the rules."""
    status = pl.col(f"status_{step}")
    was_refused = pl.col(f"answered_{step}") == DeviceStatus.FAILED.value
    return (
        pl.when(status.is_null())
        .then(pl.lit(UNSENT))
        .when((status == DeviceStatus.FAILED.value) & was_refused.fill_null(value=False))
        .then(pl.lit(REFUSED))
        .when(status == DeviceStatus.FAILED.value)
        .then(pl.lit(DENIED))
        .when((status == DeviceStatus.PENDING.value) & pl.col(f"awaits_resend_{step}"))
        .then(pl.lit(RESEND))
        .otherwise(status)
    )


def _match(number: int, conditions: dict[str, pl.Expr]) -> pl.Expr:
    """The number of a rule if it matches; otherwise null."""
    rule = RULES[number]
    states = {Step.UNASSIGN: rule.unassign, Step.ASSIGN: rule.assign, Step.RESTORE: rule.restore}
    matches = [pl.col(f"state_{step}").is_in(sorted(found)) for step, found in states.items() if found != ANY]
    return pl.when(*matches, conditions[rule.condition]).then(pl.lit(number, pl.UInt8))


def _column_of_rules(name: str, default: pl.Expr) -> pl.Expr:
    values = {number: getattr(rule, name) for number, rule in enumerate(RULES)}
    texts = {number: str(value) if value is not None else None for number, value in values.items()}
    found = pl.col("rule").replace_strict(texts, default=None, return_dtype=pl.String)
    return pl.when(pl.col("rule").is_null()).then(default).otherwise(found).alias(name)


def _step_sent_last() -> pl.Expr:
    unassigned, assigned = (pl.col(f"last_attempt_at_{step}") for step in (Step.UNASSIGN, Step.ASSIGN))
    return (
        pl.when(unassigned.is_not_null() & (unassigned > assigned.fill_null(0)))
        .then(pl.lit(Step.UNASSIGN.value))
        .when(assigned.is_not_null())
        .then(pl.lit(Step.ASSIGN.value))
    )


def _message() -> pl.Expr:
    """For a device that did not move, the licenses that it holds, and why. Null for other devices."""
    is_unconfirmed = pl.any_horizontal(
        pl.col(f"state_{step}") == DeviceStatus.ACCEPTED.value for step in STEP_STATUSES
    )
    is_late = pl.all_horizontal(pl.col(f"state_{step}").is_in(sorted(DONE)) for step in STEP_STATUSES)
    error = pl.coalesce(
        pl.when(is_late).then(pl.lit("a step took effect after the other one had been undone")),
        _of_deciding_step("error_message"),
        _of_deciding_step("error_code"),
        pl.lit("refused"),
    )
    separator = pl.when(is_unconfirmed).then(pl.lit(" (not confirmed): ")).otherwise(pl.lit(": "))
    return pl.concat_str("holds", separator, error)


def _over_steps(combine: Callable[..., pl.Expr], name: str) -> pl.Expr:
    return combine([f"{name}_{step}" for step in Step]).alias(name)


def _of_deciding_step(name: str) -> pl.Expr:
    """The column of the step that decides."""
    return pl.coalesce(
        [pl.when(pl.col("step") == step.value).then(pl.col(f"{name}_{step}")) for step in Step]
    )
