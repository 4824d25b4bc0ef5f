"""Writes the events of a run to its log."""

from typing import TYPE_CHECKING

import msgspec

from batchlic.events import (
    AttemptEnded,
    BoundsChanged,
    LicensesCounted,
    LimitChanged,
    RunEvent,
    SessionEnded,
    SessionStarted,
    Stopped,
    Warned,
)
from batchlic.figures import time_in_files

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


class LogWriter:
    """A subscriber that writes to a logger; warnings and errors go to people, too."""

    def __init__(self, logger: "FilteringBoundLogger") -> None:
        self._logger = logger

    def __call__(self, event: RunEvent) -> None:
        """Log an event, if it is one for the log."""
        logger = self._logger.bind(timestamp=time_in_files(event.at))
        match event:
            case AttemptEnded():
                _log_attempt(logger, event)
            case SessionStarted():
                logger.info("begun", carrier=event.carrier, planned=event.planned, notes=event.notes or None)
            case LimitChanged():
                rate = event.requests_per_s
                logger.info(
                    "limiter",
                    found=event.found,
                    requests_per_s=None if rate is None else round(rate, 3),
                    concurrency=event.concurrency,
                    **({} if event.account is None else {"account": event.account}),
                )
            case BoundsChanged():
                logger.info("limits", **_fields(event))
            case LicensesCounted():
                logger.info("licenses", **_fields(event))
            case Warned():
                logger.warning(event.message, **event.details)
            case Stopped():
                logger.error("stopped", reason=event.reason)
            case SessionEnded():
                logger.info("ended", exit_code=event.exit_code, statuses=dict(event.statuses))
            case _:
                pass


def _log_attempt(logger: "FilteringBoundLogger", event: AttemptEnded) -> None:
    fields = _fields(event)
    for name in ("outcome", "started_at", "is_final", "action"):
        del fields[name]
    logger.info(event.outcome.value, **fields | {"part": event.part or None})


def _fields(event: RunEvent) -> dict[str, object]:
    fields = msgspec.structs.asdict(event)
    del fields["at"]
    return fields
