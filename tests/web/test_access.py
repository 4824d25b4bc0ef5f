"""Who may see the pages: tokens, sessions, wrong tokens, names of hosts."""

import pytest

from batchlic.errors import UsageError
from batchlic.web.access import SESSION_S, FailureLimit, Hosts, Sessions
from batchlic.web.server import check_token

LONG = "x" * 16


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_ends_at_its_time_and_at_a_logout() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    first, second = sessions.begin(), sessions.begin()
    assert first != second
    assert sessions.is_open(first)
    sessions.end(first)
    assert (sessions.is_open(first), sessions.is_open(second)) == (False, True)
    clock.now += SESSION_S
    assert not sessions.is_open(second)


def test_old_sessions_make_room_for_new_ones() -> None:
    sessions = Sessions()
    first, *_, last = [sessions.begin() for _ in range(1001)]
    assert (sessions.is_open(first), sessions.is_open(last)) == (False, True)


def test_an_address_waits_after_five_wrong_tokens() -> None:
    clock = Clock()
    limit = FailureLimit(clock)
    for _ in range(5):
        assert limit.wait_s("192.0.2.1") == 0
        limit.fail("192.0.2.1")
    assert limit.wait_s("192.0.2.1") == 60
    assert limit.wait_s("192.0.2.2") == 0
    clock.now += 60
    assert limit.wait_s("192.0.2.1") == 0


@pytest.mark.parametrize(
    "addresses",
    [
        [f"192.0.2.{number}" for number in range(50)],
        [f"2001:db8:0:{number:x}::1" for number in range(50)],
    ],
)
def test_all_wait_after_fifty_wrong_tokens_of_many_addresses(addresses: list[str]) -> None:
    limit = FailureLimit(Clock())
    for address in addresses:
        assert limit.wait_s(address) == 0
        limit.fail(address)
    assert limit.wait_s("198.51.100.1") > 0


def test_addresses_of_one_ipv6_network_are_one_caller() -> None:
    limit = FailureLimit(Clock())
    for number in range(5):
        limit.fail(f"2001:db8::{number:x}")
    assert limit.wait_s("2001:db8::ffff") > 0


@pytest.mark.parametrize(
    ("listens_on", "public", "header", "accepted"),
    [
        ("127.0.0.1", [], "127.0.0.1:9002", True),
        ("127.0.0.1", [], "LOCALHOST", True),
        ("127.0.0.1", [], "127.8.8.8", True),
        ("::1", [], "[::1]:9002", True),
        ("127.0.0.1", [], "attacker.example", False),
        ("127.0.0.1", [], "127.0.0.1.attacker.example", False),
        ("127.0.0.1", [], "", False),
        ("127.0.0.1", [], "192.0.2.7", False),
        ("127.0.0.1", ["Runs.example"], "runs.example", True),
        ("127.0.0.1", ["runs.example"], "attacker.example", False),
        ("0.0.0.0", [], "anything.example", True),  # noqa: S104
        ("0.0.0.0", ["runs.example"], "attacker.example", False),  # noqa: S104
    ],
)
def test_a_host_header_must_name_this_server(
    listens_on: str, public: list[str], header: str, *, accepted: bool
) -> None:
    assert Hosts(listens_on, public).accepts(header) is accepted


@pytest.mark.parametrize(
    ("token", "host", "public"),
    [(None, "127.0.0.1", ()), (None, "::1", ()), (LONG, "0.0.0.0", ()), (LONG, "localhost", ("a",))],  # noqa: S104
)
def test_a_token_is_not_demanded_on_loopback(token: str | None, host: str, public: tuple[str, ...]) -> None:
    check_token(token, host, public)


@pytest.mark.parametrize(
    ("token", "host", "public"),
    [
        (None, "0.0.0.0", ()),  # noqa: S104
        (None, "::", ()),
        (None, "192.0.2.7", ()),
        (None, "runs.example", ()),
        (None, "127.0.0.1", ("runs.example",)),
        (LONG[1:], "0.0.0.0", ()),  # noqa: S104
        (LONG[1:], "127.0.0.1", ()),
    ],
)
def test_pages_that_others_can_reach_demand_a_token(
    token: str | None, host: str, public: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError, match="BATCHLIC_SERVE_TOKEN"):
        check_token(token, host, public)
