"""Logs without secrets (promise F), as JSON lines and for people; and text that is safe for a terminal."""

import logging
import os
import sys
from collections.abc import Iterable
from enum import Enum
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from batchlic.aliases import shown
from batchlic.atomic import explain_disk_errors
from batchlic.figures import time_on_terminal

REDACTED = "[redacted]"
_NUMBERS = frozenset({bool, int, float})
_SECRET_KEYS = ("authorization", "password", "secret", "token", "vz-m2m-token")

_STAMPS: tuple[Processor, ...] = (
    structlog.processors.add_log_level,
    structlog.processors.MaybeTimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
)


@cache
def _is_secret(key: str) -> bool:
    return key.lower().endswith(_SECRET_KEYS)


class Redaction:
    """A structlog processor that replaces known secrets in every value, at any depth."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """The event without secrets, with values that JSON can represent."""
        return {
            key: value if type(value) in _NUMBERS and not _is_secret(key) else self._clean(key, value)
            for key, value in event.items()
            if value is not None
        }

    def _clean(self, key: str, value: Any) -> Any:  # noqa: ANN401 - any value may be logged
        if _is_secret(key):
            return REDACTED
        if isinstance(value, Enum):
            value = value.value  # as JSON has it, also for people
        match value:
            case str():
                value = shown(value)
                for secret in self._secrets:
                    if secret in value:
                        value = value.replace(secret, REDACTED)
                return value
            case int() | float() | None:
                return value
            case dict():
                return {str(inner): self._clean(str(inner), v) for inner, v in value.items()}
            case list() | tuple():
                return [self._clean(key, v) for v in value]
            case _:
                return self._clean(key, str(value))


def console(*, secrets: Iterable[str]) -> FilteringBoundLogger:
    """A logger that writes JSON lines to stderr, for commands without a run folder."""
    processors: list[Processor] = [*_STAMPS, Redaction(secrets), structlog.processors.JSONRenderer()]
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger("INFO"),
    )
    return logger


def details(*, secrets: Iterable[str]) -> FilteringBoundLogger:
    """A logger that shows people on stderr what they do not see anyway: lines below a warning."""
    renderer = structlog.dev.ConsoleRenderer(colors=False)

    def show(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if method in {"debug", "info"}:
            known = {name: value for name, value in event.items() if value is not None}
            known["timestamp"] = time_on_terminal(str(event["timestamp"]))
            # A progress bar replaces sys.stderr while it is shown.
            sys.stderr.write(printable_lines(str(renderer(logger, method, known))) + "\n")
        raise structlog.DropEvent

    logger: FilteringBoundLogger = structlog.wrap_logger(
        None,
        processors=[*_STAMPS, Redaction(secrets), show],
        wrapper_class=structlog.make_filtering_bound_logger("DEBUG"),
    )
    return logger


def forward_standard_logs(logger: FilteringBoundLogger) -> None:
    """Send the warnings and errors of libraries, which use Python's `logging` and `warnings`, to `logger`."""
    logging.basicConfig(handlers=[_Forwarding(logger)], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)


class _Forwarding(logging.Handler):
    """Logs each record with a logger of structlog."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        self._logger.log(
            record.levelno, record.getMessage().strip(), library=record.name, exc_info=record.exc_info or None
        )


class RunLog:
    """The log of one run: a context manager that opens and closes its file.

    Warnings and errors also go to `people` (default: stderr). Lines that can't be written are dropped, with
    one message to `people`: the journal, not the log, is the record of a run.
    """

    def __init__(self, path: Path, *, secrets: Iterable[str], people: TextIO | None = None) -> None:
        self._path = path
        self._people = people
        self._redaction = Redaction(secrets)
        self._console = structlog.dev.ConsoleRenderer(colors=False)

    def __enter__(self) -> Self:
        with explain_disk_errors(self._path):
            descriptor = os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        self._file = os.fdopen(descriptor, "ab", buffering=0)
        self._is_complete = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def logger(self, **bound: str) -> FilteringBoundLogger:
        """A logger that adds `bound` to every line."""
        processors: list[Processor] = [*_STAMPS, self._redaction, self._write]
        logger: FilteringBoundLogger = structlog.wrap_logger(
            None, processors=processors, wrapper_class=structlog.make_filtering_bound_logger("INFO")
        )
        return logger.bind(**bound)

    def _write(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        try:
            self._file.write(msgspec.json.encode(event) + b"\n")
        except OSError as error:
            if self._is_complete:
                self._is_complete = False
                self._tell(f"{self._path}: log lines are lost: {error.strerror}")
        if method in {"warning", "error", "critical", "exception"}:
            shown = {**event, "timestamp": time_on_terminal(str(event["timestamp"]))}
            self._tell(printable_lines(str(self._console(logger, method, shown))))
        raise structlog.DropEvent

    def _tell(self, text: str) -> None:
        # A progress bar replaces sys.stderr while it is shown.
        print(text, file=self._people or sys.stderr)


def masked(text: str, secrets: Iterable[str]) -> str:
    """Text in which known secrets are replaced, as in a log."""
    found: EventDict = Redaction(secrets)(None, "", {"text": text})
    return str(found["text"])


def printable(text: str) -> str:
    """Text on one line, with escapes for control characters, which could rewrite the terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown(text))


def printable_lines(text: str) -> str:
    """Like `printable`, for text of several lines."""
    return "\n".join(map(printable, shown(text).split("\n")))
