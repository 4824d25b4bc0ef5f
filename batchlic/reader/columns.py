"""Finds the column for each role: by --column, by the aliases of its header, or by content."""

import difflib
import re
from collections.abc import Mapping, Sequence

from batchlic.errors import InventoryError
from batchlic.reader.headers import fold
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


def by_header(name: str, headers: Sequence[str], named: Mapping[str, str]) -> dict[Role, int]:
    """Position of the column for each role that has one, by `named` (role to column) or by the headers.

    Raises InventoryError if two columns fit one role, or if a named column does not exist.
    """
    found = {Role(role): _position(name, headers, role, column) for role, column in named.items()}
    folded = [fold(header) for header in headers]
    for role in Role:
        if role in found:
            continue
        candidates = [
            position
            for position, header in enumerate(folded)
            if ALIASES[role].fullmatch(header) and position not in found.values()
        ]
        if len(candidates) > 1:
            raise InventoryError(
                f"{name}: two columns could be the {role}: {_listed(headers, candidates)}; "
                f"choose one by its position, such as --column {role}={candidates[0] + 1}"
            )
        if candidates:
            found[role] = candidates[0]
    return found


def _position(name: str, headers: Sequence[str], role: str, column: str) -> int:
    """Position of a column named by its header or its 1-based position."""
    for normalize in (str, fold):
        positions = [at for at, header in enumerate(headers) if normalize(header) == normalize(column)]
        if len(positions) == 1:
            return positions[0]
        if len(positions) > 1:
            raise InventoryError(
                f"{name}: two columns are called {column!r}: {_listed(headers, positions)}; "
                f"give the position: --column {role}={positions[0] + 1}"
            )
    if column.isdecimal() and 1 <= int(column) <= len(headers):
        return int(column) - 1
    close = difflib.get_close_matches(column, headers, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise InventoryError(
        f"{name}: there is no column {column!r} for the {role}{hint} The columns are "
        f"{_listed(headers, range(len(headers)))}"
    )


def no_identifier_error(
    name: str, headers: Sequence[str], sample: Sequence[Sequence[str]] = ()
) -> InventoryError:
    """The error for a file without a known identifier column.

    The error suggests a column if most of its cells in the rows of `sample` look like identifiers.
    """
    hints = [
        f"; column {position + 1} looks like {role.upper()}s: --column {role}={position + 1}"
        for position in range(len(headers))
        for role in IDENTIFIERS
        if _most_look_like(role, [row[position] for row in sample if position < len(row)])
    ]
    return InventoryError(
        f"{name}: no known header for IMEIs or ICCIDs; the columns are "
        f"{_listed(headers, range(len(headers)))}; name one with --column imei=HEADER or "
        f"--column iccid=HEADER (or by position, from 1){''.join(hints[:1])}"
    )


def _listed(headers: Sequence[str], positions: Sequence[int]) -> str:
    shown = [f"{position + 1} {headers[position][:40]!r}" for position in positions[:20]]
    return ", ".join(shown) + (f" and {len(positions) - 20} more" if len(positions) > 20 else "")


_IDENTIFIER_FORMS: dict[Role, re.Pattern[str]] = {
    Role.IMEI: re.compile(r"\d{15}(\d)?"),
    Role.ICCID: re.compile(r"89\d{16,18}F?", re.IGNORECASE),
}
_ACCOUNT_FORM = re.compile(r"\d{10}-\d{5}")
_DECORATION = re.compile(r"[\s\-.='\"]")


def by_content(name: str, records: Sequence[Sequence[str]], options: ReadOptions) -> dict[Role, int]:
    """Position of the column for each role in a file without header, by the form of most cells.

    Raises InventoryError if two columns look like one role, or if no column looks like an identifier.
    """
    numbers = [str(position + 1) for position in range(len(records[0]))]
    found = {Role(role): _position(name, numbers, role, column) for role, column in options.columns.items()}
    columns = [[record[at] for record in records if at < len(record)] for at in range(len(numbers))]
    for role in Role:
        if role in found:
            continue
        candidates = [
            position
            for position, cells in enumerate(columns)
            if position not in found.values() and _most_look_like(role, cells, options)
        ]
        if len(candidates) > 1:
            listed = ", ".join(numbers[position] for position in candidates)
            raise InventoryError(
                f"{name}: the file has no header, and its columns {listed} "
                f"all look like the {role}; choose one with --column {role}={numbers[candidates[0]]}"
            )
        if candidates:
            found[role] = candidates[0]
    if not any(role in found for role in IDENTIFIERS):
        raise no_identifier_error(name, records[0])
    return found


def looks_like_data(record: Sequence[str]) -> bool:
    """Whether a first record holds an identifier, and so is not a header."""
    return any(_looks_like(role, cell) for cell in record for role in IDENTIFIERS)


def _most_look_like(role: Role, cells: Sequence[str], options: ReadOptions | None = None) -> bool:
    return 2 * sum(_looks_like(role, cell, options) for cell in cells) > sum(map(bool, cells))


def _looks_like(role: Role, cell: str, options: ReadOptions | None = None) -> bool:
    if role is Role.SKU:
        return options is not None and cell in options.skus
    if role is Role.ACCOUNT or _ACCOUNT_FORM.fullmatch(cell):
        return role is Role.ACCOUNT and _ACCOUNT_FORM.fullmatch(cell) is not None
    return _IDENTIFIER_FORMS[role].fullmatch(_DECORATION.sub("", cell)) is not None
