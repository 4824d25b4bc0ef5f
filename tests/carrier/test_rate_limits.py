"""Retry-After and quota headers in all the forms that servers send."""

import time
from email.utils import formatdate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchlic.carrier.rate_limits import (
    MAX_WAIT_S,
    Quota,
    is_quota_used_up,
    read_quota,
    read_retry_after,
    read_wait_in_words,
)

DATE = {"date": "Sat, 21 Nov 2026 19:20:00 GMT"}
MOMENT = 1795288800


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("1.5", 1.5),
        ("-5", 0),
        ("99999999", MAX_WAIT_S),
        ("Sat, 21 Nov 2026 19:20:30 GMT", 30),
        ("Saturday, 21-Nov-26 19:20:30 GMT", 30),
        ("Sat, 21 Nov 2026 19:19:00 GMT", 0),
        ("Sat, 21 Nov 2099 19:19:00 GMT", MAX_WAIT_S),
        ("soon", None),
        ("", None),
        ("1e5", None),
        ("Sat, 99 Nov 2026 19:20:30 GMT", None),
        ("Sat, 21 Nov 99999999999999999999 19:20:30 GMT", None),
        ("١٢", None),
        ("+4", 4),
        ('"4"', 4),
        ("'4'", 4),
        ("4s", 4),
        ("4 seconds", 4),
        ("2 minutes", 120),
        ("1m30s", 90),
        ("500 ms", 0.5),
        ("250 milliseconds", 0.25),
        ("PT4S", 4),
        ("1 fortnight", None),
        ("4, 4", 4),
        ("1, 4", 4),
        ("4, 1", 4),
        ("soon, 3", 3),
        ("1, Sat, 21 Nov 2026 19:20:30 GMT", 30),
        ("Sat, 21 Nov 2026 19:20:30 GMT, Sat, 21 Nov 2026 19:20:04 GMT", 30),
        ("Sat, 21 Nov 2026 19:20:30 +0000", 30),
        ("Sat Nov 21 19:20:30 2026", 30),
        ("Sat Nov 21 19:20:30 UTC 2026", 30),
        ("2026-11-21T19:20:30Z", 30),
        ("2026-11-21T20:20:30.500+01:00", 30.5),
        ("2026-11-21 19:20:30 UTC", 30),
        (str(MOMENT + 3), 3),
        (f"{MOMENT + 3}.5", 3.5),
        (str((MOMENT + 3) * 1000), 3),
        (str((MOMENT + 3) * 1000_000), 3),
        (str(MOMENT - 7), 0),
        ("1 day", MAX_WAIT_S),
        ("P1D", MAX_WAIT_S),
        ("P0DT2H", 7200),
        ("PT1H30M", 5400),
        ("00:05:00", 300),
        ("1:00:00.5", 3600.5),
        ("00:99:00", None),
        (".5", 0.5),
        ("30.", 30),
        (".", None),
        ("Sat, 21 Nov 2026 20:20:30 CET", 30),
        ("Sat, 21 Nov 2026 21:20:30 CEST", 30),
        ("Sat Nov 21 20:20:30 CET 2026", 30),
        ("Sat, 21 Nov 2026 14:20:30 EST", 30),
        ("2026-11-21 20:20:30 CET", 30),
        ("2026-Nov-22 00:50:30+0530 IST", 30),
        ("Sat, 21 Nov 2026 19:20:30 XYZ", None),
        ("2026-11-21 07:20:30 PM", None),
    ],
)
def test_retry_after_is_read_in_seconds_or_as_a_date(value: str, seconds: float | None) -> None:
    assert read_retry_after({"retry-after": value, **DATE}) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2026-Nov-21 19:20:09+0000 UTC", 9),
        ("2026-Nov-21 20:20:09+0100 UTC", 9),
        ("2026-Nov-21 19:20:09+0000", 9),
        ("2026-11-21T19:20:09Z", 9),
        (MOMENT * 1000 + 2500, 2.5),
        (str(MOMENT * 1000 + 2500), 2.5),
        (MOMENT + 4, 4),
        ("2026-Nov-21 19:19:00+0000 UTC", 0),
        ("tomorrow", None),
        (None, None),
        ([1], None),
        (10**400, None),
        (float("nan"), None),
        (float("inf"), None),
        (MOMENT + 2.5, 2.5),
        (True, None),
        ("Sat, 21 Nov 2026 19:20:09 GMT", 9),
        ("Sat Nov 21 19:20:09 UTC 2026", 9),
        ("2026-11-21 19:20:09", 9),
        ("9s", 9),
    ],
)
def test_next_access_time_is_read_in_all_its_forms(value: object, seconds: float | None) -> None:
    assert read_retry_after(DATE, value) == seconds


