"""Migrations in virtual time: the real sequences, pool, journal and client against the sandbox in process.

A scenario is drawn from its seed: fleet, SKUs, order, licenses, faults, bad devices, and the moments at which
the process dies. All devices hold the old license when it begins; the sandbox's books are the truth.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import msgspec
import sqlalchemy as sa
import trio
from sqlalchemy.pool import StaticPool
from trio.testing import MockClock

from batchlic.carrier.catalog import SKUS, Action, LicenseType
from batchlic.carrier.client import open_client
from batchlic.carrier.credentials import Credentials, Secret
from batchlic.carrier.messages import Device, DeviceId
from batchlic.chunker import Batch, DeviceStatus, Step, parse_ranges
from batchlic.errors import StoppedEarly
from batchlic.journal import Attempt, Journal, RunIdentity
from batchlic.journal.journal import Offload, create_tables
from batchlic.journal.status import status_of
from batchlic.journal.writes import Insertion
from batchlic.pool.delivery import Pool
from batchlic.pool.limiter.pace import Pace
from batchlic.pool.migration import Migration
from batchlic.pool.retry import RetryPolicy
from batchlic.sandbox.app import Sandbox
from batchlic.sandbox.config import Fault, LatencyConfig, LimitConfig, Poison, RuleConfig, SandboxConfig
from batchlic.sandbox.request_bodies import DeviceBody, DeviceIdBody
from tests.journal.builders import identity
from tests.simulation.limits import seed_scheduler

ACCOUNT = "0000123456-00001"
OLD, FLEXIBLE, LIFETIME = "SIMSec-IoT", "TS-BUNDLE-KTO-SIMSEC-MRC", "SIMSec-IoT-Lt"
MOST_SESSIONS = 40
_FLEXIBLE_SKUS = frozenset(sku for sku, license in SKUS.items() if license is LicenseType.FLEXIBLE)


class Killed(Exception):
    """The process is dead: nothing is written any more."""


@dataclass
class Scenario:
    """What a seed stands for."""

    seed: int
    to_sku: str
    batches: list[Batch]
    stubborn: list[str]
    """Devices that the carrier does not take the old license from."""
    spare: int | None
    """Licenses that batches may be promised; None: as many as they like."""
    restorable: frozenset[str]
    sandbox: SandboxConfig
    kills: list[int]
    """How many commits each session lives through; after the last one the run is not killed any more."""
    workers: int


@dataclass
class Fate:
    """One device: where its steps stand by the journal, its requests, and what it holds by the books."""

    standings: dict[Step, DeviceStatus]
    attempts: dict[Step, list[Attempt]]
    licenses: dict[str, int]


@dataclass
class SimulatedRun:
    """What happened."""

    scenario: Scenario
    fates: dict[str, Fate]


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
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


def live(scenario: Scenario) -> SimulatedRun:
    """Live through a scenario in virtual time."""
    seed_scheduler(scenario.seed)
    return trio.run(_live, scenario, clock=MockClock(autojump_threshold=0))


async def _live(scenario: Scenario) -> SimulatedRun:
    sandbox = Sandbox(scenario.sandbox)
    _hand_out_old_licenses(sandbox, scenario)
    engine = sa.create_engine("sqlite://", poolclass=StaticPool)
    create_tables(engine, _identity(scenario), created_at=0)
    network = _Network(sandbox.transport(), scenario.stubborn)
    for lifetime in [*scenario.kills, *[None] * MOST_SESSIONS]:
        is_done = False
        try:
            await _sit(scenario, network, engine, lifetime)
            is_done = True
        except* (Killed, StoppedEarly):
            pass
        if is_done:
            return SimulatedRun(scenario, dict(_fates(scenario, Journal(engine), sandbox)))
    raise AssertionError(f"seed {scenario.seed}: not done after {MOST_SESSIONS} sessions")


class _Network(httpx.AsyncBaseTransport):
    """The sandbox's transport, but for devices that do not give up the old license."""

    def __init__(self, inner: httpx.AsyncBaseTransport, stubborn: list[str]) -> None:
        self._inner = inner
        self._stubborn = [device.encode() for device in stubborn]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        is_about_old = request.method == "DELETE" and f'"{OLD}"'.encode() in body
        if is_about_old and any(device in body for device in self._stubborn):
            return httpx.Response(400, json={"errorCode": "400", "errorMessage": "no", "errorUrl": ""})
        return await self._inner.handle_async_request(request)


class _Witness:
    """The pool's observer: sees nothing."""

    def answered(self, *_: object, **__: object) -> None:
        """Nothing is noted: journal and books tell all."""


async def _sit(scenario: Scenario, network: _Network, engine: sa.Engine, lifetime: int | None) -> None:
    """One session of the run: until it is done, gives up, or is killed."""
    journal = Journal(engine, offload=_mortal(lifetime))
    name = Secret("sandbox")
    keys = Credentials(client_id=name, client_secret=name, username=name, password=name)
    async with open_client("http://127.0.0.1/api", keys, transport=network) as client:
        pool = Pool(
            run_id=f"simulated-{scenario.seed}",
            action=Action.UNASSIGN,
            client=client,
            journal=journal,
            pace=Pace(max_concurrency=scenario.workers),
            policy=RetryPolicy(resendable=_FLEXIBLE_SKUS),
            observer=_Witness(),
            workers=scenario.workers,
        )
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
        await pool.deliver(migration.sequences(scenario.batches))


def _mortal(lifetime: int | None) -> Offload:
    """Runs commits in place, in no virtual time, until the process dies: before or after a commit."""
    commits = 0

    async def offload(commit: Callable[[list[Insertion]], None], records: list[Insertion]) -> None:
        nonlocal commits
        await trio.lowlevel.checkpoint()
        commits += 1
        if lifetime is not None and commits > lifetime:
            if commits == lifetime + 1 and lifetime % 2:
                commit(records)  # durable, but nobody lives to hear of it
            raise Killed
        commit(records)

    return offload


def _hand_out_old_licenses(sandbox: Sandbox, scenario: Scenario) -> None:
    account = sandbox.books.account(ACCOUNT)
    devices = [
        DeviceBody([DeviceIdBody(imei_of(device), "IMEI")])
        for batch in scenario.batches
        for device in batch.devices
    ]
    account.assign(OLD, account.numbers_of(devices))


def _fates(scenario: Scenario, journal: Journal, sandbox: Sandbox) -> Iterator[tuple[str, Fate]]:
    held = {record.imei: record.licenses for record in sandbox.books.records()}
    for batch in scenario.batches:
        attempts_of_batch = list(journal.attempts(batches=range(batch.batch_id, batch.batch_id + 1)))
        of_step = {step: [a for a in attempts_of_batch if a.step == step] for step in Step}
        for offset, device in enumerate(batch.devices):
            carried = {
                step: [a for a in attempts if not a.part or offset in parse_ranges(a.part)]
                for step, attempts in of_step.items()
            }
            standings = {step: status_of(attempts) for step, attempts in carried.items() if attempts}
            yield imei_of(device), Fate(standings, carried, held[imei_of(device)])


def _identity(scenario: Scenario) -> RunIdentity:
    planned = sum(len(batch.devices) for batch in scenario.batches)
    return identity(
        run_id=f"simulated-{scenario.seed}",
        action=Action.UNASSIGN,
        rows_read=planned,
        planned=planned,
        batches=len(scenario.batches),
        to_sku=scenario.to_sku,
        restorable=sorted(scenario.restorable),
    )
