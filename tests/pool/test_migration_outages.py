"""Refusals in migrations: an outage fails no device, and no device waits for another between two steps."""

import random
from collections.abc import Sequence

import pytest

from batchlic.carrier.answers import Answer, Blame, Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import Batch, DeviceStatus, Step
from batchlic.pool.parked import MOST_STUCK
from batchlic.pool.remaining import BATCHES_PER_READ
from batchlic.pool.suspicion import PATIENCE_S
from tests.pool.builders import ACCOUNT, AMBIGUOUS, BAD_ACCOUNT, BAD_DEVICE, REFUSED, batch, identifier
from tests.pool.virtual_migration import NEW, OLD, MigrationScript, StepRequest, World
from tests.writer.builders import JournaledAttempt

NOT_FOUND = Answer(outcome=Outcome.REFUSED, blame=Blame.UNKNOWN, http_status=404, error_code="404")
NOT_ASSIGNED = Answer(
    outcome=Outcome.REFUSED, blame=Blame.UNKNOWN, error_code="REQUEST_FAILED.LicenseNotAssigned"
)
NONE_LEFT = Answer(
    outcome=Outcome.REFUSED, blame=Blame.ACCOUNT, error_code="REQUEST_FAILED.LicenseNotAvailable"
)
UNASSIGN_FIRST = {ACCOUNT: 0}
ORDERS = pytest.mark.parametrize("spare", [UNASSIGN_FIRST, {}], ids=["unassign-first", "assign-first"])
SEEDS = pytest.mark.parametrize("seed", range(12))


def plan(batches: int, size: int) -> list[Batch]:
    return [batch(size, batch_id=number + 1, first=size * number) for number in range(batches)]


def refusing(refusal: Answer, action: Action, sku: str, *devices: int) -> MigrationScript:
    bad = set(map(identifier, devices))
    return lambda request: (
        refusal if (request.action, request.sku) == (action, sku) and bad & {*request.devices} else None
    )


@SEEDS
@ORDERS
def test_an_outage_at_any_moment_fails_only_bad_devices(seed: int, spare: dict[str, int]) -> None:
    dice = random.Random(seed)
    batches, size = dice.choice([2, 8, 20]), dice.choice([1, 4, 10])
    bad = {identifier(n) for n in dice.sample(range(batches * size), dice.choice([0, 1, 2]))}
    begins, seconds = dice.uniform(0, 0.04 * batches), dice.choice([0.5, 1, 3, 30, 100])
    refusal = dice.choice([NOT_FOUND, REFUSED, BAD_ACCOUNT])

    def script(request: StepRequest) -> Answer | None:
        if begins <= request.at < begins + seconds:
            return refusal
        return BAD_DEVICE if bad.intersection(request.devices) else None

    world = World(plan(batches, size), script)
    sessions = 0
    while sessions == 0 or world.stopped is not None:
        sessions += 1
        assert sessions <= 6, world.stopped
        restorable = dice.choice([(), (OLD, NEW)])
        world.run(workers=dice.choice([1, 3, 8, 20]), spare=spare, restorable=restorable)
    assert (world.moved, world.failed) == (batches * size - len(bad), len(bad))
    assert all(held == [OLD if device in bad else NEW] for device, held in world.licenses.items())


@pytest.mark.slow
@ORDERS
@pytest.mark.parametrize(
    ("restorable", "refusal", "workers", "seconds"),
    [
        *(((), refusal, 8, seconds) for refusal in (NOT_FOUND, BAD_ACCOUNT) for seconds in (1, 3, 30)),
        *(((OLD, NEW), NOT_FOUND, workers, seconds) for workers, seconds in ((8, 1), (20, 3), (8, 30))),
    ],
)
def test_a_short_outage_at_the_first_second_step_stops_and_undoes_nothing(
    restorable: tuple[str, ...], refusal: Answer, workers: int, seconds: int, spare: dict[str, int]
) -> None:
    began: list[float] = []
    second = Action.ASSIGN if spare else Action.UNASSIGN

    def script(request: StepRequest) -> Answer | None:
        if not began and request.action is second:
            began.append(request.at)
        return refusal if began and request.at < began[0] + seconds else None

    world = World(plan(20, 10), script)
    world.run(workers=workers, spare=spare, restorable=restorable)
    assert (world.moved, world.failed, world.stopped) == (200, 0, None)


@pytest.mark.parametrize("bad", [{0}, {7}, {2, 5}, {4, 5, 6, 7}])
@pytest.mark.parametrize("commits", [None, *range(1, 16, 2)])
def test_no_device_waits_without_license_for_a_refused_one(bad: set[int], commits: int | None) -> None:
    world = World(plan(1, 8), refusing(REFUSED, Action.UNASSIGN, OLD, *bad))
    if commits is not None:
        world.run(spare=UNASSIGN_FIRST, commits=commits)
    world.run(spare=UNASSIGN_FIRST)
    assert world.without_license() == set()
    assert world.failed == 0
    assert commits is not None or world.moved == 8 - len(bad)  # the kill leaves a request in doubt


