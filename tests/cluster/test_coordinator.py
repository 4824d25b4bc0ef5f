"""The coordinator: what it gives to workers, in which order, and what it makes of how they end."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path

import anyio
import msgspec
import pytest

from batchlic.chunker import DeviceStatus
from batchlic.cluster.coordinator import _Bounds
from batchlic.cluster.messages import ShardTask
from batchlic.errors import ExitCode
from batchlic.events import AttemptEnded, DevicesCounted
from batchlic.runs.live_limits import Bounds, share_of
from batchlic.runs.signals import StopRequests
from batchlic.runs.verify import verify
from batchlic.sandbox.config import SandboxConfig
from tests.carrier.script import OAUTH, Exchange, take
from tests.cluster.inline import Home
from tests.endtoend.carrier import COUNTS, answering, say_counts
from tests.endtoend.program import FLEXIBLE, PATIENCE, books, statuses, totals
from tests.forking import serving
from tests.postgresql import PostgreSQL
from tests.stores import new_store

PASSWORD = "planted-password-4711"


@pytest.fixture(scope="module")
def store(postgresql: PostgreSQL) -> str:
    return new_store(postgresql, "coordinator")


@pytest.fixture
def url() -> Iterator[str]:
    with serving(SandboxConfig(licenses=dict.fromkeys((FLEXIBLE, OTHER), 150))) as found:
        yield found


OTHER = "TS-BUNDLE-KTO-SIMSEC-MRC"


@pytest.fixture
def home(tmp_path: Path, store: str, url: str, monkeypatch: pytest.MonkeyPatch) -> Home:
    return Home(tmp_path, store, url, monkeypatch)


def tasks(home: Home) -> list[ShardTask]:
    return [msgspec.json.decode(sent, type=ShardTask) for sent in home.workers.sent]


@pytest.mark.slow
def test_all_devices_are_sent_once_and_the_files_agree(home: Home, url: str) -> None:
    summary = home.run(home.job(300))
    assert summary.exit_code == ExitCode.OK
    assert set(statuses(home.folder.path).values()) == {"accepted"}
    assert {record["assigned"] for record in books(url).values()} == {1}
    assert verify(home.folder).findings == []


@pytest.mark.slow
def test_events_and_figures_are_those_of_one_run(home: Home) -> None:
    home.run(home.job(300))
    ended = [event for event in home.events if isinstance(event, AttemptEnded)]
    assert sorted(event.batch_id for event in ended) == list(range(1, 31))
    counted = [event for event in home.events if isinstance(event, DevicesCounted)]
    assert counted[-1].statuses[DeviceStatus.ACCEPTED] == counted[-1].to_send == 300
    assert counted[-1].admitted == 30


@pytest.mark.slow
def test_entries_of_each_shard_have_numbers_of_their_own(home: Home) -> None:
    home.run(home.job(300))
    seqs = [range(task.first_seq, task.end_seq) for task in tasks(home)]
    assert all(left.stop <= right.start for left, right in pairwise(seqs))
    assert seqs[0].start == 1


@pytest.mark.slow
def test_limits_of_a_login_are_divided_among_shards_at_work(home: Home) -> None:
    home.run(home.job(300, limits={"max_rate": 1000}))
    assert {(task.sharers, task.rate_sharers) for task in tasks(home)} == {(2, 2)}


@pytest.mark.slow
def test_an_account_in_one_shard_has_its_whole_rate(home: Home) -> None:
    home.run(home.job(300, limits={"max_rate": 1000, "scope": "account"}))
    assert {(task.sharers, task.rate_sharers) for task in tasks(home)} == {(2, 1)}


@pytest.mark.slow
def test_an_account_in_two_shards_shares_its_rate(home: Home) -> None:
    home.run(home.job(100, accounts=1, limits={"scope": "account"}))
    assert [(task.batches, task.rate_sharers) for task in tasks(home)] == [
        (range(1, 6), 2),
        (range(6, 11), 2),
    ]


@pytest.mark.slow
def test_the_canary_is_one_shard_and_comes_first(home: Home) -> None:
    summary = home.run(home.job(300, canary={"devices": "20"}))
    assert summary.exit_code == ExitCode.OK
    first, second, *_ = tasks(home)
    assert first.sharers == 1
    assert first.batches.stop == second.batches.start
    assert any("canary" in note for note in summary.notes)


@pytest.mark.slow
def test_the_canary_of_many_accounts_is_one_shard(home: Home) -> None:
    home.run(home.job(90, accounts=3, canary={"devices": "45"}))
    assert [task.first_batch for task in tasks(home) if task.sharers == 1] == [1]


@pytest.mark.slow
def test_workers_that_join_do_not_add_to_the_limits(home: Home) -> None:
    home.workers.joining = 6
    home.run(home.job(300, accounts=12, limits={"max_rate": 100}))
    assert len(tasks(home)) > 2
    assert home.workers.most_at_once <= 2


@pytest.mark.slow
def test_no_more_shards_than_requests_in_flight_are_at_work(home: Home) -> None:
    home.run(home.job(300, limits={"max_concurrency": 1}))
    assert {task.sharers for task in tasks(home)} == {1}
    assert home.workers.most_at_once == 1


@pytest.mark.parametrize(("all_together", "sharers", "each"), [(10, 4, 2), (8, 4, 2), (3, 4, 1)])
def test_shares_of_requests_in_flight_exceed_no_limit(all_together: int, sharers: int, each: int) -> None:
    assert share_of(all_together, sharers) == each


@pytest.mark.slow
def test_a_migration_moves_all_devices(home: Home, url: str) -> None:
    license = {"from_sku": FLEXIBLE, "to_sku": OTHER, "restore": True}
    summary = home.run(home.job(300, action="migrate", license=license))
    assert summary.exit_code == ExitCode.OK, summary
    assert {(record["assigned"], record["unassigned"]) for record in books(url).values()} == {(1, 1)}


@pytest.mark.slow
def test_a_migration_with_too_few_licenses_starts_no_worker(home: Home) -> None:
    license = {"from_sku": FLEXIBLE, "to_sku": OTHER}
    summary = home.run(home.job(600, action="migrate", license=license))
    assert summary.exit_code == ExitCode.REFUSED
    assert home.workers.sent == []


async def answer(exchange: Exchange) -> None:
    """Answer as a carrier does that takes all requests."""
    await (say_counts(exchange) if exchange.request.path == COUNTS else take(exchange))


@pytest.mark.slow
def test_workers_get_no_secret(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(answer) as carrier:
        home = Home(tmp_path, store, carrier.url, monkeypatch)
        for name in ("CLIENT_ID", "CLIENT_SECRET", "USERNAME", "PASSWORD", "LISTENER_PASSWORD"):
            monkeypatch.setenv(f"BATCHLIC_{name}", PASSWORD)
        monkeypatch.setenv("BATCHLIC_STORE", store.replace("postgres@", f"postgres:{PASSWORD}@"))
        assert home.run(home.job(10, accounts=1)).exit_code == ExitCode.OK
    assert home.workers.sent
    assert home.workers.told
    assert PASSWORD not in str(home.workers.sent) + str(home.workers.told)


@pytest.mark.slow
def test_a_worker_that_cannot_read_the_plan_sends_nothing(home: Home, url: str, tmp_path: Path) -> None:
    def elsewhere(encoded: bytes) -> bytes:
        return json.dumps(json.loads(encoded) | {"folder": str(tmp_path / "missing")}).encode()

    home.workers.change = elsewhere
    summary = home.run(home.job(100))
    assert summary.exit_code == ExitCode.STOPPED
    assert "can't read the plan" in (summary.stopped_because or "")
    assert totals(url)["requests"] == {}


@pytest.mark.slow
def test_a_worker_with_another_carrier_sends_nothing(home: Home, url: str) -> None:
    home.workers.change = lambda encoded: encoded.replace(b"/api", b"/other")
    summary = home.run(home.job(100))
    assert summary.exit_code == ExitCode.STOPPED
    assert "BATCHLIC_BASE_URL of this worker" in (summary.stopped_because or "")
    assert totals(url)["requests"] == {}


@pytest.mark.slow
def test_a_second_signal_does_not_wait_for_a_scheduler(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    answered, waited = threading.Event(), list[bool]()
    with closing(StopRequests()) as stops, stops.obeyed():

        def count() -> int:
            """Answer the first time, and then no more."""
            if home.workers.sent:
                stops.ask("test")
                stops.ask("test")
                waited.append(answered.wait(PATIENCE))
            return 2

        monkeypatch.setattr(home.workers, "count", count)
        summary = home.run(home.job(300))
        assert waited == []
        answered.set()
    assert summary.exit_code == ExitCode.STOPPED


@pytest.mark.slow
def test_a_worker_that_joins_late_hears_of_changed_limits(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    bounds = Bounds(max_rate=500.0, max_concurrency=8, headroom="0%")
    monkeypatch.setattr(_Bounds, "in_force", bounds, raising=False)
    monkeypatch.setattr(_Bounds, "__init__", lambda self: setattr(self, "_told", bounds))
    monkeypatch.setattr(home.workers, "set_bounds", lambda session, _: told.append(session))
    home.run(home.job(300))
    assert told


def test_a_signal_does_not_wait_for_workers_that_are_all_gone(
    home: Home, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    tasks: list[Future[bytes]] = []
    with closing(StopRequests()) as stops, stops.obeyed():

        def begin(*_: object) -> Future[bytes]:
            """Leave the shard to workers that do not come back."""
            tasks.append(Future())
            monkeypatch.setattr(home.workers, "count", lambda: 0)
            stops.ask("test")
            return tasks[-1]

        monkeypatch.setattr(home.workers, "start", begin)
        summary = home.run(home.job(300))
    assert summary.exit_code == ExitCode.STOPPED
    assert [task.cancelled() for task in tasks] == [True]
    assert totals(url)["requests"] == {}


@pytest.mark.slow
def test_a_bug_in_a_worker_does_not_show_what_it_read(home: Home) -> None:
    home.workers.change = lambda encoded: encoded.replace(b'"batch_size":10', b'"batch_size":"x-4711"')
    with pytest.raises(Exception, match="unexpected error") as raised:
        home.run(home.job(100))
    assert "4711" not in str(raised.value)


def test_a_login_that_one_worker_is_refused_is_not_tried_by_others(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def grant(exchange: Exchange) -> None:
        """Refuse all logins after those of the preflight and of the coordinator."""
        if len(carrier.paths(OAUTH)) > 2:
            await exchange.say(HTTPStatus.UNAUTHORIZED, {"error": "invalid_client"})
        else:
            await exchange.say(200, {"access_token": "access", "expires_in": 3600})

    with answering(answer) as carrier:
        carrier.oauth_script = grant
        home = Home(tmp_path, store, carrier.url, monkeypatch)
        summary = home.run(home.job(100, accounts=1))
    assert summary.exit_code == ExitCode.CREDENTIALS
    assert len(carrier.paths(OAUTH)) == 3


@pytest.mark.slow
def test_a_login_rejected_in_the_middle_is_tried_once_by_all_workers(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_have_logged_in = anyio.Event()
    """Preflight, coordinator and two workers have."""

    async def grant(exchange: Exchange) -> None:
        """Take a while to refuse all logins after those."""
        if len(carrier.paths(OAUTH)) > 4:
            await anyio.sleep(1)
            await exchange.say(HTTPStatus.UNAUTHORIZED, {"error": "invalid_client"})
            return
        await exchange.say(200, {"access_token": "access", "expires_in": 3600})
        if len(carrier.paths(OAUTH)) == 4:
            all_have_logged_in.set()

    async def reject(exchange: Exchange) -> None:
        """Reject the access token of each request once all have logged in."""
        if not exchange.request.path.endswith("/license/actions/assign"):
            await answer(exchange)
            return
        await all_have_logged_in.wait()
        fault = {"code": "900901", "message": "Invalid Credentials", "description": ""}
        await exchange.say(HTTPStatus.UNAUTHORIZED, {"fault": fault})

    with answering(reject) as carrier:
        carrier.oauth_script = grant
        home = Home(tmp_path, store, carrier.url, monkeypatch)
        summary = home.run(home.job(100, accounts=1))
    assert summary.exit_code == ExitCode.CREDENTIALS
    assert len(carrier.paths(OAUTH)) == 5
