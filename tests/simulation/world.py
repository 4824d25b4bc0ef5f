"""A whole run in virtual time: the real pool, journal and client against the sandbox in process.

A seed determines a scenario: inventory, accounts, SKU, limits of the login or of each account, faults, bad
devices, the commits at which the process is killed, and how often an operator settles the devices in doubt.
The tests compare the journal with the sandbox's books. The batches of a sync, with two actions, are sent in
two phases.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TypeAlias

import httpx
import msgspec
import trio
from trio.testing import MockClock

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.auth import CarrierUnreachable
from batchlic.carrier.catalog import SKUS, Action, LicenseType
from batchlic.carrier.client import CALLBACK_SERVICE, AccountError, Carrier, open_client
from batchlic.carrier.credentials import Credentials, Secret
from batchlic.carrier.messages import Device, DeviceId, EncodedDevice
from batchlic.chunker import Batch, DeviceStatus, PlanGroup, parse_ranges
from batchlic.errors import StoppedEarly
from batchlic.journal import Attempt, Event, Intent, JournalQueries, LicenseCount, Part, RunIdentity
from batchlic.journal.journal import Offload
from batchlic.journal.status import status_of
from batchlic.journal.writes import Insertion
from batchlic.pool.delivery import LanePlan, Pool
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.limiters import Limiters
from batchlic.pool.remaining import Delivery, remaining
from batchlic.pool.retry import RetryPolicy
from batchlic.pool.round_robin import round_robin
from batchlic.pool.sender import Sender
from batchlic.runs.preflight import count
from batchlic.sandbox.app import Sandbox
from batchlic.sandbox.config import (
    Fault,
    LatencyConfig,
    LimitConfig,
    LimitKind,
    LimitScope,
    Poison,
    RetryHint,
    SandboxConfig,
    TokenConfig,
)
from batchlic.sandbox.request_bodies import DeviceBody, DeviceIdBody, account_of
from batchlic.sandbox.responses import ASKED_WAIT
from tests.journal.builders import identity
from tests.simulation.journals import SimulatedJournals, new_journals
from tests.simulation.limits import seed_chance

ACCOUNT = "0000123456-00001"
ACCOUNTS = (ACCOUNT, "0000123456-00002", "0000123456-00003")
FLEXIBLE, LIFETIME = "SIMSec-IoT", "SIMSec-IoT-Lt"
MOST_SESSIONS = 40
MOST_FRUITLESS_SESSIONS = 8
"""Sessions in a row without a definite answer, after which an operator stops to start more."""
TIME_TOLERANCE_S = 1e-6
KNOWN_CODE, UNKNOWN_CODE = "INPUT_INVALID.DeviceState.Invalid", "REQUEST_FAILED.LineSuspended"
"""Codes of refusals of a device: a documented one, and one that batchlic has never seen."""


LISTENER = {"name": CALLBACK_SERVICE, "url": "http://127.0.0.1:9001/", "username": "u", "password": "p"}

Ask: TypeAlias = Callable[[Carrier], Awaitable[None]]


class Killed(Exception):
    """The process was killed: it writes nothing more."""


@dataclass
class Scenario:
    """The scenario of a seed."""

    seed: int
    sku: str
    batches: list[Batch]
    poisoned: set[str]
    poison_code: str
    """Error code with which batches that have a poisoned device are refused."""
    sandbox: SandboxConfig
    kills: list[int]
    """Commits of each session before it is killed. Later sessions are not killed."""
    commit_s: float
    """Seconds that each commit takes."""
    workers: int
    kills_after_settling: list[list[int]]
    """`kills` of the sessions after each time that an operator settles the devices in doubt."""
    is_by_account: bool = False
    """Whether each account has a limiter."""

    def in_one_account(self) -> "Scenario":
        """The same scenario with one account and one limiter."""
        batches = [replace(batch, account_name=ACCOUNT) for batch in self.batches]
        return replace(self, batches=batches, is_by_account=False)

    @property
    def phases(self) -> list[list[Batch]]:
        """The batches that are sent one after another: a phase is not begun before the last one is done."""
        return [list(phase) for _, phase in groupby(self.batches, key=lambda batch: batch.planned_action)]

    @property
    def removals(self) -> set[str]:
        """The devices that lose their license. They have one at the start."""
        return {
            imei_of(device)
            for batch in self.batches
            if batch.action is Action.UNASSIGN
            for device in batch.devices
        }

    @property
    def has_unknown_errors(self) -> bool:
        """Whether the carrier refuses some devices with an error that batchlic does not know."""
        return bool(self.poisoned) and self.poison_code == UNKNOWN_CODE


class Traffic:
    """When requests were sent to some endpoints, and the pauses that their answers asked for.

    A pause is a pair of times: when the answer arrived, and from when on requests may be sent again. It holds
    for requests with the same scope: an account, or None.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str | None, float]] = []
        self.pauses: list[tuple[str | None, float, float]] = []

    def requests_in_pauses(self) -> list[float]:
        """Return the times of requests that were sent during a pause."""
        return [
            at
            for scope, at in self.requests
            for paused, begin, end in self.pauses
            if paused == scope and begin < at < end - TIME_TOLERANCE_S
        ]

    def end_pauses(self) -> None:
        """End the current pauses: the next process does not have them."""
        now = trio.current_time()
        self.pauses = [(scope, begin, min(end, now)) for scope, begin, end in self.pauses]