def test_retry_after_has_priority_over_next_access_time() -> None:
    assert read_retry_after({"retry-after": "3", **DATE}, MOMENT * 1000 + 60_000) == 3


def test_the_first_readable_hint_of_a_body_counts() -> None:
    assert read_retry_after(DATE, None, "soon", "2026-11-21T19:20:09Z", 60) == 9


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "3000"}, 3),
        ({"x-ms-retry-after-ms": "1500", "retry-after": "1"}, 1.5),
        ({"x-retry-after": "8"}, 8),
        ({"x-rate-limit-retry-after-seconds": "8"}, 8),
        ({"x-ratelimit-retry-after": "8"}, 8),
        ({"retry-after-seconds": "8"}, 8),
        ({"x-ratelimit-retry-after-ms": "8000"}, 8),
        ({"retry-after-ms": "+3000", "retry-after": "2"}, 3),
        ({"x-retry-after-something": "8"}, None),
    ],
)
def test_other_headers_for_a_wait_are_read(headers: dict[str, str], seconds: float | None) -> None:
    assert read_retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Rate limit is exceeded. Try again in 5 seconds.", 5),
        ("Please retry after 2 minutes", 120),
        ("wait for about 10s", 10),
        ("Try again later", None),
        ("Please wait 8 seconds before retrying.", 8),
        ("Please retry after 60", 60),
        ("Retry after 60. Contact support at 555", 60),
        ("Retry after 1.5", 1.5),
        ("retry_after_seconds=33", 33),
        ("Try again in 1 hour and 30 minutes", 5400),
        ("Try again in 1 hour, 30 minutes, and 5 seconds", 5405),
        ("Try again in 1h30m", 5400),
        ("Try again in 00:05:00", 300),
        ("Next request allowed in 2 minutes", 120),
        ("Try again after 1 day", MAX_WAIT_S),
        ("Retry after 2026-11-30T16:50:00Z", None),
        ("Retry after 60 requests", None),
        ("Retry after 1,000", None),
        ("Retry after 16:50", None),
        ("You have to wait for 2 minutes", 120),
        ("Too many requests; wait 3 s", 3),
        ("Next call is available in 00:00:05", 5),
        ("Wait 24h; or retry after 2 s", 2),
        ("Quota exceeded: 5000 calls allowed in 1 hour. Try again in 5 seconds.", 5),
        ("You exceeded the 1000 requests allowed in 24 hours", None),
        ("Rate limit of 10 requests available in 1 hour", None),
        ("Maximum wait 30 minutes exceeded", None),
        ("No need to wait 2 days", None),
        ("Please await 3 days", None),
        ("Please retry after 14:30:00", None),
        ("Try again after 16:50:00 UTC", None),
        ("wait 5 more", None),
        ("Wait 3 times", None),
    ],
)
def test_a_wait_is_read_from_words(words: str, seconds: float | None) -> None:
    assert read_wait_in_words(words) == seconds


