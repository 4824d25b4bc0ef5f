"""Tells from the keys around a list of devices whether it is one page of a longer list."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from batchlic.errors import InventoryError
from batchlic.reader.columns.headers import fold

_FLAGS = frozenset(
    {"hasmoredata", "hasmore", "hasmorepages", "hasnextpage", "hasnext", "moreavailable", "continues"}
)
_NEXT = frozenset(
    {"next", "nexttoken", "nextcursor", "nextpage", "nextpagetoken", "nextpageurl", "nextpageuri", "nexturl"}
    | {"nexturi", "nextlink", "odatanextlink"}
)
_TOTALS = frozenset(
    {"count", "total", "totalcount", "totalresults", "totalrows", "totalrecords", "totalelements"}
    | {"totalsize", "resulttotalrows"}
)
"""Folded keys that say that there are more devices: by true, by the place of the next page, by a number."""
_AROUND = frozenset({"meta", "metadata", "pagination", "paging", "page", "pageinfo", "links"})
"""Folded keys of objects that describe the page."""


@dataclass(slots=True)
class Pages:
    """The pages of one text. `last`: the keys around the list of the last one; `rows`: the rows of all."""

    last: Mapping[str, object] = field(default_factory=dict)
    rows: int = 0

    def notes(self, name: str) -> list[str]:
        """Notes that the text called `name` seems to lack devices.

        Raises InventoryError if its last page says so beyond doubt: a sync would remove their licenses.
        """
        keys = list(_keys(self.last))
        flags = (key for key, value in keys if fold(key) in _FLAGS and str(value).lower() == "true")
        if flag := next(flags, None):
            raise InventoryError(
                f"{name}: {flag!r} is true: this is one page of a longer list. Append the other pages, or "
                f"set {flag!r} to false if the list is complete"
            )
        return [
            *(f"{name}: {key!r} names a next page" for key, value in keys if _is_next(key, value)),
            *(
                f"{name}: {key!r} is {_number(value):,}, but the list has {self.rows:,} rows"
                for key, value in keys
                if fold(key) in _TOTALS and _number(value) > self.rows
            ),
        ]


def _keys(value: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """The keys of an object, and of those in it, such as `meta`."""
    for key, inner in value.items():
        yield key, inner
        if isinstance(inner, dict) and fold(key) in _AROUND:
            yield from inner.items()


def _is_next(key: str, value: object) -> bool:
    return fold(key) in _NEXT and bool(any(value.values()) if isinstance(value, dict) else value)


def _number(value: object) -> int:
    return int(value) if isinstance(value, int | str) and str(value).isdecimal() else 0
