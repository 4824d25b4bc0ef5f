"""Finds the column for each role: by --column, as in a known export, by its header, or by content."""

import difflib
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from batchlic.errors import InventoryError
from batchlic.reader.columns import contents, profiles
from batchlic.reader.columns.headers import fold, remarks, without_remarks
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
    name: str,
    headers: Sequence[str],
    options: ReadOptions,
    *,
    nested: Set[int] = frozenset(),
    sample: Sequence[Sequence[str]] = (),
) -> Columns:
    """The columns by `options.columns`, as in a known export, or else by the spelling of headers.

    `nested`: the positions of headers that are paths into nested objects, such as `device.imei`. They are
    read only if they end in `imei` or `iccid`, and no other header fits. `sample`: rows by whose cells a
    column of the carrier's accounts is told from other accounts.

    Raises InventoryError if two columns fit one role equally, if a named column does not exist, or if
    accounts of the carrier are in a column that would not be read.
    """
    cells = contents.columns_of(sample, len(headers))
    found, named = _named_columns(name, headers, options)
    done = set(named)
    profile = profiles.named(options.profile) if options.profile else profiles.recognized(headers)
    notes: list[str] = []
    if profile is not None:
        found |= _of_profile(name, profile, headers, done)
        done |= {*IDENTIFIERS, *profile.left_out}
        read = ", ".join(f"{role} from {headers[at]!r}" for role, at in found.items())
        notes.append(f"{name}: read as an export of {profile.title}: {read}")
    for role in Role:
        taken = {*found.values(), *nested}
        if role not in done and (position := _spelled(name, headers, role, taken, cells)) is not None:
            found[role] = position
    if nested:
        notes.extend(_add_nested(name, headers, nested, found, done))
    columns = Columns({role: found[role] for role in Role if role in found})
    if columns.has_identifier:
        notes.extend(_unread_identifiers(name, headers, cells, columns))
        if Role.ACCOUNT not in named:
            _refuse_unread_accounts(name, headers, cells, columns, options)
    return replace(columns, notes=tuple(notes))


def _named_columns(
    name: str, headers: Sequence[str], options: ReadOptions
) -> tuple[dict[Role, int], set[Role]]:
    """The columns that the options name, and the roles that they name or leave out."""
    named = dict(_named(options))
    read = {
        role: _position(name, headers, role, column) for role, column in named.items() if column != LEFT_OUT
    }
    return read, set(named)


def _refuse_unread_accounts(
    name: str,
    headers: Sequence[str],
    cells: Sequence[Sequence[str]],
    found: Columns,
    options: ReadOptions,
    *,
    are_accounts: Callable[[Sequence[str]], bool] = contents.are_accounts,
) -> None:
    """Raise InventoryError if a column that is not read has other accounts of the carrier than the job's."""
    for position in range(len(headers)):
        if position in found.positions.values() or not are_accounts(cells[position]):
            continue
        accounts = set(filter(None, map(contents.account_alone, cells[position])))
        others = sorted(accounts - {options.account})
        if others:
            raise InventoryError(
                f"{name}: {_column(headers, position)} has accounts of the carrier, such as "
                f"{others[0]}, and is not read: read it with --column account="
                f"{_short_name(headers, position)}, or leave it out with --column account=-"
            )


def refuse_other_accounts(name: str, lines: Sequence[str], options: ReadOptions) -> None:
    """Raise InventoryError if lines above the header name another account of the carrier than the job's."""
    others = [
        account for line in lines for account in contents.accounts_in(line) if account != options.account
    ]
    if others and not ignores_accounts(options):
        raise InventoryError(
            f"{name}: a line above the header names the account {others[0]}: give it with --account, or "
            f"ignore it with --column account=-"
        )


def ignores_accounts(options: ReadOptions) -> bool:
    """Whether no account of an inventory is read, because the operator says so."""
    return options.columns.get(Role.ACCOUNT) == LEFT_OUT


