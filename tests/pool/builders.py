"""Batches of a few devices, and answers to them."""

from batchlic.carrier.answers import Answer, Blame, Outcome
from batchlic.chunker import Batch

ACCOUNT, FLEXIBLE, LIFETIME = "0000123456-00001", "SIMSec-IoT", "SIMSec-IoT-Lt"


def identifier(offset: int) -> str:
    return f"8645080300{offset:05}"


def batch(devices: int = 4, *, batch_id: int = 1, sku: str = FLEXIBLE, account: str = ACCOUNT) -> Batch:
    encoded = [f'{{"deviceIds":[{{"id":"{identifier(o)}","kind":"IMEI"}}]}}' for o in range(devices)]
    return Batch(batch_id, account, sku, ",".join(encoded), range(devices))


def answer(outcome: Outcome, *, blame: Blame | None = None, code: str | None = None) -> Answer:
    return Answer(outcome=outcome, blame=blame, error_code=code)


ACCEPTED = answer(Outcome.ACCEPTED)
REFUSED = answer(Outcome.REFUSED, blame=Blame.UNKNOWN, code="400")
BAD_DEVICE = answer(Outcome.REFUSED, blame=Blame.DEVICE, code="INPUT_INVALID.DeviceState.Invalid")
BAD_ACCOUNT = answer(Outcome.REFUSED, blame=Blame.ACCOUNT, code="REQUEST_FAILED.AccountNotFound")
AMBIGUOUS = answer(Outcome.AMBIGUOUS)
THROTTLED = answer(Outcome.THROTTLED)
UNAVAILABLE = answer(Outcome.UNAVAILABLE)
UNAUTHORIZED = answer(Outcome.UNAUTHORIZED)
