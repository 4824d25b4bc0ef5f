"""The events of a small run."""

from collections.abc import Iterable

from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus
from batchlic.errors import ExitCode
from batchlic.events import (
    AttemptEnded,
    DevicesCounted,
    Phase,
    PhaseEnded,
    PhaseStarted,
    PlanReady,
    RateMeasured,
    RunEnded,
    RunEvent,
    RunStarted,
)

BEGAN = 1_795_000_000_000_000
"""Microseconds since 1970."""


def at(seconds: float) -> int:
    return BEGAN + round(seconds * 1e6)


def started(job: str = "night", action: str = "assign") -> RunStarted:
    return RunStarted(
        at=BEGAN,
        run_id="r1",
        job=job,
        action=action,
        carrier="https://carrier.example/api",
        folder="/runs/r1",
        is_resumed=False,
    )


def plan(planned: int = 300, skipped: int = 0, **rejected: int) -> PlanReady:
    return PlanReady(
        at=at(1),
        rows_read=planned + sum(rejected.values()),
        rejected=rejected,
        planned=planned,
        excluded={"skipped": skipped} if skipped else {},
        batches=3,
        notes=(),
    )


def attempt(
    seconds: float,
    batch_id: int = 0,
    outcome: Outcome = Outcome.ACCEPTED,
    *,
    attempt: int = 1,
    part: str = "",
    devices: int = 100,
    is_final: bool = False,
    error_code: str | None = None,
    duration_ms: float = 500,
) -> AttemptEnded:
    """An attempt whose answer came `seconds` after the beginning of the run."""
    return AttemptEnded(
        at=at(seconds),
        batch_id=batch_id,
        step=None,
        part=part,
        x_request_id=f"x-{batch_id}",
        attempt=attempt,
        action="assign",
        devices=devices,
        started_at=at(seconds) - round(duration_ms * 1000),
        duration_ms=duration_ms,
        outcome=outcome,
        is_final=is_final,
        http_status=200 if outcome is Outcome.ACCEPTED else 429,
        error_code=error_code,
        error_message=None,
        request_id=None,
        retry_after_s=None,
    )


def counted(seconds: float, **statuses: int) -> DevicesCounted:
    return DevicesCounted(
        at=at(seconds),
        to_send=300,
        statuses={DeviceStatus(status): devices for status, devices in statuses.items()},
        throttled_share=0.0,
    )


def rate(seconds: float, requests_per_s: float = 25.0) -> RateMeasured:
    return RateMeasured(
        at=at(seconds),
        requests_per_s=requests_per_s,
        found="found: 25 requests a second",
        in_flight=3,
        concurrency=8,
        is_paused=True,
    )


def ended(
    seconds: float, exit_code: int = ExitCode.OK, reason: str | None = None, **statuses: int
) -> RunEnded:
    return RunEnded(
        at=at(seconds),
        exit_code=exit_code,
        reason=reason,
        statuses={DeviceStatus(status): devices for status, devices in statuses.items()},
    )


def small_run(*attempts: RunEvent) -> Iterable[RunEvent]:
    """A run of three batches from 0 s to 60 s that sends from 2 s to 50 s."""
    yield started()
    yield PhaseStarted(at=at(0.5), phase=Phase.PLANNING)
    yield PhaseEnded(at=at(0.9), phase=Phase.PLANNING)
    yield plan()
    yield PhaseStarted(at=at(2), phase=Phase.SENDING)
    yield from attempts
    yield PhaseEnded(at=at(50), phase=Phase.SENDING)
    yield ended(60, accepted=300)