@pytest.mark.parametrize("batches", [6, 10])
def test_stops_for_refused_devices_leave_none_of_the_others_without_license(batches: int) -> None:
    bad = [8 * number + place for number in range(batches) for place in (4, 5, 6, 7)]
    world = World(plan(batches, 8), refusing(REFUSED, Action.UNASSIGN, OLD, *bad))
    for commits in (5 * batches, 7 * batches, None, None):
        world.run(spare=UNASSIGN_FIRST, commits=commits, workers=batches)
    assert world.without_license() == set()


@pytest.mark.parametrize("outcome", ["accepted", "ambiguous", None])
@pytest.mark.parametrize("offsets", [None, [1], [0, 3]])
@pytest.mark.parametrize("batches", [8, BATCHES_PER_READ + 1])
def test_devices_without_license_go_on_before_refusals_stop_the_run(
    batches: int, offsets: Sequence[int] | None, outcome: str | None
) -> None:
    first = 4 * (batches - 1)
    gone = {identifier(first + offset) for offset in offsets or range(4)}

    def script(request: StepRequest) -> Answer | None:
        return NOT_FOUND if request.sku == OLD and not gone.issuperset(request.devices) else None

    unassign = JournaledAttempt(batches, offsets, outcome, step=Step.UNASSIGN)
    world = World(plan(batches, 4), script, earlier=[unassign], licenses={device: [] for device in gone})
    world.run(spare=UNASSIGN_FIRST)
    assert world.stopped is not None
    assert {device for device, held in world.licenses.items() if held == [NEW]} == gone


@pytest.mark.parametrize("restorable", [(), (OLD, NEW)])
@pytest.mark.parametrize("workers", [1, MOST_STUCK - 1, 2 * MOST_STUCK])
def test_stuck_batches_hold_no_device_that_is_between_two_steps_already(
    workers: int, restorable: tuple[str, ...]
) -> None:
    batches, bad = 2 * MOST_STUCK + 2, range(MOST_STUCK + 1)
    unassigned = [
        JournaledAttempt(number + 1, None, "accepted", step=Step.UNASSIGN) for number in range(batches)
    ]
    world = World(
        plan(batches, 1),
        refusing(NOT_FOUND, Action.ASSIGN, NEW, *bad),
        earlier=unassigned,
        licenses={identifier(device): [] for device in range(batches)},
    )
    world.run(workers=workers, spare=UNASSIGN_FIRST, restorable=restorable)
    assert (world.moved, world.stopped) == (batches - len(bad), None)
    assert world.without_license() == (set() if restorable else set(map(identifier, bad)))


@ORDERS
@pytest.mark.parametrize(("batches", "size"), [(4, 1), (4, 3), (6, 1), (6, 4)])
def test_a_clear_that_is_refused_again_and_again_finds_nothing_to_clear(
    batches: int, size: int, spare: dict[str, int]
) -> None:
    lost = [True]

    def script(request: StepRequest) -> Answer | None:
        if lost and (request.action, request.sku) == (Action.ASSIGN, NEW):
            lost.clear()
            return AMBIGUOUS
        return NOT_ASSIGNED if request.is_clear else None

    world = World(plan(batches, size), script)
    world.run(spare=spare)
    assert (world.moved, world.stopped) == (batches * size, None)
    assert all(held == [NEW] for held in world.licenses.values())
    assert world.now <= 40


@pytest.mark.parametrize("refusal", [NONE_LEFT, NOT_FOUND])
def test_a_clear_is_not_over_while_no_unassign_is_accepted(refusal: Answer) -> None:
    executed = [True]

    def script(request: StepRequest) -> Answer | None:
        if request.action is Action.UNASSIGN:
            return refusal
        if executed:
            executed.clear()
            for device in request.devices:
                world.licenses[device].append(NEW)
            return AMBIGUOUS
        return None

    world = World(plan(8, 2), script)
    world.run(workers=2)
    assert world.stopped is not None
    assert all(held.count(NEW) <= 1 for held in world.licenses.values())
    assert world.now <= 3 * PATIENCE_S


@pytest.mark.slow
@ORDERS
@pytest.mark.parametrize("seconds", [40, 100, 300])
@pytest.mark.parametrize("refusal", [NOT_FOUND, NONE_LEFT, NOT_ASSIGNED])
@pytest.mark.parametrize(("batches", "size"), [(2, 1), (3, 1), (4, 3), (8, 2)])
def test_a_refused_clear_and_an_outage_give_no_second_license(
    batches: int, size: int, refusal: Answer, seconds: float, spare: dict[str, int]
) -> None:
    """Once the clear was refused, an unassign is accepted, and the carrier refuses everything for a while."""
    executed: list[float] = []
    clears: list[float] = []
    began: list[float] = []

    def script(request: StepRequest) -> Answer | None:
        if not executed and request.sku == NEW:
            executed.append(request.at)
            for device in request.devices:
                world.licenses[device].append(NEW)
            return AMBIGUOUS
        if began and request.at < began[0] + seconds:
            return refusal
        if request.is_clear and not clears:
            clears.append(request.at)
            return refusal
        if clears and not began and request.action is Action.UNASSIGN and not request.is_clear:
            began.append(request.at + 0.001)
        return None

    world = World(plan(batches, size), script)
    for _ in range(3):
        world.run(spare=spare)
        assert all(held.count(NEW) <= 1 for held in world.licenses.values())
    assert began


