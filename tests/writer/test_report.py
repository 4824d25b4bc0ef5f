"""The page of a report: its outcome, its commands, hostile texts, and its policy."""

import re
import sys
from collections import Counter
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import polars as pl
import pytest

from batchlic.carrier.catalog import Action
from batchlic.chunker import DeviceStatus
from batchlic.journal import SANDBOX, Attempt, LicenseCount
from batchlic.writer.device_states import RESULTS
from batchlic.writer.report.data import (
    Doubt,
    Doubts,
    Example,
    Failures,
    Interval,
    Latency,
    LatencyBin,
    Link,
    Rejects,
    Report,
    Timeline,
)
from batchlic.writer.report.devices import DeviceTotals
from batchlic.writer.report.page import draw_and_render, outcome, render, render_parts
from batchlic.writer.report.requests import MAX_INTERVALS, batch_attempts, latency, request_table, timeline
from batchlic.writer.summary import InventoryRows
from tests.writer.reports import AT, report, summary

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\" ' & {{ 7*7 }} `x` \u202egnp.exe\u2066 \x1b[31m"
)


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def names(self) -> set[str]:
        return {name for name, _ in self.found}

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.found if name in attributes]


def everything(text: str) -> Report:
    """A report of a run in which every text from outside is `text`."""
    doubt = Doubt(
        batch_id=1, x_request_id=text, sku_number=text, sent_at=AT, reason=text, devices=1, examples=[text]
    )
    failure = Failures(
        step=None,
        http_status=400,
        error_code=text,
        settled_by=text,
        devices=1,
        error_message=text,
        examples=[text],
    )
    reject = Rejects(reason=text, rows=1, when=text, advice=text, examples=[Example(text, 1, text, text)])
    of = summary(
        job=text,
        carrier=text,
        sources=[InventoryRows(text, 1), InventoryRows(text, 1)],
        rejected={text: 1},
        statuses={DeviceStatus.IN_DOUBT: 1, DeviceStatus.FAILED: 1},
        stopped_because=text,
        exit_code=6,
        notes=[text],
    )
    return report(
        of,
        run_dir=text,
        rejects=[reject],
        failures=[failure],
        doubts=Doubts(devices=1, requests=1, earlier=1, shown=[doubt]),
        settled_by={text: 1},
        links=[Link("retry of", text, text)],
        timeline=course(),
        latency=times(),
    )


def course() -> Timeline:
    intervals = [
        Interval(start_s=n, devices_per_s=100.0 * n, requests_per_s=n, throttled=n % 2, limiter_rate=2.5)
        for n in range(5)
    ]
    return Timeline(began_at=AT, width_s=1, pauses=1, intervals=intervals)


def times() -> Latency:
    percentiles = {"median": 50.0, "90%": 60.0, "95%": 70.0, "99%": 80.0, "longest": 12_345.0}
    return Latency(requests=2, percentiles=percentiles, bins=[LatencyBin(1, 2, 1), LatencyBin(2, 4, 1)])


# -- hostile texts ------------------------------------------------------------------------------------------


def test_no_text_from_outside_becomes_an_element_or_an_attribute() -> None:
    page, harmless = Elements(render(everything(HOSTILE))), Elements(render(everything("x")))
    assert page.names() == harmless.names()
    assert {name for _, given in page.found for name in given} == {
        name for _, given in harmless.found for name in given
    }
    assert "<script>alert(1)</script>" in page.text


@pytest.mark.parametrize("character", ["\u202e", "\u2066", "\u200f", "\x1b", "\x00", "\u2028"])
def test_control_characters_are_shown_as_escapes(character: str) -> None:
    page = render(everything(f"a{character}b"))
    assert character not in page
    assert f"a\\x{ord(character):02x}b" in page


def test_a_path_is_quoted_in_every_command() -> None:
    text = Elements(render(everything("/runs/x; rm -rf ~"))).text
    commands = re.findall(r"batchlic (?:resume|settle|export|report) (\S.{18})(?= --|\n|$)", text)
    assert len(commands) >= 6
    assert {*commands} == {"'/runs/x; rm -rf ~'"}


