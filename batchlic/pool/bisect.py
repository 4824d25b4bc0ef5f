"""Splits a refused batch until the bad devices are left.

Group testing by binary splitting (Dorfman 1943; Hwang 1972): b bad devices among n cost at most about
2·b·(log2(n/b)+1) more requests.
"""

from collections.abc import Awaitable, Callable

from batchlic.carrier.answers import Answer, Blame, Outcome
from batchlic.chunker import Batch

Send = Callable[[Batch], Awaitable[Answer]]


def can_be_split(batch: Batch, answer: Answer) -> bool:
    """Whether some devices of a refused batch may be accepted in a smaller part."""
    return answer.outcome is Outcome.REFUSED and answer.blame is not Blame.ACCOUNT and batch.is_divisible


async def bisect(batch: Batch, refusal: Answer, send: Send) -> None:
    """Send parts of a refused batch until each device is in an accepted part or was refused alone.

    Devices that the refusal names are sent alone; without names the batch is halved. If the first half is
    accepted, the bad device is in the second one, which is then split without being sent whole.
    """
    named = _offsets_of(batch, refusal.named_devices)
    if 0 < len(named) < len(batch.offsets):
        for offset in named:
            await send(batch.take([offset]))
        await _send_and_bisect(batch.take(set(batch.offsets) - named), send)
        return
    middle = len(batch.offsets) // 2
    left, right = batch.take(batch.offsets[:middle]), batch.take(batch.offsets[middle:])
    answer = await _send_and_bisect(left, send)
    if answer.outcome is Outcome.ACCEPTED and can_be_split(right, refusal):
        await bisect(right, refusal, send)
    else:
        await _send_and_bisect(right, send)


async def _send_and_bisect(batch: Batch, send: Send) -> Answer:
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