@dataclass
class SimulatedRun:
    """The result of a scenario: executions by the sandbox's books, and the history by the journal."""

    scenario: Scenario
    executions: Counter[str]
    """How often the request for each device was executed."""
    licensed: set[str]
    """The devices with a license at the end."""
    executed_ids: dict[str, str | None]
    """The X-Request-ID of each executed request, by its requestId."""
    history: list[Event]
    sessions: int
    gave_up: bool
    """Whether every session stopped early: the carrier refuses everything that is left."""
    sessions_opened: int
    """Logins that the carrier accepted."""
    licensing: Traffic
    logging_in: Traffic
    rejected: int
    """Number of token generations that the carrier rejected, in all sessions."""
    counts: list[tuple[int, LicenseCount | None]]
    """Licenses in use by the books, with what a session read of the carrier's counts just before it sent."""
    messages: list[bytes]
    """Bodies of the callbacks that the carrier would post."""
    journal: JournalQueries

    def statuses(self) -> dict[str, tuple[DeviceStatus, list[Attempt]]]:
        """Return by device: its status by the journal, and the attempts that carried it."""
        return {
            device: (status_of(events), [event for event in events if isinstance(event, Attempt)])
            for device, (_, _, events) in events_by_device(self.scenario, self.history).items()
        }

    def has_lost_answer(self, attempt: Attempt) -> bool:
        """Whether `answers_another_request` holds of an attempt."""
        return answers_another_request(attempt, self.history, self.executed_ids)

    def attempts_between_settlements(self) -> Iterator[list[Attempt]]:
        """Yield the attempts that carried a device, for each device and each time between its settlements."""
        for _, _, events in events_by_device(self.scenario, self.history).values():
            for is_attempts, group in groupby(events, lambda event: isinstance(event, Attempt)):
                if is_attempts:
                    yield [event for event in group if isinstance(event, Attempt)]


def answers_another_request(
    attempt: Attempt, history: Iterable[Event], executed_ids: Mapping[str, str | None]
) -> bool:
    """Whether an acceptance is the answer to another request, which never got it itself.

    No client can notice this, because the requestId is new to it.
    See docs/explanation/wire.md, "What can't be detected".
    """
    if attempt.outcome != Outcome.ACCEPTED or attempt.request_id is None:
        return False
    owner = executed_ids[attempt.request_id]
    answers_of_owner = {
        (event.request_id, event.outcome)
        for event in history
        if isinstance(event, Attempt) and event.x_request_id == owner
    }
    is_known = any(request_id == attempt.request_id for request_id, _ in answers_of_owner)
    return not is_known and not answers_of_owner.isdisjoint({(None, None), (None, Outcome.AMBIGUOUS)})