def _unread_identifiers(
    name: str, headers: Sequence[str], cells: Sequence[Sequence[str]], found: Columns
) -> Iterator[str]:
    """A note for each column of identifiers that is not read."""
    for position in range(len(headers)):
        for role in IDENTIFIERS:
            is_read = position in found.positions.values()
            if not is_read and cells[position] and contents.are_identifiers(role, cells[position]):
                yield f"{name}: {_column(headers, position)} has {role.upper()}s, too, and is not read"


def _column(headers: Sequence[str], position: int) -> str:
    """A column for messages: by its position, and its header if there is one."""
    number, header = str(position + 1), headers[position]
    return f"column {number}" if header == number else f"column {number} {header[:40]!r}"


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


def _of_profile(
    name: str, profile: profiles.Profile, headers: Sequence[str], done: Set[Role]
) -> dict[Role, int]:
    """The columns of a profile that a file has, and identifiers under their exact names that it adds.

    Roles in `done` are left out. Raises InventoryError if two columns have the name of one role.
    """
    added = {role: role.value for role in IDENTIFIERS if role not in profile.left_out}
    fitting = {
        role: [at for at, header in enumerate(headers) if fold(header) == fold(column)]
        for role, column in {**added, **profile.columns}.items()
        if role not in done
    }
    return {role: _only(name, headers, role, found) for role, found in fitting.items() if found}


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


def _spelled(
    name: str, headers: Sequence[str], role: Role, taken: set[int], cells: Sequence[Sequence[str]]
) -> int | None:
    """The column with the best spelling for a role, or the one of the carrier's accounts.

    Raises InventoryError if two fit equally.
    """
    tiers = [
        [at for at, header in enumerate(headers) if at not in taken and is_spelling(header)]
        for is_spelling in SPELLINGS[role]
    ]
    if role is Role.ACCOUNT:
        of_carrier = {at for tier in tiers for at in tier if cells[at] and contents.are_accounts(cells[at])}
        tiers.insert(0, sorted(of_carrier))
    best = next(filter(None, tiers), None)
    return None if best is None else _only(name, headers, role, best)


def spelled(headers: Sequence[str], role: Role) -> list[str]:
    """The headers that are a spelling of a role."""
    return [header for header in headers if any(is_spelling(header) for is_spelling in SPELLINGS[role])]


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
    position = _named_position(name, headers, column, f"--column {role}")
    if position is not None:
        return position
    raise InventoryError(
        f"{name}: there is no column {column!r} for the {role}{did_you_mean(headers, column)} "
        f"The columns are {listed(headers, range(len(headers)))}"
    )


def _named_position(name: str, headers: Sequence[str], column: str, option: str) -> int | None:
    """Position of a column named by its header or its 1-based position; None if there is none.

    Raises InventoryError, with the `option` that would name a position, if two columns are called so.
    """
    for normalize in (str, fold):
        wanted = normalize(column)
        positions = [at for at, header in enumerate(headers) if wanted and normalize(header) == wanted]
        if len(positions) == 1:
            return positions[0]
        if len(positions) > 1:
            raise InventoryError(
                f"{name}: two columns are called {column!r}: {listed(headers, positions)}; "
                f"give the position: {option}={positions[0] + 1}"
            )
    if column.isdecimal() and 1 <= int(column) <= len(headers):
        return int(column) - 1
    return None