# -- the file -----------------------------------------------------------------------------------------------


def test_the_page_loads_nothing_and_its_policy_forbids_scripts() -> None:
    page = Elements(draw_and_render(everything("x")))
    assert page.names().isdisjoint({"script", "link", "img", "iframe", "object", "form", "base"})
    assert all(target.startswith("#") for target in [*page.attributes("href"), *page.attributes("src")])
    policy = next(given["content"] or "" for _, given in page.found if given.get("http-equiv"))
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline';")


@pytest.mark.slow
def test_every_plot_has_a_text_and_takes_colors_and_fonts_of_the_page() -> None:
    page = draw_and_render(everything("x"))
    shown = Elements(page)
    labels = [given.get("aria-label") for _, given in shown.found if given.get("role") == "img"]
    assert len(labels) == 3
    assert all(labels)
    plots = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    colors = set(re.findall(r'(?:fill|stroke)="([^"]*)"', plots))
    assert all(color in {"none", "transparent"} or color.startswith("var(--") for color in colors), colors
    assert set(re.findall(r'font-family="([^"]*)"', plots)) == {"inherit"}


def test_without_the_extra_tables_take_the_place_of_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    page = draw_and_render(report(timeline=course(), latency=times()))
    assert 'class="plot"' not in page
    assert "batchlic[report]" in Elements(page).text
    assert "<details open>" in page


def test_a_plot_that_fails_does_not_take_the_report_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        pass

    def panic(_: object) -> str:
        raise Panic

    monkeypatch.setattr("vl_convert.vegalite_to_svg", panic)
    text = Elements(draw_and_render(report(timeline=course(), latency=times()))).text
    assert "The plots could not be drawn" in text
    assert "Figures over time" in text


def test_the_parts_are_for_other_pages_too() -> None:
    parts = render_parts(report())
    assert "<html" not in parts
    assert outcome(report()) in parts


# -- what it says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "is_at_work", "expected"),
    [
        ({}, False, "Finished: 1 device accepted"),
        ({"rejected": {"eid": 2}}, False, "Finished: 1 device accepted, 2 rows rejected"),
        ({"statuses": {}, "rows_read": 0}, False, "Finished: nothing to do"),
        ({"exit_code": None}, False, "Interrupted: 1 device accepted"),
        ({"exit_code": 6, "statuses": {"pending": 1}}, False, "Stopped early: 1 device pending"),
        ({"exit_code": None}, True, "At work: 1 device accepted"),
    ],
)
def test_the_outcome_is_one_sentence(changes: dict[str, Any], is_at_work: bool, expected: str) -> None:  # noqa: FBT001
    assert outcome(report(summary(**changes), is_at_work=is_at_work)) == expected


def test_a_run_that_is_done_has_nothing_to_do() -> None:
    assert "What to do" not in render(report())


def test_a_stopped_run_names_the_command_that_continues_it() -> None:
    stopped = summary(exit_code=6, stopped_because="stopped by SIGTERM", statuses={DeviceStatus.PENDING: 1})
    text = Elements(render(report(stopped))).text
    assert "batchlic resume /runs/run-1\n" in text
    assert "--sandbox" not in text
    rehearsal = Elements(render(report(summary(exit_code=6, carrier=SANDBOX)))).text
    assert "batchlic resume /runs/run-1 --sandbox" in rehearsal


def test_a_run_at_work_is_not_to_be_resumed() -> None:
    text = Elements(render(report(summary(exit_code=None), is_at_work=True))).text
    assert "batchlic resume" not in text
    assert "batchlic status /runs/run-1" in text


def test_doubts_of_an_earlier_run_come_with_the_commands_that_find_it() -> None:
    doubts = Doubts(devices=0, requests=0, earlier=2, shown=[])
    page = Elements(render(report(summary(exit_code=3), doubts=doubts)))
    assert "batchlic ledger show --device DEVICE" in page.text
    assert "--what in_doubt --to in-doubt.csv" in page.text
    assert "batchlic settle" not in page.text


