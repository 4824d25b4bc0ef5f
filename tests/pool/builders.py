"""Batches of a few devices, and answers to them."""

from batchlic.carrier.answers import Answer, Blame, Outcome
from batchlic.chunker import Batch

ACCOUNT, FLEXIBLE, LIFETIME = "0000123456-00001", "SIMSec-IoT", "SIMSec-IoT-Lt"


def identifier(offset: int) -> str:
    return f"8645080300{offset:05}"


def batch(
    devices: int = 4, *, batch_id: int = 1, sku: str = FLEXIBLE, account: str = ACCOUNT, first: int = 0
) -> Batch:
    """A batch whose devices are numbered from `first`."""
    numbers = range(first, first + devices)
    encoded = [f'{{"deviceIds":[{{"id":"{identifier(n)}","kind":"IMEI"}}]}}' for n in numbers]
    return Batch(batch_id, account, sku, ",".join(encoded), range(devices))


def answer(
    outcome: Outcome, *, blame: Blame | None = None, code: str | None = None, is_known: bool = False
) -> Answer:
    return Answer(outcome=outcome, blame=blame, error_code=code, is_known=is_known)


ACCEPTED = answer(Outcome.ACCEPTED)
REFUSED = answer(Outcome.REFUSED, blame=Blame.UNKNOWN, code="400")
BAD_DEVICE = answer(
    Outcome.REFUSED, blame=Blame.DEVICE, code="INPUT_INVALID.DeviceState.Invalid", is_known=True
)
BAD_ACCOUNT = answer(Outcome.REFUSED, blame=Blame.ACCOUNT, code="REQUEST_FAILED.AccountNotFound")
AMBIGUOUS = answer(Outcome.AMBIGUOUS)
THROTTLED = answer(Outcome.THROTTLED)
UNAVAILABLE = answer(Outcome.UNAVAILABLE)
UNAUTHORIZED = answer(Outcome.UNAUTHORIZED)