def did_you_mean(headers: Collection[str], column: str) -> str:
    """The end of a sentence about a missing column, with a header that looks like it."""
    close = difflib.get_close_matches(column, headers, n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


def is_kept(header: str, options: ReadOptions) -> bool:
    """Whether a header names a column to keep."""
    return bool(options.keep) and fold(header) in map(fold, options.keep.values())


def kept(name: str, headers: Sequence[str], options: ReadOptions) -> dict[str, int]:
    """The positions of the columns to keep, by their names in the results. Missing ones are left out.

    Raises InventoryError if two columns are called as one of them.
    """
    found = {
        kept_name: _named_position(name, headers, header, f"--keep {kept_name}")
        for kept_name, header in options.keep.items()
    }
    return {kept_name: position for kept_name, position in found.items() if position is not None}


def no_identifier_error(
    name: str, headers: Sequence[str], sample: Sequence[Sequence[str]] = (), where: str = ""
) -> InventoryError:
    """The error for an inventory without a known identifier column.

    The error suggests the columns whose cells, in the rows of `sample`, mostly look like identifiers. `where`
    says which part of the file was searched.
    """
    columns = contents.columns_of(sample, len(headers))
    hints = [
        f"column {position + 1} has IMEIs and ICCIDs: write them into two columns"
        for position, cells in enumerate(columns)
        if contents.are_of_both_kinds(cells)
    ] or [
        f"column {position + 1} looks like {role.upper()}s: --column {role}={_short_name(headers, position)}"
        for role in IDENTIFIERS
        for position, cells in enumerate(columns)
        if contents.mostly_look_like(role, cells)
    ]
    if len(headers) == 1 and _is_line(headers[0]):
        hints.append(
            "each line seems to be in one cell: split the column in the spreadsheet program"
            if where
            else "each line seems to be in quotes as a whole: remove the quotes around the lines"
        )
    return InventoryError(
        f"{name}: no known header for IMEIs or ICCIDs{where}; the columns are "
        f"{listed(headers, range(len(headers)))}; name one with --column imei=HEADER or "
        f"--column iccid=HEADER (or by position, from 1){''.join(f'; {hint}' for hint in hints[:2])}"
    )


def _is_line(cell: str) -> bool:
    """Whether a cell holds a whole line of a text: known headers, or an identifier among other cells."""
    cells = re.split(r"[,;\t|^~]", cell)
    is_known = any(spelled(cells, role) for role in IDENTIFIERS) or contents.holds_identifier(cells)
    return len(cells) > 1 and is_known


def _short_name(headers: Sequence[str], position: int) -> str:
    """A path into nested objects by its name, quoted for a shell; any other column by its position."""
    return shlex.quote(headers[position]) if "." in headers[position] else str(position + 1)


def listed(headers: Sequence[str], positions: Sequence[int]) -> str:
    """Headers with their positions, for messages; at most 20."""
    shown = [f"{position + 1} {headers[position][:40]!r}" for position in positions[:20]]
    return ", ".join(shown) + (f" and {len(positions) - 20} more" if len(positions) > 20 else "")


def by_content(name: str, records: Sequence[Sequence[str]], options: ReadOptions, where: str = "") -> Columns:
    """The columns of a file without header, by the form of most cells.

    Raises InventoryError if two columns look like one role, or if no column looks like an identifier. `where`
    says for that error which part of the file was searched.
    """
    numbers = [str(position + 1) for position in range(max(map(len, records)))]
    left_out = {role for role, column in _named(options) if column == LEFT_OUT}
    found = {
        role: _position(name, numbers, role, column)
        for role, column in _named(options)
        if role not in left_out
    }
    by_position = [[record[at] for record in records if at < len(record)] for at in range(len(numbers))]
    for role in Role:
        if role in found or role in left_out:
            continue
        candidates = [
            position
            for position, cells in enumerate(by_position)
            if position not in found.values() and contents.mostly_look_like(role, cells, options)
        ]
        if len(candidates) > 1:
            raise InventoryError(
                f"{name}: the file has no header, and its columns "
                f"{', '.join(numbers[position] for position in candidates)} "
                f"all look like the {role}; choose one with --column {role}={numbers[candidates[0]]}"
                f"{'; if each is a device, write one per line' if len(records) == 1 else ''}"
            )
        if candidates:
            found[role] = candidates[0]
    if not any(role in found for role in IDENTIFIERS):
        raise no_identifier_error(name, records[0], records, where)
    shown = ", ".join(f"{role} in column {position + 1}" for role, position in found.items())
    columns = Columns(found)
    cells = contents.columns_of(records, len(numbers))
    if Role.ACCOUNT not in {role for role, _ in _named(options)}:  # one account may be that of a row
        _refuse_unread_accounts(name, numbers, cells, columns, options, are_accounts=contents.has_account)
    others = _unread_identifiers(name, numbers, cells, columns)
    return replace(columns, notes=(f"{name}: no header: columns recognized by content: {shown}", *others))