def test_resending_a_lifetime_license_needs_consent_in_the_command() -> None:
    doubts = Doubts(devices=1, requests=1, earlier=0, shown=[], is_lifetime=True)
    text = Elements(render(report(summary(exit_code=3), doubts=doubts))).text
    assert "batchlic settle /runs/run-1 --as resend --consent-lifetime --reason" in text


# -- figures ------------------------------------------------------------------------------------------------


def devices(**columns: Any) -> pl.DataFrame:  # noqa: ANN401 - values or one value of a column
    """One row for each value of the longest column."""
    rows = max((len(value) for value in columns.values() if isinstance(value, list)), default=1)
    values = {name: columns.get(name) for name in RESULTS}
    return pl.DataFrame(
        {name: value if isinstance(value, list) else [value] * rows for name, value in values.items()},
        schema=RESULTS,
    )


def totals(*frames: pl.DataFrame) -> DeviceTotals:
    found = DeviceTotals()
    for frame in frames:
        found.add(frame)
    return found


def test_a_request_in_doubt_whose_devices_are_in_two_frames_is_one() -> None:
    part = devices(
        imei=["1", "2"], status="in_doubt", batch_id=7, x_request_id="r", account_name="a", sku_number="s"
    )
    found = totals(part, part).doubts(["s"])
    assert (found.devices, found.requests, found.is_lifetime) == (4, 1, True)
    assert [doubt.devices for doubt in found.shown] == [4]


def test_failures_beyond_the_shown_codes_are_counted() -> None:
    codes = [f"CODE{n}" for n in range(25)]
    found = totals(devices(error_code=codes, status="failed", imei=codes, sku_number="s"))
    assert len(found.failures()) == 20
    assert found.other_failures == 5


def test_texts_of_any_length_make_a_page_of_less_than_1_mb() -> None:
    long = [f"{n} " + HOSTILE * 1_000 for n in range(200)]
    columns = {"error_code": long, "error_message": long, "imei": "1", "sku_number": "s", "account_name": "a"}
    found = totals(
        devices(status="failed", **columns),
        devices(
            status="in_doubt",
            batch_id=list(range(200)),
            x_request_id="r",
            last_attempt_at=datetime(2026, 11, 29, tzinfo=UTC),
            **columns,
        ),
    )
    of = summary(stopped_because=HOSTILE * 1_000, notes=[HOSTILE * 1_000] * 100, exit_code=6)
    page = render(report(of, failures=found.failures(), doubts=found.doubts([])))
    assert len(page.encode()) < 1_000_000


def test_licenses_after_a_run_are_those_before_and_what_was_accepted() -> None:
    statuses = ["accepted", "confirmed", "failed", "in_doubt", "skipped", "pending"]
    ids = {"account_name": "a", "sku_number": "s", "imei": "1", "batch_id": 1, "x_request_id": "r"}
    frames = {action: devices(status=statuses, action=action.value, **ids) for action in Action}
    for action, change in ((Action.ASSIGN, 2), (Action.UNASSIGN, -2)):
        (found,) = totals(frames[action]).licenses([LicenseCount("a", "s", 100, 50)])
        assert (found.change, found.in_doubt) == (change, 1)
        assert (found.assigned_after, found.available_after) == (100 + change, 50 - change)
    (unknown,) = totals(frames[Action.ASSIGN]).licenses([])
    assert (unknown.change, unknown.assigned_after) == (2, None)
    assigned = devices(status=["accepted"] * 5, action="assign", **ids)
    (of_sync,) = totals(assigned, frames[Action.UNASSIGN]).licenses([])
    assert (of_sync.change, of_sync.in_doubt) == (3, 1)


