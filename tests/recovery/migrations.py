"""Migrations against a sandbox: jobs, the licenses that devices hold, and interruptions."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from batchlic.carrier import client
from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.catalog import Action
from batchlic.carrier.client import Submission
from batchlic.errors import ExitCode, StoppedEarly
from batchlic.job import Job
from batchlic.ledger import Ledger
from batchlic.ledger.files import count_devices
from batchlic.pool.lane import Lane, Lead
from batchlic.pool.remaining import Delivery
from tests.recovery import builders
from tests.recovery.builders import ACCOUNT, FLEXIBLE, LIFETIME, Carrier, fleet, job, run

NEW = "TS-BUNDLE-KTO-SIMSEC-MRC"


def moving(inventory: Path, to_sku: str = NEW, **license: Any) -> Job:  # noqa: ANN401 - any key of the table
    skus = {"from_sku": FLEXIBLE, "to_sku": to_sku, "consent_lifetime": to_sku == LIFETIME}
    return job(inventory, action="migrate", license={"account": ACCOUNT, **skus, **license})


def with_limits(given: Job, **limits: Any) -> Job:  # noqa: ANN401 - any key of the table
    return given.model_copy(update={"limits": given.limits.model_copy(update=limits)})


def onboarded(folder: Path, at: Carrier) -> Path:
    """The inventory of a fleet that has the old license."""
    inventory = fleet(folder / "fleet.csv")
    assert run(folder / "onboarding", at, job(inventory)).exit_code == ExitCode.OK
    return inventory


def held(at: Carrier) -> Counter[tuple[tuple[str, int], ...]]:
    """The number of devices by the licenses that they hold."""
    return Counter(tuple(sorted(licenses.items())) for licenses in at.licenses().values())


def known(folder: Path) -> dict[str, tuple[int, int, int]]:
    """By SKU, how many devices are assigned, unassigned and in doubt by the ledger."""
    with closing(Ledger(builders.STORE or folder / "ledger.db")) as ledger:
        return {
            found.sku_number: (found.assigned, found.unassigned, found.in_doubt)
            for found in count_devices(ledger)
        }


@contextmanager
def losing_an_answer_about(sku: str) -> Iterator[None]:
    """Lose the answer to the first request about the SKU, after its execution."""
    submit, lost = client.Carrier.submit, list[Answer]()

    async def lose(self: client.Carrier, submission: Submission) -> Answer:
        answer = await submit(self, submission)
        if lost or f'"{sku}"'.encode() not in (submission.body or b""):
            return answer
        lost.append(answer)
        return Answer(outcome=Outcome.AMBIGUOUS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client.Carrier, "submit", lose)
        yield


@contextmanager
def stopping_at(action: Action, sku: str) -> Iterator[None]:
    """Stop runs before a request with this action on the SKU."""
    deliver = Lane._deliver

    async def stop(self: Lane, delivery: Delivery, turn: Lead) -> list[Delivery]:
        if (delivery.batch.action, delivery.batch.sku_number) == (action, sku):
            raise StoppedEarly("stopped")
        return await deliver(self, delivery, turn)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lane, "_deliver", stop)
        yield


def interrupted(folder: Path, at: Carrier, given: Job) -> None:
    """Leave the files of a run that was killed before its first request."""

    def die(*_: object, **__: object) -> None:
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchlic.runs.run.submit", die)
        with pytest.raises(SystemExit):
            run(folder, at, given)
