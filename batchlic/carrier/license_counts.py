"""The license counts of one SKU in an answer that may list it several times, or in another spelling."""

from collections.abc import Iterable, Sequence

from batchlic.carrier.messages import Subscription


def total_of(listed: Iterable[Subscription], sku: str) -> Subscription | None:
    """The sum of the entries of a SKU; None if there is none.

    An entry that is listed twice counts once. A count is unknown if one of the entries lacks it. A negative
    number of available licenses means that more are assigned than were bought, so none is available; any
    other negative count is unknown.
    """
    entries = list(dict.fromkeys(one for one in listed if _key(one.sku_number) == _key(sku)))
    if not entries:
        return None
    available = _sum([one.license_available for one in entries])
    return Subscription(
        sku,
        entries[0].license_type,
        _not_negative([one.license_purchased for one in entries]),
        _not_negative([one.license_assigned for one in entries]),
        None if available is None else max(available, 0),
    )


def _key(sku: str) -> str:
    return sku.strip().casefold()


def _not_negative(counts: Sequence[int | None]) -> int | None:
    return _sum([None if count is not None and count < 0 else count for count in counts])


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
