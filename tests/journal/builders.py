"""Small journals, and records for them."""

from pathlib import Path
from typing import Any

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.catalog import Action
from batchlic.journal import Intent, Journal, RunIdentity

CREATED_AT = 1_700_000_000_000_000


def identity(**changes: Any) -> RunIdentity:  # noqa: ANN401 - any field of an identity
    fields: dict[str, Any] = {
        "run_id": "run-1",
        "action": Action.ASSIGN,
        "carrier": "sandbox",
        "job": {"name": "test"},
        "plan_sha256": "",
        "sources": [("fleet.csv", 10)],
        "rows_read": 10,
        "rejected": {},
        "planned": 10,
        "batches": 1,
    }
    return RunIdentity(**fields | changes)


def new_journal(folder: Path, **changes: Any) -> Journal:  # noqa: ANN401 - any field of an identity
    return Journal.create(folder / "journal.db", identity(**changes), created_at=CREATED_AT)


def intent(batch_id: int = 1, **changes: Any) -> Intent:  # noqa: ANN401 - any field of an intent
    fields: dict[str, Any] = {
        "batch_id": batch_id,
        "part": "",
        "x_request_id": "1-0123",
        "attempt": 1,
        "action": Action.ASSIGN,
        "device_count": 10,
        "request_sha256": "ab" * 32,
        "pace_rps": None,
        "started_at": CREATED_AT,
    }
    return Intent(**fields | changes)


ACCEPTED = Answer(outcome=Outcome.ACCEPTED, http_status=200, request_id="request-1")
REFUSED = Answer(outcome=Outcome.REFUSED, http_status=400, error_code="INPUT_INVALID.DeviceState.Invalid")
AMBIGUOUS = Answer(outcome=Outcome.AMBIGUOUS, http_status=502)
THROTTLED = Answer(outcome=Outcome.THROTTLED, http_status=429, retry_after_s=1.5)
