"""Which column of an inventory holds what: by --column, by the aliases of its header, or by content."""

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence

from batchlic.errors import InventoryError
from batchlic.reader.options import IDENTIFIERS, ReadOptions, Role

_NUMBER = "(number|no|nr|id|code|name)?"
ALIASES: dict[Role, re.Pattern[str]] = {
    Role.IMEI: re.compile(f"(device|modem|equipment|primary)?imei(1|sv|meid|device)?{_NUMBER}"),
    Role.ICCID: re.compile(
        f"(device)?(sim)?u?icc(id)?(sim)?{_NUMBER}|(device)?sim(card)?(serial(number|no|nr)?)?{_NUMBER}"
    ),
    Role.ACCOUNT: re.compile(f"(billing|carrier|customer)?(account|acct){_NUMBER}"),
    Role.SKU: re.compile(f"(licen[cs]e)?sku{_NUMBER}"),
}
"""Header spellings per role, as `fold` leaves them."""

_HIDDEN = re.compile(r"[\W_]+")


def fold(header: str) -> str:
    """A header without case, punctuation, spaces and marks that nobody sees."""
    return _HIDDEN.sub("", unicodedata.normalize("NFKC", header)).casefold()


def by_header(name: str, headers: Sequence[str], wanted: Mapping[str, str]) -> dict[Role, int]:
    """Position of the column for each role that the header, or `wanted` (role to column), gives one.

    Raises InventoryError where two columns fit one role, or a wanted one is not there.
    """
    found = {Role(role): _named(name, headers, role, column) for role, column in wanted.items()}
    folded = [fold(header) for header in headers]
    for role in Role:
        if role in found:
            continue
        fits = [
            at
            for at, header in enumerate(folded)
            if ALIASES[role].fullmatch(header) and at not in found.values()
        ]
        if len(fits) > 1:
            raise InventoryError(
                f"{name}: two columns could be the {role}: {_listed(headers, fits)}; "
                f"say which by its position, such as --column {role}={fits[0] + 1}"
            )
        found.update(dict.fromkeys([role], fits[0]) if fits else {})
    return found


def _named(name: str, headers: Sequence[str], role: str, column: str) -> int:
    for same in (str, fold):
        at = [index for index, header in enumerate(headers) if same(header) == same(column)]
        if len(at) == 1:
            return at[0]
        if len(at) > 1:
            raise InventoryError(
                f"{name}: two columns are called {column!r}: {_listed(headers, at)}; "
                f"give the position: --column {role}={at[0] + 1}"
            )
    if column.isdecimal() and 1 <= int(column) <= len(headers):
        return int(column) - 1
    close = difflib.get_close_matches(column, headers, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise InventoryError(
        f"{name}: there is no column {column!r} for the {role}{hint} The columns are "
        f"{_listed(headers, range(len(headers)))}"
    )


def no_identifier(name: str, headers: Sequence[str], sample: Sequence[Sequence[str]] = ()) -> InventoryError:
    """The error for a file in which no column is known to hold an identifier."""
    hints = [
        f"; column {at + 1} looks like it: --column {role}={at + 1}"
        for at in range(len(headers))
        for role in IDENTIFIERS
        if _mostly(role, [row[at] for row in sample if at < len(row)])
    ]
    return InventoryError(
        f"{name}: no column is known to hold IMEIs or ICCIDs; its columns are "
        f"{_listed(headers, range(len(headers)))}; name one with --column imei=HEADER or "
        f"--column iccid=HEADER (or by position, from 1){''.join(hints[:1])}"
    )


def _listed(headers: Sequence[str], at: Sequence[int]) -> str:
    shown = [f"{index + 1} {headers[index][:40]!r}" for index in at[:20]]
    return ", ".join(shown) + (f" and {len(at) - 20} more" if len(at) > 20 else "")


_LOOKS: dict[Role, re.Pattern[str]] = {
    Role.IMEI: re.compile(r"\d{15}(\d)?"),
    Role.ICCID: re.compile(r"89\d{16,18}F?", re.IGNORECASE),
}
_ACCOUNT = re.compile(r"\d{10}-\d{5}")
_DECORATION = re.compile(r"[\s\-.='\"]")


def by_content(name: str, records: Sequence[Sequence[str]], options: ReadOptions) -> dict[Role, int]:
    """Position of the column for each role, in a file without header, by what most of its cells look like."""
    positions = [str(position + 1) for position in range(len(records[0]))]
    found = {Role(role): _named(name, positions, role, column) for role, column in options.columns.items()}
    columns = [[record[at] for record in records if at < len(record)] for at in range(len(positions))]
    for role in Role:
        if role in found:
            continue
        fits = [
            at
            for at, cells in enumerate(columns)
            if at not in found.values() and _mostly(role, cells, options)
        ]
        if len(fits) > 1:
            raise InventoryError(
                f"{name}: the file has no header, and its columns {', '.join(positions[at] for at in fits)} "
                f"all look like the {role}; say which with --column {role}={positions[fits[0]]}"
            )
        found.update(dict.fromkeys([role], fits[0]) if fits else {})
    if not any(role in found for role in IDENTIFIERS):
        raise no_identifier(name, records[0])
    return found


def looks_like_data(record: Sequence[str]) -> bool:
    """Whether a first record can't be a header, for it holds an identifier."""
    return any(_looks(role, cell) for cell in record for role in IDENTIFIERS)


def _mostly(role: Role, cells: Sequence[str], options: ReadOptions | None = None) -> bool:
    return 2 * sum(_looks(role, cell, options) for cell in cells) > sum(map(bool, cells))


def _looks(role: Role, cell: str, options: ReadOptions | None = None) -> bool:
    if role is Role.SKU:
        return options is not None and cell in options.skus
    if role is Role.ACCOUNT or _ACCOUNT.fullmatch(cell):
        return role is Role.ACCOUNT and _ACCOUNT.fullmatch(cell) is not None
    return _LOOKS[role].fullmatch(_DECORATION.sub("", cell)) is not None
