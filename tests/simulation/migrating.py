"""Migrations in virtual time: the real sequences, pool, journal and client against the sandbox in process.

A seed determines a scenario: inventory, SKUs, order, licenses, faults, bad devices, and the commits at
which the process is killed. All devices hold the old license at the start. The tests compare the journal with
the sandbox's books.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import msgspec
import trio
from trio.testing import MockClock

from batchlic.carrier.catalog import SKUS, LicenseType
from batchlic.carrier.client import open_client
from batchlic.carrier.credentials import Credentials, Secret
from batchlic.carrier.messages import Device, DeviceId
from batchlic.chunker import Batch, DeviceStatus, Step, parse_ranges
from batchlic.errors import StoppedEarly
from batchlic.journal import Attempt, JournalQueries, RunIdentity
from batchlic.journal.journal import Offload
from batchlic.journal.status import status_of
from batchlic.journal.writes import Insertion
from batchlic.pool.delivery import Pool
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.limiters import only
from batchlic.pool.migration import Migration
from batchlic.pool.retry import RetryPolicy
from batchlic.pool.sender import Sender
from batchlic.sandbox.app import Sandbox
from batchlic.sandbox.config import Fault, LatencyConfig, LimitConfig, Poison, RuleConfig, SandboxConfig
from batchlic.sandbox.refusals import platform_refusal
from batchlic.sandbox.request_bodies import DeviceBody, DeviceIdBody
from tests.journal.builders import identity
from tests.simulation.journals import SimulatedJournals, new_journals
from tests.simulation.limits import seed_chance
from tests.simulation.world import (
    KNOWN_CODE,
    MOST_SESSIONS,
    UNKNOWN_CODE,
    Patience,
    answers_another_request,
)

ACCOUNT = "0000123456-00001"
OLD, FLEXIBLE, LIFETIME = "SIMSec-IoT", "TS-BUNDLE-KTO-SIMSEC-MRC", "SIMSec-IoT-Lt"
_FLEXIBLE_SKUS = frozenset(sku for sku, license in SKUS.items() if license is LicenseType.FLEXIBLE)


class Killed(Exception):
    """The process was killed: it writes nothing more."""


@dataclass
class Scenario:
    """The scenario of a seed."""

    seed: int
    to_sku: str
    batches: list[Batch]
    stubborn: list[str]
    """Devices whose old license the carrier refuses to take, with `stubborn_code`."""
    stubborn_code: str
    spare: int | None
    """Licenses of the new SKU that batches may count on; None for no limit."""
    restorable: frozenset[str]
    sandbox: SandboxConfig
    kills: list[int]
    """Commits of each session before it is killed. Later sessions are not killed."""
    workers: int

    @property
    def may_be_refused_everything(self) -> bool:
        """Whether the carrier may refuse devices with errors without a code that batchlic knows."""
        is_stubborn = bool(self.stubborn) and self.stubborn_code == UNKNOWN_CODE
        has_rules = self.sandbox.rules.exclusive or self.sandbox.licenses[self.to_sku] < 10**6
        return is_stubborn or has_rules


@dataclass
class DeviceResult:
    """One device: its statuses and attempts by step, from the journal, and its licenses, from the books."""

    statuses: dict[Step, DeviceStatus]
    attempts: dict[Step, list[Attempt]]
    licenses: dict[str, int]


@dataclass
class SimulatedRun:
    """The result of a scenario: the result of each device, by IMEI."""

    scenario: Scenario
    results: dict[str, DeviceResult]
    gave_up: bool
    """Whether every session stopped early: the carrier refuses everything that is left."""
    mistaken: set[int]
    """`seq` of the attempts that got the answer to another request, which no client can notice."""


def scenario_of(seed: int) -> Scenario:
    """Return the scenario of a seed."""
    dice = random.Random(f"migration {seed}")
    to_sku = dice.choice([FLEXIBLE, FLEXIBLE, LIFETIME])
    size, count = dice.choice([1, 3, 10]), dice.randint(1, 8)
    numbers = dice.sample(range(10**14, 10**15), size * count)
    batches = [
        Batch(n + 1, ACCOUNT, OLD, ",".join(map(_device, numbers[n * size : (n + 1) * size])), range(size))
        for n in range(count)
    ]
    bad, stubborn = (
        [str(number) for number in dice.sample(numbers, dice.choice([0, 0, 1, size]))] for _ in range(2)
    )
    faults = dice.sample(list(Fault), dice.choice([0, 1, 3]))
    total = size * count
    return Scenario(
        seed=seed,
        to_sku=to_sku,
        batches=batches,
        stubborn=stubborn,
        stubborn_code=dice.choice([KNOWN_CODE, KNOWN_CODE, UNKNOWN_CODE]),
        spare=dice.choice([None, 0, 0, total // 2]),
        restorable=dice.choice([frozenset(), _FLEXIBLE_SKUS & {OLD, to_sku}]),
        sandbox=SandboxConfig(
            seed=dice.getrandbits(32),
            poison=tuple(Poison(identifier=device, named=dice.random() < 0.5) for device in bad),
            licenses={OLD: 10**6, to_sku: dice.choice([10**6, 10**6, total - 1, total // 2])},
            limits=LimitConfig(rate=dice.choice([None, None, 20.0])),
            latency=LatencyConfig(base_s=dice.choice([0.0, 0.05])),
            rules=RuleConfig(exclusive=dice.random() < 0.2, deduplicate=dice.random() < 0.3),
            faults={fault: dice.choice([0.02, 0.1]) for fault in faults},
        ),
        kills=[dice.randint(0, 6 * count) for _ in range(dice.choice([0, 1, 3]))],
        workers=dice.choice([1, 3, 16]),
    )


def _device(number: int) -> str:
    return msgspec.json.encode(Device([DeviceId(str(number), "IMEI")])).decode()


def imei_of(device: str) -> str:
    return msgspec.json.decode(device, type=Device).device_ids[0].id


def simulate(scenario: Scenario) -> SimulatedRun:
    """Run a scenario in virtual time."""
    seed_chance(scenario.seed)
    return trio.run(_simulate, scenario, clock=MockClock(autojump_threshold=0))


async def _simulate(scenario: Scenario) -> SimulatedRun:
    sandbox = Sandbox(scenario.sandbox)
    _assign_old_licenses(sandbox, scenario)
    journals = new_journals(scenario.seed, _identity(scenario))
    network = _Network(sandbox.transport(), scenario)
    is_done = False
    patience = Patience(journals.read())
    for number, lifetime in enumerate([*scenario.kills, *[None] * MOST_SESSIONS], start=1):
        try:
            await _run_session(scenario, network, journals, lifetime)
            is_done = True
        except* (Killed, StoppedEarly):
            pass
        if is_done or (number > len(scenario.kills) and patience.ends()):
            break
    journals.end()
    results = dict(_device_results(scenario, journals.read(), sandbox))
    return SimulatedRun(scenario, results, gave_up=not is_done, mistaken=_mistaken(journals.read(), sandbox))


class _Network(httpx.AsyncBaseTransport):
    """The sandbox's transport, except that it refuses to take the old license of stubborn devices."""

    def __init__(self, inner: httpx.AsyncBaseTransport, scenario: Scenario) -> None:
        self._inner = inner
        self._stubborn = [device.encode() for device in scenario.stubborn]
        self._refusal = platform_refusal(scenario.stubborn_code, "The license can't be taken back.")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        assert b'"devices":[]' not in body, "a request without devices"
        is_about_old = request.method == "DELETE" and f'"{OLD}"'.encode() in body
        if is_about_old and any(device in body for device in self._stubborn):
            return httpx.Response(self._refusal.status, content=self._refusal.body)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the connections at the end of a session: the next process has new ones."""
        await self._inner.aclose()


class _Observer:
    """The pool's observer."""

    def answered(self, *_: object, **__: object) -> None:
        """Record nothing: the tests read the journal and the books."""


