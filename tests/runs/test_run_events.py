"""The last event of a run says how the command ends, whatever ends it."""

import sys
from types import SimpleNamespace

import pytest

from batchlic.errors import BatchlicError, CredentialsRejected, Declined, RefusedToStart
from batchlic.events import EventStream, RunEnded, RunEvent
from batchlic.runs import signals
from batchlic.runs.run_events import observed
from batchlic.runs.signals import Interrupted
from batchlic.writer.summary import Summary


def end_of(error: BaseException) -> RunEnded:
    """The last event of a command that ends with this error."""
    heard = list[RunEvent]()

    def work() -> Summary:
        raise error

    events = EventStream()
    with (
        events.attached("test", heard.append),
        pytest.raises((BatchlicError, type(error))) as raised,
    ):
        observed(events, work)
    (event,) = heard
    assert isinstance(event, RunEnded)
    if isinstance(raised.value, BatchlicError):
        assert event.exit_code == raised.value.exit_code
    return event


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (RefusedToStart("too few"), 4, "too few"),
        (CredentialsRejected("wrong"), 5, "wrong"),
        (KeyboardInterrupt(), 6, "stopped by Ctrl-C"),
        (PermissionError(13, "no", "/x/fleet.csv"), 2, "/x/fleet.csv: can't be opened (Permission denied)"),
        (OSError(5, "no", "/x/fleet.csv"), 6, "/x/fleet.csv: can't be read (Input/output error)"),
        (OSError("hunter2"), 1, "unexpected error (OSError)"),
        (RuntimeError("hunter2"), 1, "unexpected error (RuntimeError)"),
    ],
)
def test_the_last_event_has_the_exit_code_of_the_command(
    error: BaseException, code: int, reason: str
) -> None:
    event = end_of(error)
    assert (event.exit_code, (event.reason or "")[: len(reason)]) == (code, reason)
    assert not event.is_by_person


@pytest.mark.parametrize(
    ("error", "first", "has_terminal", "is_by_person"),
    [
        (Declined("you answered no"), "", True, True),
        (Interrupted("stopped by SIGINT"), "SIGINT", True, True),
        (Interrupted("stopped by SIGINT"), "SIGINT", False, False),
        (Interrupted("stopped by SIGTERM"), "SIGTERM", True, False),
        (RefusedToStart("too few"), "SIGINT", True, False),
    ],
)
def test_a_person_at_the_terminal_ends_a_run_by_a_no_or_by_ctrl_c(
    error: BatchlicError,
    first: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    has_terminal: bool,
    is_by_person: bool,
) -> None:
    monkeypatch.setattr(signals._state.get(), "first", first)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: has_terminal))
    assert end_of(error).is_by_person == is_by_person
