"""Numbers, times and durations as people read them."""

import pytest

from batchlic.figures import counted, duration, time_in_files, time_on_terminal


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "device", "0 devices"),
        (1, "device", "1 device"),
        (24_957, "device", "24,957 devices"),
        (1, "batch", "1 batch"),
        (2, "batch", "2 batches"),
        (1, "row", "1 row"),
        (3, "valid device", "3 valid devices"),
        (2, "license", "2 licenses"),
        (2, "inventory", "2 inventories"),
    ],
)
def test_a_number_has_its_noun_in_the_right_form(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text


@pytest.mark.parametrize(
    ("microseconds", "in_files", "on_terminal"),
    [
        (0, "1970-01-01T00:00:00.000000Z", "1970-01-01T00:00:00Z"),
        (1_795_288_809_000_001, "2026-11-21T19:20:09.000001Z", "2026-11-21T19:20:09Z"),
        (1_795_288_809_999_999, "2026-11-21T19:20:09.999999Z", "2026-11-21T19:20:09Z"),
    ],
)
def test_a_time_has_microseconds_in_files_and_seconds_on_a_terminal(
    microseconds: int, in_files: str, on_terminal: str
) -> None:
    assert time_in_files(microseconds) == in_files
    assert time_on_terminal(in_files) == time_on_terminal(microseconds) == on_terminal


@pytest.mark.parametrize("text", ["2026-11-21T18:40:09Z", "unknown", ""])
def test_a_text_without_a_fraction_of_a_second_is_shown_as_it_is(text: str) -> None:
    assert time_on_terminal(text) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (12.4, "0:12"), (125, "2:05"), (7500, "2:05:00")])
def test_a_duration_has_hours_if_it_is_long(seconds: float, text: str) -> None:
    assert duration(seconds) == text