def http_date(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize("other", [-7200, 40, 7200])
def test_of_two_date_headers_the_one_that_fits_counts(other: float) -> None:
    dates = f"{http_date(other)}, {http_date(0)}"
    wait = read_retry_after({"date": dates, "retry-after": http_date(30)})
    assert wait == pytest.approx(30, abs=1)


def test_a_moment_that_just_passed_by_the_date_header_is_no_wait() -> None:
    headers = {"date": http_date(3600), "retry-after": http_date(3595)}
    assert read_retry_after(headers) == 0


@pytest.mark.parametrize("clock", [-3 * MAX_WAIT_S, 7200.0])
def test_a_date_header_that_gives_no_plausible_wait_is_ignored(clock: float) -> None:
    wait = read_retry_after({"date": http_date(clock), "retry-after": str(int(time.time()) + 30)})
    assert wait == pytest.approx(30, abs=2)


def test_without_a_date_header_dates_are_compared_with_our_clock() -> None:
    wait = read_retry_after({"retry-after": formatdate(time.time() + 3600, usegmt=True)})
    assert wait is not None
    assert 3000 < wait < 3601


@pytest.mark.parametrize(
    ("headers", "quota"),
    [
        ({"ratelimit-limit": "100", "ratelimit-remaining": "7", "ratelimit-reset": "9"}, Quota(100, 7, 9)),
        ({"x-ratelimit-limit": "100", "x-ratelimit-remaining": "0"}, Quota(100, 0, None)),
        ({"x-rate-limit-reset": str(MOMENT + 9), **DATE}, Quota(None, None, 9)),
        ({"x-ratelimit-reset": str(MOMENT * 1000 + 9000), **DATE}, Quota(None, None, 9)),
        ({"ratelimit-limit": "100, 100;w=60", "ratelimit-remaining": "7"}, Quota(100, 7, None)),
        ({"ratelimit": "limit=100, remaining=50, reset=5"}, Quota(100, 50, 5)),
        (
            {"ratelimit": '"default";r=50;t=30', "ratelimit-policy": '"default";q=100;w=60'},
            Quota(100, 50, 30),
        ),
        (
            {
                "ratelimit": '"burst";r=50;t=30, "daily";r=0;t=3600',
                "ratelimit-policy": '"burst";q=100;w=60, "daily";q=5000;w=86400',
            },
            Quota(5000, 0, 3600),
        ),
        ({"ratelimit": '"burst"; r=0; t=1, "daily"; r=0; t=3600'}, Quota(None, 0, 3600)),
        ({"ratelimit": '"a=b;r=7";t=3;r=5;pk=:cGs=:'}, Quota(None, 5, 3)),
        (
            {
                "ratelimit": '"bytes";r=0;t=60, "default";r=9;t=3',
                "ratelimit-policy": '"bytes";q=65535;qu="content-bytes";w=60, "default";q=10;w=3',
            },
            Quota(10, 9, 3),
        ),
        (
            {"ratelimit": '"bytes";r=0;t=60', "ratelimit-policy": '"bytes";q=65535;w=60;qu="content-bytes"'},
            None,
        ),
        (
            {"ratelimit": "limit=100, remaining=50, reset=5", "ratelimit-policy": "100;w=60"},
            Quota(100, 50, 5),
        ),
        (
            {
                "x-ratelimit-limit": "10, 5000",
                "x-ratelimit-remaining": "5, 0",
                "x-ratelimit-reset": "1, 3600",
            },
            Quota(5000, 0, 3600),
        ),
        ({"x-ratelimit-remaining": "5, 0", "x-ratelimit-reset": "9"}, Quota(None, 0, 9)),
        ({"x-ratelimit-limit": "20,000", "x-ratelimit-remaining": "10,000"}, Quota(20, 10, None)),
        ({"ratelimit": "limit=100;w=60, remaining=50, reset=5"}, Quota(100, 50, 5)),
        ({"x-ratelimit-reset": "2026-11-21T19:20:09Z", **DATE}, Quota(None, None, 9)),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset-after": "1.5"}, Quota(None, 0, 1.5)),
        ({"ratelimit-remaining": "many"}, None),
        ({"ratelimit-remaining": "-3"}, None),
        ({}, None),
    ],
)
def test_quotas_are_read_from_gateway_and_draft_headers(headers: dict[str, str], quota: Quota | None) -> None:
    assert read_quota(headers) == quota


@pytest.mark.parametrize(
    ("headers", "is_used_up"),
    [
        ({"x-ratelimit-remaining": "0"}, True),
        ({"x-ratelimit-remaining-minute": "0", "x-ratelimit-remaining-hour": "7"}, True),
        ({"ratelimit": '"default";r=0;t=30'}, True),
        ({"x-rate-limit-remaining": "0, 0"}, True),
        ({"x-rate-limit-remaining-minute": "5, 0"}, True),
        ({"ratelimit": '"burst";r=5;t=1, "daily";r=0;t=99'}, True),
        ({"ratelimit": '"bytes";r=0;t=1', "ratelimit-policy": '"bytes";q=9;qu="content-bytes"'}, False),
        ({"x-ratelimit-remaining": "1"}, False),
        ({"x-ratelimit-remaining": "10,000"}, False),
        ({"x-ratelimit-remaining-day": "1,000,000"}, False),
        ({"x-ratelimit-limit": "0"}, False),
        ({}, False),
    ],
)
def test_a_used_up_quota_is_seen(headers: dict[str, str], is_used_up: bool) -> None:  # noqa: FBT001
    assert is_quota_used_up(headers) is is_used_up


values = st.text(max_size=40) | st.integers().map(str) | st.floats().map(str)
names = st.sampled_from(
    ["retry-after", "date", "ratelimit", "ratelimit-limit", "x-ratelimit-reset", "ratelimit-policy"]
)


@example({"retry-after": "0\x1f"}, None)
@given(st.dictionaries(names, values), values | st.integers() | st.floats() | st.none())
def test_malformed_headers_give_no_error_and_no_absurd_wait(
    headers: dict[str, str], next_access: object
) -> None:
    wait = read_retry_after(headers, next_access)
    assert wait is None or 0 <= wait <= MAX_WAIT_S
    quota = read_quota(headers)
    assert quota is None or quota.reset_s is None or 0 <= quota.reset_s <= MAX_WAIT_S
