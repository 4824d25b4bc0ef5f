"""The stream of events: whatever a subscriber does, the run goes on, and the other subscribers hear of it."""

import threading
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from batchlic import events
from batchlic.events import EventStream, Phase, PhaseEnded, PhaseStarted, RateMeasured, RunEvent, Warned


def rate(requests_per_s: float) -> RateMeasured:
    return RateMeasured(
        requests_per_s=requests_per_s, found="no limit found", in_flight=0, concurrency=1, is_paused=False
    )


def test_a_subscriber_gets_all_events_of_the_block_in_order() -> None:
    stream, heard = EventStream(), list[RunEvent]()
    sent = [Warned(message=str(number)) for number in range(1000)]
    stream.emit(Warned(message="before"))
    with stream.attached("test", heard.append):
        for event in sent:
            stream.emit(event)
    stream.emit(Warned(message="afterward"))
    assert heard == sent
    assert stream.problems == []


def test_a_subscriber_that_raises_harms_nobody_and_is_named_without_its_text() -> None:
    stream, heard = EventStream(), list[RunEvent]()

    def fail(_: RunEvent) -> None:
        raise ValueError("hunter2")

    with stream.attached("alerts", fail), stream.attached("log", heard.append):
        for _ in range(3):
            stream.emit(rate(1))
    assert len(heard) == 3
    assert stream.problems == ["alerts: ValueError at 3 events"]


def test_a_subscriber_that_hangs_holds_up_neither_run_nor_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "GOODBYE_S", 0.01)
    stream, heard, release = EventStream(), list[RunEvent](), threading.Event()

    def hang(_: RunEvent) -> None:
        release.wait()

    with stream.attached("page", hang), stream.attached("log", heard.append):
        for number in range(100):
            stream.emit(rate(number))
    assert len(heard) == 100
    assert stream.problems == ["page: it is too slow, and has not taken the last events of the run"]
    release.set()


def test_ctrl_c_only_ends_the_wait_for_a_subscriber(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, release = EventStream(), threading.Event()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def hang(_: RunEvent) -> None:
        release.wait()

    with stream.attached("page", hang):
        stream.emit(rate(1))
        monkeypatch.setattr(threading.Thread, "join", interrupt)
    assert stream.problems == ["page: it is too slow, and has not taken the last events of the run"]
    release.set()


def test_a_slow_subscriber_misses_only_frequent_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "CAPACITY", 10)
    stream, heard, release = EventStream(), list[RunEvent](), threading.Event()

    def wait(event: RunEvent) -> None:
        release.wait()
        heard.append(event)

    with stream.attached("page", wait):
        for number in range(100):
            stream.emit(rate(number))
        stream.emit(Warned(message="last"))
        release.set()
    assert isinstance(heard[-1], Warned)
    assert 10 <= len(heard) <= 12
    assert stream.problems == [f"page: it is too slow, and missed {101 - len(heard)} events"]


def test_a_phase_ends_even_if_it_fails() -> None:
    stream, heard = EventStream(), list[RunEvent]()
    with stream.attached("test", heard.append), pytest.raises(RuntimeError), stream.phase(Phase.SENDING):
        raise RuntimeError
    assert [
        (type(event), event.phase) for event in heard if isinstance(event, PhaseStarted | PhaseEnded)
    ] == [
        (PhaseStarted, Phase.SENDING),
        (PhaseEnded, Phase.SENDING),
    ]


def test_events_can_be_sent_as_json_with_their_names() -> None:
    event = rate(24.5)
    encoded = msgspec.json.encode(event)
    assert msgspec.json.decode(encoded)["event"] == "RateMeasured"
    assert msgspec.json.decode(encoded, type=RunEvent) == event


@pytest.mark.parametrize("event", [kind.__name__ for kind in get_args(RunEvent)])
def test_the_documents_name_every_event(event: str) -> None:
    page = Path(__file__).parents[1] / "docs" / "reference" / "events.md"
    assert f"`{event}`" in page.read_text(encoding="utf-8")
