"""Finds the column for each role: by --column, as in a known export, by its header, or by content."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from batchlic.errors import InventoryError
from batchlic.reader import profiles
from batchlic.reader.headers import fold, remarks, without_remarks
from batchlic.reader.options import ReadOptions
from batchlic.reader.roles import IDENTIFIERS, LEFT_OUT, Role

_NUMBER = "(number|no|nr|id|code|name)?"


def _spelling(pattern: str) -> Callable[[str], bool]:
    spelled = re.compile(pattern)
    return lambda header: spelled.fullmatch(fold(header)) is not None


def _beside_remarks(pattern: str) -> Callable[[str], bool]:
    spelled = re.compile(pattern)
    return lambda header: spelled.fullmatch(without_remarks(header)) is not None


def _in_remarks(name: str) -> Callable[[str], bool]:
    return lambda header: name in remarks(header)


_IMEI = f"(device|modem|equipment|primary)?imei(1|meid|device)?{_NUMBER}"
_ICCID = f"(device)?(sim)?u?icc(id)?(sim)?{_NUMBER}"
_SIM = f"(device)?sim(card)?(serial(number|no|nr)?)?{_NUMBER}"
_ACCOUNT = f"(billing|carrier|customer)?(account|acct){_NUMBER}"
_SKU = f"(licen[cs]e)?sku{_NUMBER}"

SPELLINGS: Mapping[Role, Sequence[Callable[[str], bool]]] = {
    Role.IMEI: (
        _spelling("imei"),
        _spelling(_IMEI),
        _beside_remarks(_IMEI),
        _in_remarks("imei"),
        _spelling(f"(device)?imeisv{_NUMBER}"),
    ),
    Role.ICCID: (
        _spelling("(full)?iccid(with)?(luhn|checkdigit)"),
        _spelling("iccid"),
        _spelling(_ICCID),
        _beside_remarks(_ICCID),
        _in_remarks("iccid"),
        _spelling(_SIM),
        _beside_remarks(_SIM),
    ),
    Role.ACCOUNT: (_spelling("account"), _spelling(_ACCOUNT), _beside_remarks(_ACCOUNT)),
    Role.SKU: (_spelling("sku"), _spelling(_SKU), _beside_remarks(_SKU)),
}
"""The spellings of a role's header. An earlier spelling wins over a later one."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The position of the column for each role that has one, and notes for the operator."""

    positions: Mapping[Role, int]
    notes: tuple[str, ...] = ()

    @property
    def has_identifier(self) -> bool:
        """Whether a column for the IMEI or the ICCID is found."""
        return any(role in self.positions for role in IDENTIFIERS)


def by_header(
    name: str, headers: Sequence[str], options: ReadOptions, nested: Set[int] = frozenset()
) -> Columns:
    """The columns by `options.columns`, as in a known export, or else by the spelling of headers.

    `nested`: the positions of headers that are paths into nested objects, such as `device.imei`. They are
    read only if they end in `imei` or `iccid`, and no other header fits.

    Raises InventoryError if two columns fit one role equally, or if a named column does not exist.
    """
    found: dict[Role, int] = {}
    done: set[Role] = set()
    for role, column in _named(options):
        done.add(role)
        if column != LEFT_OUT:
            found[role] = _position(name, headers, role, column)
    profile = profiles.named(options.profile) if options.profile else profiles.recognized(headers)
    notes: list[str] = []
    if profile is not None:
        found |= {role: at for role, at in _of_profile(profile, headers).items() if role not in done}
        done |= {*IDENTIFIERS, *profile.left_out}
        read = ", ".join(f"{role} from {headers[at]!r}" for role, at in found.items())
        notes.append(f"{name}: read as an export of {profile.title}: {read}")
    for role in Role:
        taken = {*found.values(), *nested}
        if role not in done and (position := _spelled(name, headers, role, taken)) is not None:
            found[role] = position
    if nested:
        notes.extend(_add_nested(name, headers, nested, found, done))
    return Columns({role: found[role] for role in Role if role in found}, tuple(notes))


def _add_nested(
    name: str, headers: Sequence[str], nested: Set[int], found: dict[Role, int], done: set[Role]
) -> Iterator[str]:
    """Add the identifiers in nested objects, and yield a note for each."""
    for role in IDENTIFIERS:
        paths = [at for at in sorted(nested) if fold(headers[at].rpartition(".")[2]) == role]
        if role in done or role in found or not paths:
            continue
        found[role] = _only(name, headers, role, paths)
        yield f"{name}: {role} from {headers[found[role]]!r}"


def _named(options: ReadOptions) -> Iterator[tuple[Role, str]]:
    for role, column in options.columns.items():
        yield Role(role), column


def _of_profile(profile: profiles.Profile, headers: Sequence[str]) -> dict[Role, int]:
    """The columns of a profile that a file has, and identifiers under their exact names that it adds."""
    positions = {fold(header): position for position, header in reversed(list(enumerate(headers)))}
    added = {role: role.value for role in IDENTIFIERS if role not in profile.left_out}
    columns = {**added, **profile.columns}
    return {role: positions[fold(column)] for role, column in columns.items() if fold(column) in positions}


def names_identifier(headers: Sequence[str], options: ReadOptions) -> bool:
    """Whether any of the headers is one of an identifier: by spelling, as named, or in a known export."""
    named = {fold(column) for role, column in _named(options) if role in IDENTIFIERS}
    return (
        profiles.recognized(headers) is not None
        or not named.isdisjoint(map(fold, headers))
        or any(
            is_spelling(header) or fold(header.rpartition(".")[2]) == role
            for role in IDENTIFIERS
            for is_spelling in SPELLINGS[role]
            for header in headers
        )
    )


