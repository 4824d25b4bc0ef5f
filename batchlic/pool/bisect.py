"""Splits a refused batch until the bad devices are left.

Group testing by binary splitting (Dorfman 1943; Hwang 1972): b bad devices among n cost at most about
2·b·(log2(n/b)+1) more requests.
"""

from collections.abc import Awaitable, Callable

from batchlic.carrier.answers import Outcome
from batchlic.chunker import Batch
from batchlic.pool.verdict import Next, Verdict

Send = Callable[[Batch], Awaitable[Verdict]]


async def bisect(batch: Batch, named_devices: tuple[str, ...], send: Send) -> None:
    """Send parts of a refused batch until each device is in an accepted part or was refused alone.

    `named_devices` are the identifiers that the refusal names. These devices are sent alone; without names
    the batch is halved. If the first half is accepted, the bad device is in the second one, which is then
    split without being sent whole.
    """
    named = _offsets_of(batch, named_devices)
    if 0 < len(named) < len(batch.offsets):
        for offset in named:
            await send(batch.take([offset]))
        await _send_and_bisect(batch.take(set(batch.offsets) - named), send)
        return
    middle = len(batch.offsets) // 2
    left, right = batch.take(batch.offsets[:middle]), batch.take(batch.offsets[middle:])
    verdict = await _send_and_bisect(left, send)
    if verdict.answer.outcome is Outcome.ACCEPTED and right.is_divisible:
        await bisect(right, named_devices, send)
    else:
        await _send_and_bisect(right, send)


async def _send_and_bisect(batch: Batch, send: Send) -> Verdict:
    verdict = await send(batch)
    if verdict.next is Next.SPLIT:
        await bisect(batch, verdict.answer.named_devices, send)
    return verdict


def _offsets_of(batch: Batch, identifiers: tuple[str, ...]) -> set[int]:
    return {
        offset
        for offset, device in zip(batch.offsets, batch.devices, strict=True)
        if any(f'"{identifier}"' in device for identifier in identifiers)
    }
