"""What became of a migrated device: one row made of its steps."""

from collections.abc import Callable, Collection

import polars as pl

from batchlic.journal import Standing
from batchlic.journal.steps import Step

STEP_STATUSES = {step: f"{step.word}_status" for step in (Step.UNASSIGN, Step.ASSIGN, Step.RESTORE)}
"""Columns of results.parquet that say how each step stands: as `status`, null where nothing was sent."""

OF_MOVES = ("from_sku", "step", *STEP_STATUSES.values())
"""Columns of results.parquet that only a migration fills."""

CONFIRMED = "confirmed"
GOOD = (Standing.ACCEPTED.value, CONFIRMED)

_OF_STEP = ("x_request_id", "request_id", "http_status", "error_code", "settled_at", "settled_by")
"""Columns that are told of the step that decides."""


def migrated(devices: pl.DataFrame, to_sku: str, restorable: Collection[str]) -> pl.DataFrame:
    """Rows of results.parquet from devices with the outcome of each step, columns suffixed by its name.

    `answered_…` is the status of a step by the answers alone: what a callback denies later is not undone.
    `status` is accepted (or confirmed) once both licenses have been dealt with; failed where one of them was
    refused, once the other step is undone where that is to be, or where both were dealt with though the first
    one was undone; in_doubt where any step is; otherwise pending. `step` is the one that decides: the one in
    doubt, the one refused, the one that came after all, the assign of a device that has moved, or the last
    one sent.
    """
    unassign, assign, restore = (_Status(step) for step in STEP_STATUSES)
    in_doubt = unassign.is_doubtful | assign.is_doubtful | restore.is_doubtful
    # A step that may have been taken and is to be sent again decides what the device holds.
    is_awaited = unassign.is_awaited | assign.is_awaited
    refused = (unassign.failed | assign.failed) & ~in_doubt & ~is_awaited
    came_late = unassign.is_good & assign.is_good & restore.is_good
    unassigned_first = unassign.begun_at < assign.begun_at
    stranded, doubled = refused & unassign.is_good, refused & assign.is_good
    may_undo = (stranded & assign.was_refused & pl.col("sku_number").is_in(list(restorable))) | (
        doubled & unassign.was_refused & pl.lit(to_sku in restorable)
    )
    decided = devices.with_columns(
        _first_that(
            (unassign.is_doubtful, Step.UNASSIGN.word),
            (assign.is_doubtful, Step.ASSIGN.word),
            (restore.is_doubtful, Step.RESTORE.word),
            (unassign.failed, Step.UNASSIGN.word),
            (came_late & ~unassigned_first, Step.UNASSIGN.word),
            (assign.failed | (unassign.is_good & assign.is_good), Step.ASSIGN.word),
            (unassign.was_sent & (unassign.sent_at > assign.sent_at), Step.UNASSIGN.word),
            (assign.was_sent, Step.ASSIGN.word),
        ).alias("step"),
        _first_that(
            (in_doubt, Standing.IN_DOUBT.value),
            (may_undo & ~restore.is_good & ~restore.failed, Standing.PENDING.value),
            (refused | (came_late & ~in_doubt), Standing.FAILED.value),
            (unassign.is_confirmed & assign.is_confirmed, CONFIRMED),
            (unassign.is_good & assign.is_good, Standing.ACCEPTED.value),
        ).alias("status"),
        _first_that(
            (stranded & restore.is_good, "has its old license back"),
            (stranded & restore.failed, "holds no license, and could not be given the old one back"),
            (stranded | (came_late & ~unassigned_first), "holds no license"),
            (doubled & restore.is_good, "has only its old license again"),
            (doubled | came_late, "holds both licenses"),
            (refused, "has its old license still"),
        ).alias("holds"),
        _first_that(
            (unassign.is_unconfirmed | assign.is_unconfirmed | restore.is_unconfirmed, " (not confirmed): "),
            (pl.lit(value=True), ": "),
        ).alias("surely"),
    )
    error = pl.coalesce(
        _first_that((came_late, "a step took effect after the other one had been undone")),
        _of_the_step("error_message"),
        _of_the_step("error_code"),
        pl.lit("refused"),
    )
    return decided.with_columns(
        *(_of_the_step(name).alias(name) for name in _OF_STEP),
        pl.coalesce(pl.concat_str("holds", "surely", error), _of_the_step("error_message")).alias(
            "error_message"
        ),
        _over_steps(pl.sum_horizontal, "attempts"),
        _over_steps(pl.min_horizontal, "first_attempt_at"),
        _over_steps(pl.max_horizontal, "last_attempt_at"),
        *(pl.col(f"status_{step.word}").alias(name) for step, name in STEP_STATUSES.items()),
        pl.col("sku_number").alias("from_sku"),
        pl.lit(to_sku).alias("sku_number"),
    )


class _Status:
    """How one step stands, as expressions that are never null."""

    def __init__(self, step: Step) -> None:
        status = pl.col(f"status_{step.word}")
        self.sent_at = pl.col(f"last_attempt_at_{step.word}").fill_null(0)
        self.was_sent = status.is_not_null()
        self.is_good = status.is_in(GOOD).fill_null(value=False)
        self.begun_at = pl.col(f"first_attempt_at_{step.word}").fill_null(0)
        self.is_awaited = pl.col(f"is_awaited_{step.word}").fill_null(value=False) & (
            status == Standing.PENDING.value
        )
        self.is_unconfirmed = (status == Standing.ACCEPTED.value).fill_null(value=False)
        self.is_confirmed = (status == CONFIRMED).fill_null(value=False)
        self.is_doubtful = (status == Standing.IN_DOUBT.value).fill_null(value=False)
        self.failed = (status == Standing.FAILED.value).fill_null(value=False)
        self.was_refused = (pl.col(f"answered_{step.word}") == Standing.FAILED.value).fill_null(value=False)


def _first_that(*cases: tuple[pl.Expr, str]) -> pl.Expr:
    """The word of the first case that holds; null where none does."""
    return pl.coalesce([pl.when(holds).then(pl.lit(word)) for holds, word in cases])


def _over_steps(together: Callable[..., pl.Expr], name: str) -> pl.Expr:
    return together([f"{name}_{step.word}" for step in Step]).alias(name)


def _of_the_step(name: str) -> pl.Expr:
    """The column of the step that decides."""
    return pl.coalesce(
        [pl.when(pl.col("step") == step.word).then(pl.col(f"{name}_{step.word}")) for step in Step]
    )