async def _run_session(
    scenario: Scenario, network: _Network, journals: SimulatedJournals, lifetime: int | None
) -> None:
    """Run one session, until it is finished, stops early, or is killed."""
    journal = journals.session(_offload_until_killed(lifetime))
    name = Secret("sandbox")
    keys = Credentials(client_id=name, client_secret=name, username=name, password=name)
    async with open_client("http://127.0.0.1/api", keys, transport=network) as client:
        client.remember(journal.owners_of_request_ids())
        sender = Sender(
            client=client,
            journal=journal,
            limiters=only(Limiter(max_concurrency=scenario.workers)),
            policy=RetryPolicy(resendable=_FLEXIBLE_SKUS),
            observer=_Observer(),
        )
        pool = Pool(sender, workers=scenario.workers)
        migration = Migration(
            journal=journal,
            to_sku=scenario.to_sku,
            spare={} if scenario.spare is None else {ACCOUNT: scenario.spare},
            is_revocable=scenario.to_sku in _FLEXIBLE_SKUS,
            resendable=_FLEXIBLE_SKUS,
            restorable=scenario.restorable,
            denied={},
            on_accepted=pool.refusals.accepted,
            on_end=lambda _moved, _failed: None,
        )
        await pool.deliver(migration.sequences(lambda: scenario.batches))