def test_devices_in_doubt_since_another_run_change_no_license_of_this_one() -> None:
    ids = {"account_name": "a", "sku_number": "s", "imei": "1", "status": "in_doubt", "action": "assign"}
    own = devices(batch_id=1, x_request_id="r", **ids)
    earlier = devices(imei=["2", "3"], **{name: cell for name, cell in ids.items() if name != "imei"})
    (found,) = totals(own, earlier).licenses([])
    assert found.in_doubt == 1
    assert totals(earlier).licenses([]) == []
    assert totals(own, earlier).doubts([]).earlier == 2


@pytest.mark.parametrize(
    ("unassign", "assign", "restore", "old", "new"),
    [
        ("accepted", "confirmed", None, -1, 1),
        ("accepted", "failed", "accepted", 0, 0),
        ("failed", "accepted", "accepted", 0, 0),
        ("accepted", "in_doubt", None, -1, 0),
    ],
)
def test_each_step_of_a_migration_counts_for_its_sku(
    unassign: str, assign: str, restore: str | None, old: int, new: int
) -> None:
    steps = {"unassign_status": unassign, "assign_status": assign, "restore_status": restore}
    frame = devices(status="failed", account_name="a", from_sku="old", sku_number="new", imei="1", **steps)
    licenses = totals(frame).licenses([])
    changes = Counter({one.sku_number: one.change for one in licenses})
    assert (changes["old"], changes["new"]) == (old, new)


def test_a_device_of_a_migration_is_accepted_once_in_the_course_of_a_run() -> None:
    steps = [("unassign", 60), ("unassign", 40), ("assign", 70), ("restore", 30)]
    attempts = [
        attempt(batch_id=batch_id, step=step, device_count=devices, started_at=1_000_000 * at)
        for batch_id in (1, 2)
        for at, (step, devices) in enumerate(steps)
    ]
    course = timeline(request_table(attempts))
    assert course is not None
    assert sum(one.devices_per_s * course.width_s for one in course.intervals) == pytest.approx(140)
    assert course.intervals[0].devices_per_s == 0


def attempt(**changes: Any) -> Attempt:  # noqa: ANN401 - any field of an attempt
    fields: dict[str, Any] = dict.fromkeys(Attempt._fields) | {
        "batch_id": 1,
        "device_count": 100,
        "started_at": 0,
        "duration_ms": 50.0,
        "outcome": "accepted",
        "http_status": 200,
    }
    return Attempt(**fields | changes)


def test_a_request_that_never_left_is_not_counted() -> None:
    unsent = attempt(outcome="throttled", http_status=None)
    unanswered = attempt(outcome=None, http_status=None, duration_ms=None)
    table = request_table([attempt(), unsent, unanswered])
    assert table.height == 2
    assert [(one.attempts, one.batches) for one in batch_attempts(table)] == [("2", 1)]


def test_a_timeline_has_few_intervals_and_all_devices_whatever_its_length() -> None:
    for seconds in (0, 1, 30, 5_000):
        table = request_table(attempt(started_at=n * seconds * 1_000) for n in range(1_000))
        found = timeline(table)
        assert found is not None
        assert 1 <= len(found.intervals) <= MAX_INTERVALS
        answered = sum(interval.devices_per_s * found.width_s for interval in found.intervals)
        assert answered == pytest.approx(100_000, rel=0.01)


def test_the_time_between_sessions_is_left_out_of_the_timeline() -> None:
    day = 86_400_000_000
    table = request_table(attempt(started_at=n * 1_000_000 + (n >= 5) * day) for n in range(10))
    found = timeline(table)
    assert found is not None
    assert found.pauses == 1
    assert found.width_s * len(found.intervals) < 20


def test_latency_has_its_percentiles_and_every_request_in_a_bin() -> None:
    found = latency(request_table(attempt(duration_ms=float(n)) for n in range(1, 1_001)))
    assert found is not None
    assert list(found.percentiles.values()) == pytest.approx([500, 900, 950, 990, 1000], abs=1)
    assert sum(one.requests for one in found.bins) == 1_000