def events_by_device(scenario: Scenario, history: list[Event]) -> dict[str, tuple[int, int, list[Event]]]:
    """Return by device: its batch, its offset in the batch, and the events about it."""
    concerning: dict[tuple[int, int], list[Event]] = defaultdict(list)
    sizes = {batch.batch_id: len(batch.devices) for batch in scenario.batches}
    for event in history:
        for offset in parse_ranges(event.part) if event.part else range(sizes[event.batch_id]):
            concerning[event.batch_id, offset].append(event)
    return {
        imei_of(device): (batch.batch_id, offset, concerning[batch.batch_id, offset])
        for batch in scenario.batches
        for offset, device in enumerate(batch.devices)
    }


def scenario_of(seed: int) -> Scenario:
    """Return the scenario of a seed."""
    dice = random.Random(seed)
    sku = dice.choice([FLEXIBLE, FLEXIBLE, LIFETIME])
    size, count = dice.choice([1, 3, 10, 25]), dice.randint(1, 12)
    numbers = iter(dice.sample(range(10**14, 10**15), size * count))
    batches = [
        Batch(n + 1, ACCOUNT, sku, ",".join(_device(next(numbers)) for _ in range(size)), range(size))
        for n in range(count)
    ]
    identifiers = [imei_of(device) for batch in batches for device in batch.devices]
    bad = dice.sample(identifiers, min(dice.choice([0, 0, 1, 2, len(identifiers) // 5]), len(identifiers)))
    poison_code = dice.choice([KNOWN_CODE, KNOWN_CODE, UNKNOWN_CODE])
    scenario = Scenario(
        seed=seed,
        sku=sku,
        batches=batches,
        poisoned=set(bad),
        poison_code=poison_code,
        sandbox=_carrier(dice, bad, poison_code),
        kills=_kills(dice, count),
        workers=dice.choice([1, 2, 5, 16]),
        kills_after_settling=[_kills(dice, count) for _ in range(dice.choice([0, 1, 1, 3]))],
        commit_s=dice.choice([0.0, 0.002, 0.1]),
    )
    return _with_accounts(dice, scenario)


def _with_accounts(dice: random.Random, scenario: Scenario) -> Scenario:
    """The scenario with some accounts, in the order of the plan, and limits for the login or for each."""
    accounts = ACCOUNTS[: dice.choice([1, 2, 3])]
    batches = [
        replace(batch, account_name=accounts[at * len(accounts) // len(scenario.batches)])
        for at, batch in enumerate(scenario.batches)
    ]
    is_by_account = dice.choice([False, True])
    limits = replace(
        scenario.sandbox.limits, scope=LimitScope.ACCOUNT if is_by_account else dice.choice(list(LimitScope))
    )
    sandbox = replace(scenario.sandbox, limits=limits)
    return replace(scenario, batches=batches, is_by_account=is_by_account, sandbox=sandbox)


def _kills(dice: random.Random, batches: int) -> list[int]:
    return [dice.randint(0, 3 * batches) for _ in range(dice.choice([0, 0, 1, 3]))]


def _device(number: int) -> EncodedDevice:
    return msgspec.json.encode(Device([DeviceId(str(number), "IMEI")])).decode()


def imei_of(device: EncodedDevice) -> str:
    return msgspec.json.decode(device, type=Device).device_ids[0].id


def _carrier(dice: random.Random, bad: Sequence[str], poison_code: str) -> SandboxConfig:
    faults = dice.sample(list(Fault), dice.choice([0, 1, 2, 5, 8]))
    config = SandboxConfig(
        seed=dice.getrandbits(32),
        poison=tuple(
            Poison(identifier=device, error_code=poison_code, named=dice.random() < 0.5) for device in bad
        ),
        limits=LimitConfig(
            rate=dice.choice([None, None, 2.0, 20.0, 200.0]),
            kind=dice.choice(list(LimitKind)),
            burst=dice.choice([1, 5, 20]),
            max_concurrent=dice.choice([None, None, 1, 4]),
            retry_hint=dice.choice(list(RetryHint)),
        ),
        latency=LatencyConfig(
            base_s=dice.choice([0.0, 0.05, 2.0]),
            jitter_s=dice.choice([0.0, 0.1]),
            growth_s=dice.choice([0.0, 0.0, 0.01]),
        ),
    )
    return replace(
        config,
        limits=replace(config.limits, changes=dice.choice([(), ((3.0, 0.5),), ((3.0, 3.0),)])),
        tokens=TokenConfig(
            session_idle_s=dice.choice([1200.0, 1200.0, 60.0]),
            access_life_s=dice.choice([3600.0, 3600.0, 60.0]),
        ),
        faults={fault: _rate(dice, fault) / max(1, len(faults) / 3) for fault in faults},
    )


_LASTING = frozenset(
    {
        Fault.TOKEN_EXPIRED,
        Fault.SESSION_EXPIRED,
        Fault.AUTH_XML,
        Fault.SESSION_FLAP,
        Fault.GATEWAY_404,
    }
)
"""Faults that the requests after them meet, too. At higher rates, the carrier would hardly ever work."""


def _rate(dice: random.Random, fault: Fault) -> float:
    """Return the share of requests with a fault."""
    return dice.choice([0.02, 0.1] if fault in _LASTING else [0.02, 0.1, 0.3])


class _Network(httpx.AsyncBaseTransport):
    """The sandbox's transport. It records license requests, logins, and sessions that were opened."""

    def __init__(self, inner: httpx.AsyncBaseTransport, *, is_by_account: bool) -> None:
        self._inner = inner
        self._is_by_account = is_by_account
        self.licensing, self.logging_in = Traffic(), Traffic()
        self.sessions_opened = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        traffic = self._traffic_of(request.url.path)
        scope = None
        if self._is_by_account and traffic is self.licensing:
            scope = account_of(await request.aread())
        traffic.requests.append((scope, trio.current_time()))
        response = await self._inner.handle_async_request(request)
        now = trio.current_time()
        if wait_s := response.extensions.get(ASKED_WAIT):
            traffic.pauses.append((scope, now, now + wait_s))
        self.sessions_opened += request.url.path.endswith("/session/login") and response.is_success
        return response

    def _traffic_of(self, path: str) -> Traffic:
        if path.endswith("/license/actions/assign"):
            return self.licensing
        return self.logging_in if path.endswith(("/oauth2/token", "/session/login")) else Traffic()

    async def aclose(self) -> None:
        """Close the connections at the end of a session: the next process has new ones."""
        await self._inner.aclose()
        self.licensing.end_pauses()
        self.logging_in.end_pauses()


class _Observer:
    """The pool's observer. It records the token generations that the carrier rejects."""

    def __init__(self) -> None:
        self.rejected: set[tuple[int, int]] = set()
        self._session = 0

    def next_session(self) -> None:
        """Start a session: its token generations start at the first one again."""
        self._session += 1

    def answered(
        self, _batch: Batch, _intent: Intent, answer: Answer, _duration_ms: float, *, final: bool
    ) -> None:
        del final
        if answer.outcome is Outcome.UNAUTHORIZED:
            self.rejected.add((self._session, answer.credentials_generation))


def simulate(scenario: Scenario) -> SimulatedRun:
    """Run a scenario in virtual time."""
    seed_chance(scenario.seed)
    return trio.run(_simulate, scenario, clock=MockClock(autojump_threshold=0))


async def _simulate(scenario: Scenario) -> SimulatedRun:
    sandbox = Sandbox(scenario.sandbox)
    for account in ACCOUNTS:
        sandbox._listeners.register(account, msgspec.json.encode(LISTENER))
    _license_removals(scenario, sandbox)
    network = _Network(sandbox.transport(), is_by_account=scenario.is_by_account)
    pool_observer = _Observer()
    counts: list[tuple[int, LicenseCount | None]] = []

    async def ask(client: Carrier) -> None:
        counts.append((sandbox.books.account(ACCOUNT).in_use[scenario.sku], await _count(client, scenario)))

    journals = new_journals(scenario.seed, _identity(scenario))
    sessions, gave_up = 0, False
    for number, kills in enumerate([scenario.kills, *scenario.kills_after_settling]):
        if number:
            _settle(scenario, journals, _executions(scenario, sandbox))
        more, is_done = await _run_sessions(scenario, network, pool_observer, journals, kills, ask=ask)
        sessions += more
        gave_up |= not is_done
    journals.end()
    return SimulatedRun(
        scenario=scenario,
        executions=_executions(scenario, sandbox),
        licensed={record.imei for record in sandbox.books.records() if record.imei and record.licenses},
        executed_ids={done.request_id: done.x_request_id for done in sandbox.books.executions},
        history=list(journals.read().history()),
        sessions=sessions,
        gave_up=gave_up,
        sessions_opened=network.sessions_opened,
        licensing=network.licensing,
        logging_in=network.logging_in,
        rejected=len(pool_observer.rejected),
        counts=counts,
        messages=sandbox.callbacks.take_queued(),
        journal=journals.read(),
    )


async def _count(client: Carrier, scenario: Scenario) -> LicenseCount | None:
    """The license counts of the scenario's SKU, as a run reads them; None if they are unknown."""
    group = PlanGroup(account_name=ACCOUNT, sku_number=scenario.sku, devices=1, batches=1)
    try:
        found = await count(client, [group])
    except (AccountError, CarrierUnreachable):
        return None
    return found[0] if found else None


class Patience:
    """The patience of an operator, which ends when session after session brings no definite answer."""

    def __init__(self, journal: JournalQueries) -> None:
        self._journal = journal
        self._definite_answers = -1
        self._fruitless = 0

    def ends(self) -> bool:
        """Say, after a session, whether the patience is at an end."""
        before, self._definite_answers = self._definite_answers, self._count_definite_answers()
        self._fruitless = self._fruitless + 1 if self._definite_answers == before else 0
        return self._fruitless == MOST_FRUITLESS_SESSIONS

    def _count_definite_answers(self) -> int:
        definite = {Outcome.ACCEPTED, Outcome.REFUSED}
        attempts = (event for event in self._journal.history() if isinstance(event, Attempt))
        return sum(attempt.final or attempt.outcome in definite for attempt in attempts)


async def _run_sessions(
    scenario: Scenario,
    network: _Network,
    pool_observer: _Observer,
    journals: SimulatedJournals,
    kills: list[int],
    *,
    ask: Ask,
) -> tuple[int, bool]:
    """Run sessions until nothing is left to send, or until an operator gives up.

    Returns their number, and whether nothing is left to send.
    """
    patience = Patience(journals.read())
    number, done = 0, False
    for number, lifetime in enumerate([*kills, *[None] * MOST_SESSIONS], start=1):
        try:
            await _run_session(scenario, network, pool_observer, journals, lifetime, ask=ask)
            done = True
        except* (Killed, StoppedEarly):
            pass
        pool_observer.next_session()
        if done or (number > len(kills) and patience.ends()):
            break
    return number, done


def _settle(scenario: Scenario, journals: SimulatedJournals, executions: Counter[str]) -> None:
    """Settle the devices in doubt by the books, as an operator: licensed ones as accepted."""
    journal = journals.session()
    for device, (batch_id, offset, events) in events_by_device(scenario, list(journal.history())).items():
        if status_of(events) is DeviceStatus.IN_DOUBT:
            carriers = [event for event in events if isinstance(event, Attempt)]
            is_refused = carriers[-1].final and device in scenario.poisoned
            not_executed = DeviceStatus.FAILED if is_refused else DeviceStatus.PENDING
            status = DeviceStatus.ACCEPTED if executions[device] else not_executed
            journal.settle(
                [Part(batch_id, None, str(offset), 1)],
                status,
                settled_by="operator",
                reason="the books",
                settled_at=0,
            )


def _executions(scenario: Scenario, sandbox: Sandbox) -> Counter[str]:
    removals = scenario.removals
    return Counter(
        {
            record.imei: record.unassigned if record.imei in removals else record.assigned
            for record in sandbox.books.records()
            if record.imei
        }
    )


def _license_removals(scenario: Scenario, sandbox: Sandbox) -> None:
    for batch in scenario.batches:
        if batch.action is Action.UNASSIGN:
            account = sandbox.books.account(batch.account_name)
            devices = [DeviceBody([DeviceIdBody(imei_of(device), "IMEI")]) for device in batch.devices]
            account.assign(scenario.sku, account.numbers_of(devices))


async def _run_session(
    scenario: Scenario,
    network: _Network,
    pool_observer: _Observer,
    journals: SimulatedJournals,
    lifetime: int | None,
    *,
    ask: Ask,
) -> None:
    """Run one session, until it is finished, stops early, or is killed."""
    journal = journals.session(_offload_until_killed(lifetime, scenario.commit_s))
    name = Secret("sandbox")
    keys = Credentials(client_id=name, client_secret=name, username=name, password=name)
    async with open_client("http://127.0.0.1/api", keys, transport=network) as client:
        flexible = frozenset(sku for sku, license in SKUS.items() if license is LicenseType.FLEXIBLE)
        client.remember(journal.owners_of_request_ids())
        before: Callable[[], Awaitable[None]] | None = partial(ask, client)
        limiters = Limiters(
            lambda _scope, learned, slots: Limiter(
                max_concurrency=scenario.workers, start_from=learned, slots=slots
            ),
            max_concurrency=scenario.workers,
            is_by_account=scenario.is_by_account,
        )
        for phase in scenario.phases:
            sender = Sender(
                client=client,
                journal=journal,
                limiters=limiters,
                policy=RetryPolicy(resendable=flexible),
                observer=pool_observer,
            )
            pool = Pool(sender, workers=scenario.workers)
            left = partial(
                remaining, journal=journal, resendable=flexible, on_accepted=pool.refusals.accepted
            )
            await pool.deliver_lanes(_lanes(scenario, phase, left), before=before)
            before = None


def _lanes(
    scenario: Scenario, phase: Iterable[Batch], left: Callable[[list[Batch]], Iterator[Delivery]]
) -> Iterator[LanePlan]:
    by_account: dict[str, list[Batch]] = defaultdict(list)
    for batch in phase:
        by_account[batch.account_name].append(batch)
    if scenario.is_by_account:
        yield from (LanePlan(left(batches), account) for account, batches in by_account.items())
    else:
        yield LanePlan(round_robin(map(left, by_account.values()), most=10))


def _offload_until_killed(lifetime: int | None, commit_s: float) -> Offload:
    """Return an offload that commits in virtual time, until it kills the process before or after a commit."""
    commits = 0

    async def offload(commit: Callable[[list[Insertion]], None], records: list[Insertion]) -> None:
        nonlocal commits
        await trio.sleep(commit_s)
        commits += 1
        if lifetime is not None and commits > lifetime:
            if commits == lifetime + 1 and lifetime % 2:
                commit(records)  # durable, but the process is killed before it knows
            raise Killed
        commit(records)

    return offload


def _identity(scenario: Scenario) -> RunIdentity:
    planned = sum(len(batch.devices) for batch in scenario.batches)
    return identity(
        run_id=f"simulated-{scenario.seed}",
        rows_read=planned,
        planned=planned,
        batches=len(scenario.batches),
    )