def _spelled(name: str, headers: Sequence[str], role: Role, taken: set[int]) -> int | None:
    """The column with the best spelling for a role. Raises InventoryError if two have it."""
    for is_spelling in SPELLINGS[role]:
        fitting = [at for at, header in enumerate(headers) if at not in taken and is_spelling(header)]
        if fitting:
            return _only(name, headers, role, fitting)
    return None


def _only(name: str, headers: Sequence[str], role: Role, fitting: Sequence[int]) -> int:
    """The column that fits a role. Raises InventoryError if several do."""
    if len(fitting) > 1:
        raise InventoryError(
            f"{name}: {len(fitting)} columns could be the {role}: {listed(headers, fitting)}; "
            f"choose one, such as --column {role}={_short_name(headers, fitting[0])}"
        )
    return fitting[0]


def _position(name: str, headers: Sequence[str], role: str, column: str) -> int:
    """Position of a column named by its header or its 1-based position."""
    for normalize in (str, fold):
        positions = [at for at, header in enumerate(headers) if normalize(header) == normalize(column)]
        if len(positions) == 1:
            return positions[0]
        if len(positions) > 1:
            raise InventoryError(
                f"{name}: two columns are called {column!r}: {listed(headers, positions)}; "
                f"give the position: --column {role}={positions[0] + 1}"
            )
    if column.isdecimal() and 1 <= int(column) <= len(headers):
        return int(column) - 1
    close = difflib.get_close_matches(column, headers, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise InventoryError(
        f"{name}: there is no column {column!r} for the {role}{hint} The columns are "
        f"{listed(headers, range(len(headers)))}"
    )


def no_identifier_error(
    name: str, headers: Sequence[str], sample: Sequence[Sequence[str]] = (), where: str = ""
) -> InventoryError:
    """The error for an inventory without a known identifier column.

    The error suggests the columns whose cells, in the rows of `sample`, mostly look like identifiers. `where`
    says which part of the file was searched.
    """
    hints = [
        f"column {position + 1} looks like {role.upper()}s: --column {role}={_short_name(headers, position)}"
        for role in IDENTIFIERS
        for position in range(len(headers))
        if _most_look_like(role, [row[position] for row in sample if position < len(row)])
    ]
    return InventoryError(
        f"{name}: no known header for IMEIs or ICCIDs{where}; the columns are "
        f"{listed(headers, range(len(headers)))}; name one with --column imei=HEADER or "
        f"--column iccid=HEADER (or by position, from 1){''.join(f'; {hint}' for hint in hints[:2])}"
    )


def _short_name(headers: Sequence[str], position: int) -> str:
    """A path into nested objects by its name, any other column by its position."""
    return headers[position] if "." in headers[position] else str(position + 1)


def listed(headers: Sequence[str], positions: Sequence[int]) -> str:
    """Headers with their positions, for messages; at most 20."""
    shown = [f"{position + 1} {headers[position][:40]!r}" for position in positions[:20]]
    return ", ".join(shown) + (f" and {len(positions) - 20} more" if len(positions) > 20 else "")


_IDENTIFIER_FORMS: dict[Role, re.Pattern[str]] = {
    Role.IMEI: re.compile(r"\d{15}(\d)?"),
    Role.ICCID: re.compile(r"89\d{16,18}F?", re.IGNORECASE),
}
_ACCOUNT_FORM = re.compile(r"\d{10}-\d{5}")
_DECORATION = re.compile(r"[\s\-.='\"\0\ufeff]")


def by_content(name: str, records: Sequence[Sequence[str]], options: ReadOptions) -> Columns:
    """The columns of a file without header, by the form of most cells.

    Raises InventoryError if two columns look like one role, or if no column looks like an identifier.
    """
    numbers = [str(position + 1) for position in range(max(map(len, records)))]
    left_out = {role for role, column in _named(options) if column == LEFT_OUT}
    found = {
        role: _position(name, numbers, role, column)
        for role, column in _named(options)
        if role not in left_out
    }
    columns = [[record[at] for record in records if at < len(record)] for at in range(len(numbers))]
    for role in Role:
        if role in found or role in left_out:
            continue
        candidates = [
            position
            for position, cells in enumerate(columns)
            if position not in found.values() and _most_look_like(role, cells, options)
        ]
        if len(candidates) > 1:
            raise InventoryError(
                f"{name}: the file has no header, and its columns "
                f"{', '.join(numbers[position] for position in candidates)} "
                f"all look like the {role}; choose one with --column {role}={numbers[candidates[0]]}"
            )
        if candidates:
            found[role] = candidates[0]
    if not any(role in found for role in IDENTIFIERS):
        raise no_identifier_error(name, records[0])
    shown = ", ".join(f"{role} in column {position + 1}" for role, position in found.items())
    return Columns(found, (f"{name}: no header: columns recognized by content: {shown}",))


def holds_identifier(record: Sequence[str]) -> bool:
    """Whether a record holds an IMEI or ICCID, so that it is a device and not a header."""
    return any(_looks_like(role, cell) for cell in record for role in IDENTIFIERS)


def _most_look_like(role: Role, cells: Sequence[str], options: ReadOptions | None = None) -> bool:
    return 2 * sum(_looks_like(role, cell, options) for cell in cells) > sum(map(bool, cells))


def _looks_like(role: Role, cell: str, options: ReadOptions | None = None) -> bool:
    if role is Role.SKU:
        return options is not None and cell in options.skus
    if role is Role.ACCOUNT or _ACCOUNT_FORM.fullmatch(cell):
        return role is Role.ACCOUNT and _ACCOUNT_FORM.fullmatch(cell) is not None
    return _IDENTIFIER_FORMS[role].fullmatch(_DECORATION.sub("", cell)) is not None
