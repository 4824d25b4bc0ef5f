"""Which parts of a refused batch to send next, so that only the bad devices are left in the end.

Group testing by binary splitting (Dorfman 1943; Hwang 1972): b bad devices among n cost at most about
2·b·(log2(n/b)+1) further requests.
"""

from collections.abc import Awaitable, Callable

from batchlic.carrier.answers import Answer, Blame, Outcome
from batchlic.chunker import Batch

Send = Callable[[Batch], Awaitable[Answer]]


def can_be_split(batch: Batch, answer: Answer) -> bool:
    """Whether sending less than `batch` may get some of its devices through."""
    return answer.outcome is Outcome.REFUSED and answer.blame is not Blame.ACCOUNT and batch.is_divisible


async def bisect(batch: Batch, refusal: Answer, send: Send) -> None:
    """Send parts of a refused batch until each device is in an accepted part or refused alone.

    Devices that the refusal names go alone; without a name the batch is halved. A half is not sent whole
    where it is known to hold the bad device because its sibling got through.
    """
    named = _offsets_of(batch, refusal.named_devices)
    if 0 < len(named) < len(batch.offsets):
        for offset in named:
            await send(batch.take([offset]))
        await _send_and_isolate(batch.take(set(batch.offsets) - named), send)
        return
    middle = len(batch.offsets) // 2
    left, right = batch.take(batch.offsets[:middle]), batch.take(batch.offsets[middle:])
    answer = await _send_and_isolate(left, send)
    if answer.outcome is Outcome.ACCEPTED and can_be_split(right, refusal):
        await bisect(right, refusal, send)
    else:
        await _send_and_isolate(right, send)


async def _send_and_isolate(batch: Batch, send: Send) -> Answer:
    answer = await send(batch)
    if can_be_split(batch, answer):
        await bisect(batch, answer, send)
    return answer


def _offsets_of(batch: Batch, identifiers: tuple[str, ...]) -> set[int]:
    return {
        offset
        for offset, device in zip(batch.offsets, batch.devices, strict=True)
        if any(f'"{identifier}"' in device for identifier in identifiers)
    }
