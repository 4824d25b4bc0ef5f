"""Sessions under the same limit tell each other in the store; nothing that goes wrong there stops a run."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import anyio
import pytest
import sqlalchemy as sa

from batchlic.carrier.credentials import Credentials, Secret
from batchlic.database.limits import limit_sharers
from batchlic.database.postgresql import open_store
from batchlic.events import EventStream, RunEvent, Warned
from batchlic.journal import SANDBOX
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.limiters import Limiters
from batchlic.pool.limiter.time_slots import Member, TimeSlots
from batchlic.runs.shared_limits import SharedLimits, _member
from batchlic.runs.target import Target

URL = "https://thingspace.verizon.com/api"
LOGIN = Credentials(
    client_id=Secret("key"), client_secret=Secret("word"), username=Secret("anna"), password=Secret("pass")
)
TARGET = Target(name=URL, base_url=URL, credentials=LOGIN, secrets=())
OTHER_LOGIN = replace(TARGET, credentials=replace(LOGIN, username=Secret("bert")))
TOKENS = replace(TARGET, credentials=Credentials(access_token=Secret("a"), session_token=Secret("s")))


class Session:
    """A session that shares its limits, of some accounts or of its login."""

    def __init__(
        self,
        store: str | None,
        *accounts: str,
        target: Target = TARGET,
        limiter: type[Limiter] = Limiter,
    ) -> None:
        self.events: list[RunEvent] = []
        self._limiter = limiter
        self._accounts = accounts
        self._stream = EventStream()
        self._shared = SharedLimits(store, target, self._stream)

    def until(self, is_so: Callable[[], bool]) -> Limiters:
        """Share until something is so."""
        with self._stream.attached("test", self.events.append):
            return anyio.run(self._until, is_so)

    async def _until(self, is_so: Callable[[], bool]) -> Limiters:
        limiters = Limiters(
            lambda scope, *_: self._limiter(max_concurrency=10, time_slots=self._shared.time_slots(scope)),
            max_concurrency=10,
            is_by_account=bool(self._accounts),
        )
        for account in self._accounts:
            limiters.of(account)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._shared.keep, limiters)
            with anyio.fail_after(30):
                while not is_so():  # noqa: ASYNC110 - rows of a database tell nobody
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        return limiters


class Refused(Limiter):
    """A limiter that has found 25 requests/s, with a burst of 50."""

    def tell(self, time_slots: TimeSlots, *, is_idle: bool | None = None) -> Member:
        told = super().tell(time_slots, is_idle=is_idle)
        return replace(told, per_s=25.0, burst=50, most=1000.0, is_new=False, is_idle=False)


def rows(store: str) -> list[tuple[str, str]]:
    """Scope and content of all rows."""
    with open_store(store).engine.connect() as connection:
        found = connection.execute(sa.select(limit_sharers.c.scope, limit_sharers.c.content))
        return [(row.scope, row.content) for row in found]


def scopes_of(store: str, session: Session) -> set[str]:
    """What a session shares, once it has told."""
    told: set[str] = set()

    def has_told() -> bool:
        told.update(scope for scope, _ in rows(store))
        return bool(told)

    session.until(has_told)
    return told


def test_f_a_login_is_told_by_a_digest_only(empty_store: str) -> None:
    (scope,) = scopes_of(empty_store, Session(empty_store))
    assert scope.startswith("login:")
    assert not any(text in scope for text in ("anna", "key", "word", "pass"))


def test_each_login_shares_a_limit_of_its_own(empty_store: str) -> None:
    of_each = [
        scopes_of(empty_store, Session(empty_store, target=target)) for target in (TARGET, OTHER_LOGIN)
    ]
    assert of_each[0] != of_each[1]


def test_accounts_with_limits_of_their_own_are_shared_by_name(empty_store: str) -> None:
    assert scopes_of(empty_store, Session(empty_store, "X", "Y")) == {"account:X", "account:Y"}


def test_sessions_that_found_a_rate_agree_on_time_slots(empty_store: str) -> None:
    have_agreed = Event()

    def both_have_slots() -> bool:
        if [_member(content).has_slots for _, content in rows(empty_store)] == [True, True]:
            have_agreed.set()
        return have_agreed.is_set()

    sessions = [Session(empty_store, limiter=Refused) for _ in range(2)]
    with ThreadPoolExecutor() as threads:
        runs = [threads.submit(session.until, both_have_slots) for session in sessions]
        assert all(run.result() for run in runs)


def test_a_session_that_ends_shares_no_more(empty_store: str) -> None:
    scopes_of(empty_store, Session(empty_store))
    assert rows(empty_store) == []


@pytest.mark.parametrize(
    "target", [replace(TARGET, name=SANDBOX), TOKENS], ids=["a rehearsal", "tokens without a login"]
)
def test_what_no_other_process_can_share_has_no_slots(target: Target, store: str) -> None:
    assert SharedLimits(store, target, EventStream()).time_slots(None) is None


def test_without_a_store_there_are_no_slots() -> None:
    assert SharedLimits(None, TARGET, EventStream()).time_slots(None) is None


def test_a_store_that_does_not_answer_only_warns_once() -> None:
    session = Session("postgresql://nobody@/gone?host=/nowhere")
    for _ in range(2):
        (limiter,) = session.until(lambda: len(session.events) > 0)
        assert limiter.time_slots is not None
        assert not limiter.time_slots.are_on
    assert [type(event) for event in session.events] == [Warned]


def test_a_row_of_another_version_means_no_slots() -> None:
    assert _member('{"of": "tomorrow"}').is_other