@ORDERS
@pytest.mark.parametrize("refusal", [NOT_FOUND, NONE_LEFT, NOT_ASSIGNED])
@pytest.mark.parametrize(("batches", "size"), [(4, 1), (6, 3)])
def test_a_clear_in_doubt_that_is_refused_next_is_sent_on_once(
    batches: int, size: int, refusal: Answer, spare: dict[str, int]
) -> None:
    """Sent twice side by side, it would be followed by two assigns: a second license."""
    answers = iter([AMBIGUOUS, AMBIGUOUS, refusal])

    def script(request: StepRequest) -> Answer | None:
        is_about_new = request.sku == NEW and identifier(0) in request.devices
        return next(answers, None) if is_about_new else None

    world = World(plan(batches, size), script)
    world.run(workers=2, spare=spare)
    assert (world.moved, world.stopped) == (batches * size, None)
    assert all(held == [NEW] for held in world.licenses.values())


@pytest.mark.parametrize("refusal", [NONE_LEFT, NOT_FOUND])
@pytest.mark.parametrize("bad", [{3}, {0, 9}, {18, 19}])
def test_a_restore_that_is_refused_again_and_again_fails(refusal: Answer, bad: set[int]) -> None:
    def script(request: StepRequest) -> Answer | None:
        if request.action is Action.ASSIGN and request.sku == OLD:
            return refusal
        return refusing(BAD_DEVICE, Action.ASSIGN, NEW, *bad)(request)

    world = World(plan(10, 2), script)
    world.run(workers=4, spare=UNASSIGN_FIRST, restorable=(OLD, NEW))
    if world.stopped is None:
        assert (world.moved, world.failed) == (20 - len(bad), len(bad))
        assert world.without_license() == set(map(identifier, bad))
    else:  # the last batch: nothing else is accepted after its refusal
        assert bad == {18, 19}
    assert world.now <= 2 * PATIENCE_S


@pytest.mark.parametrize("refusal", [NONE_LEFT, NOT_FOUND])
def test_one_explained_refusal_is_enough_for_a_restore(refusal: Answer) -> None:
    def script(request: StepRequest) -> Answer | None:
        if request.action is Action.ASSIGN and request.sku == OLD:
            return refusal
        return refusing(BAD_DEVICE, Action.ASSIGN, NEW, 0)(request)

    world = World(plan(2, 1), script)
    world.run(spare=UNASSIGN_FIRST, restorable=(OLD, NEW))
    assert (world.moved, world.failed, world.stopped) == (1, 1, None)


@pytest.mark.parametrize("refusal", [NONE_LEFT, REFUSED, BAD_ACCOUNT])
@pytest.mark.parametrize(("batches", "size", "workers"), [(1, 1, 1), (1, 8, 1), (5, 4, 2), (30, 10, 8)])
def test_devices_get_their_old_license_back_if_the_new_one_is_always_refused(
    refusal: Answer, batches: int, size: int, workers: int
) -> None:
    def script(request: StepRequest) -> Answer | None:
        return refusal if (request.action, request.sku) == (Action.ASSIGN, NEW) else None

    world = World(plan(batches, size), script)
    world.run(workers=workers, spare=UNASSIGN_FIRST, restorable=(OLD, NEW))
    assert all(held == [OLD] for held in world.licenses.values())
    assert world.statuses(Step.ASSIGN).count(DeviceStatus.FAILED) <= max(100, size) + workers * size * 2


@pytest.mark.slow
@pytest.mark.parametrize("restorable", [(), (OLD, NEW)])
@pytest.mark.parametrize("refusal", [NONE_LEFT, REFUSED])
def test_few_batches_lose_the_old_license_if_the_new_one_is_refused(
    restorable: tuple[str, ...], refusal: Answer
) -> None:
    most = 0

    def script(request: StepRequest) -> Answer | None:
        nonlocal most
        most = max(most, len(world.without_license()))
        return refusal if (request.action, request.sku) == (Action.ASSIGN, NEW) else None

    world = World(plan(200, 10), script)
    world.run(workers=4, spare=UNASSIGN_FIRST, restorable=restorable)
    assert world.stopped is not None
    assert 0 < most <= (MOST_STUCK + 4) * 10


def test_an_empty_request_is_never_sent() -> None:
    lost = [True]

    def script(request: StepRequest) -> Answer | None:
        if lost and request.action is Action.ASSIGN:
            lost.clear()
            return AMBIGUOUS
        return NOT_ASSIGNED if request.is_clear else None

    world = World(plan(3, 2), script)
    world.run()
    assert all(request.devices for request in world.requests)