def _offload_until_killed(lifetime: int | None) -> Offload:
    """Return an offload that commits at once, until it kills the process before or after a commit."""
    commits = 0

    async def offload(commit: Callable[[list[Insertion]], None], records: list[Insertion]) -> None:
        nonlocal commits
        await trio.lowlevel.checkpoint()
        commits += 1
        if lifetime is not None and commits > lifetime:
            if commits == lifetime + 1 and lifetime % 2:
                commit(records)  # durable, but the process is killed before it knows
            raise Killed
        commit(records)

    return offload


def _assign_old_licenses(sandbox: Sandbox, scenario: Scenario) -> None:
    account = sandbox.books.account(ACCOUNT)
    devices = [
        DeviceBody([DeviceIdBody(imei_of(device), "IMEI")])
        for batch in scenario.batches
        for device in batch.devices
    ]
    account.assign(OLD, account.numbers_of(devices))


def _mistaken(journal: JournalQueries, sandbox: Sandbox) -> set[int]:
    attempts = [event for event in journal.history() if isinstance(event, Attempt)]
    executed_ids = {done.request_id: done.x_request_id for done in sandbox.books.executions}
    return {attempt.seq for attempt in attempts if answers_another_request(attempt, attempts, executed_ids)}


def _device_results(
    scenario: Scenario, journal: JournalQueries, sandbox: Sandbox
) -> Iterator[tuple[str, DeviceResult]]:
    held = {record.imei: record.licenses for record in sandbox.books.records()}
    for batch in scenario.batches:
        attempts_of_batch = list(journal.attempts(batches=range(batch.batch_id, batch.batch_id + 1)))
        of_step = {step: [a for a in attempts_of_batch if a.step == step] for step in Step}
        for offset, device in enumerate(batch.devices):
            carried = {
                step: [a for a in attempts if not a.part or offset in parse_ranges(a.part)]
                for step, attempts in of_step.items()
            }
            statuses = {step: status_of(attempts) for step, attempts in carried.items() if attempts}
            yield imei_of(device), DeviceResult(statuses, carried, held[imei_of(device)])


def _identity(scenario: Scenario) -> RunIdentity:
    planned = sum(len(batch.devices) for batch in scenario.batches)
    return identity(
        rows_read=planned,
        planned=planned,
        batches=len(scenario.batches),
        to_sku=scenario.to_sku,
        restorable=sorted(scenario.restorable),
    )
