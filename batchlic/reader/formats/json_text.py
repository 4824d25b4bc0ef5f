"""Reads inventories in JSON: objects, or lists of cells. Numbers keep all digits.

The keys of nested objects have paths: `device.imei`. A list of objects with `id` and `kind`, as ThingSpace
names identifiers, is read as an object: `deviceIds.imei`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import polars as pl

from batchlic.errors import InventoryError
from batchlic.reader.columns import contents, layout, matching
from batchlic.reader.formats.json_rows import JsonText, Number, Object, Path, blocks, is_json
from batchlic.reader.inputs.streams import Opened
from batchlic.reader.inventory import (
    SHORTEST,
    WHOLE,
    Block,
    Ending,
    Inventory,
    block_of,
    empty,
    is_too_short,
)
from batchlic.reader.options import ReadOptions
from batchlic.reader.roles import IDENTIFIERS, TARGETS, Role, kept_cell

__all__ = ["inventory", "is_json"]

SAMPLE = 200
"""Rows by which an error suggests a column, and in which the header of a table is found."""


def inventory(source: Opened, options: ReadOptions) -> Inventory:
    """Open JSON text. Raises InventoryError if it is no JSON, or if its rows are not all of one kind."""
    notes: list[str] = []
    devices = _Devices(options)
    ending = Ending()
    rows = blocks(JsonText(source.name, source.stream), devices, notes, ending.notes)
    first = next((block for block in rows if block), [])
    if not first:
        return empty(source.name)
    if isinstance(first[0], dict):
        devices.refuse_lists_in(source.name, first)
        found = _of_objects(source.name, chain([first], rows), options, notes)
        if Role.ACCOUNT not in found.roles:
            devices.refuse_other_account(source.name)
    else:
        found = _of_cells(source.name, chain([first], rows), options, notes)
    return replace(found, ending=ending)


class _Devices:
    """Recognizes devices by their keys."""

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._path: Path = ()

    def is_device(self, value: Object) -> bool:
        """Whether an object has a key for an identifier."""
        return matching.names_identifier(list(paths_of(value)), self._options)

    def found_under(self, path: Path) -> None:
        """Learn under which keys the list of devices is."""
        self._path = path

    def refuse_lists_in(self, name: str, block: Sequence[object]) -> None:
        """Raise InventoryError if no row of the text `name` is a device, and the first has a list of them."""
        rows = [row for row in block if isinstance(row, dict)]
        if any(map(self.is_device, rows)):
            return
        for key, value in rows[0].items():
            items = value[:1] if isinstance(value, list) else []
            if any(isinstance(item, dict) and self.is_device(item) for item in items):
                raise InventoryError(
                    f"{name}: each item of the list has its own list of devices, under {key!r}: write one of "
                    "these items per line, without the list around them"
                )

    def refuse_other_account(self, name: str) -> None:
        """Raise InventoryError if the list of devices of the text `name` is under another account."""
        others = [account for key in self._path for account in contents.accounts_in(key)]
        if others and others[0] != self._options.account and not matching.ignores_accounts(self._options):
            raise InventoryError(
                f"{name}: the devices are under the account {others[0]}: give it with --account, or "
                f"ignore it with --column account=-"
            )

    def of_all(self, value: Object) -> Object:
        """The account and the SKU in an object around devices, and whatever else names an account."""
        found: Object = {}
        for header, path in paths_of(value).items():
            cell = _value(value, path)
            is_named = any(matching.spelled([header], role) for role in (Role.ACCOUNT, Role.SKU))
            is_named |= matching.is_kept(header, self._options)
            if not isinstance(cell, list) and (is_named or contents.accounts_in(_text(cell) or "")):
                found[path[0]] = value[path[0]]
        return found


# -- objects --------------------------------------------------------------------------------------------


def _of_objects(
    name: str, blocks: Iterator[list[object]], options: ReadOptions, notes: list[str]
) -> Inventory:
    keys = _Keys(name, options)
    first = keys.learned(next(blocks))
    if not keys.columns.has_identifier:
        raise matching.no_identifier_error(
            name, list(keys.paths), [keys.texts(row) for row in first[:SAMPLE]]
        )
    notes.extend(keys.columns.notes)

    def frames() -> Iterator[Block]:
        for rows in chain([first], map(keys.learned, blocks)):
            yield partial(_frame, rows, keys.cells)

    return Inventory(
        name=name,
        roles=keys.read.keys(),
        headers={},
        blocks=frames,
        notes=notes,
        kept=keys.kept,
        available=keys.available,
    )


class _Keys:
    """The keys of the rows that have been read. `paths`: by header; `read`: of the columns with a role.

    `kept`: the paths of the columns to keep, by their names. `available`: all headers, in the order in which
    they appeared.
    """

    def __init__(self, name: str, options: ReadOptions) -> None:
        self.paths: dict[str, Path] = {}
        self.read: dict[Role, Path] = {}
        self.kept: dict[str, Path] = {}
        self.available: list[str] = []
        self.columns = matching.Columns({})
        self._name = name
        self._options = options
        self._shapes: set[tuple[str, ...]] = set()
        self._rows = 0

    @property
    def cells(self) -> dict[str, Path]:
        """The paths of the columns of a block."""
        roles = {role.value: path for role, path in self.read.items()}
        return roles | {kept_cell(name): path for name, path in self.kept.items()}

    def learned(self, values: list[object]) -> list[Object]:
        """The values, all objects, after learning their keys.

        Raises InventoryError if one is no object, or if a new key changes which keys are read.
        """
        rows = [value for value in values if isinstance(value, dict)]
        if len(rows) < len(values):
            at = next(at for at, value in enumerate(values) if not isinstance(value, dict))
            raise InventoryError(
                f"{self._name}: item {self._rows + at + 1} is {json.dumps(values[at])[:40]}, and not an "
                f"object like the items before it"
            )
        shapes = {_shape(row): row for row in reversed(rows)}
        unseen = [row for shape, row in shapes.items() if shape not in self._shapes]
        self._shapes.update(shapes)
        samples = rows[:SAMPLE] if not self.paths else []
        headers = {
            header: path for row in (*samples, *reversed(unseen)) for header, path in paths_of(row).items()
        }
        if headers.keys() - self.paths.keys():
            self.paths = headers | self.paths
            self._find_columns([*samples, *unseen[:SAMPLE]])
        for row in unseen:
            self._refuse_other_spelling(row)
        self._rows += len(rows)
        return rows

    def _refuse_other_spelling(self, row: Object) -> None:
        """Raise InventoryError if a row has a role under another key than the one that is read."""
        paths = paths_of(row)
        for role, read in self.read.items():
            others = [] if read in paths.values() else matching.spelled(list(paths), role)
            if others and role not in self._options.columns:
                raise InventoryError(
                    f"{self._name}: some rows have their {role} under {'.'.join(read)!r}, and others under "
                    f"{others[0]!r}: use one key for all rows, or choose one with --column {role}=KEY"
                )

    def _find_columns(self, rows: Sequence[Object]) -> None:
        headers = list(self.paths)
        sample = list(map(self.texts, rows))
        nested = {at for at, path in enumerate(self.paths.values()) if len(path) > 1}
        self.columns = matching.by_header(self._name, headers, self._options, nested=nested, sample=sample)
        found = {role: self.paths[headers[position]] for role, position in self.columns.positions.items()}
        for role, path in self.read.items():
            if found.get(role) != path:
                other = ".".join(found[role]) if role in found else "none"
                raise InventoryError(
                    f"{self._name}: rows before row {self._rows + 1} have their {role} under "
                    f"{'.'.join(path)!r}, and later ones under {other!r}: choose one with --column {role}=KEY"
                )
        self.read.update(found)
        self._find_kept(headers)

    def _find_kept(self, headers: Sequence[str]) -> None:
        self.available += [header for header in headers if header not in self.available]
        kept = matching.kept(self._name, self.available, self._options)
        for kept_name, at in kept.items():
            path = self.paths[self.available[at]]
            if self.kept.setdefault(kept_name, path) != path:
                raise InventoryError(
                    f"{self._name}: rows before row {self._rows + 1} have {kept_name!r} under "
                    f"{'.'.join(self.kept[kept_name])!r}, and later ones under {'.'.join(path)!r}: choose "
                    f"one with --keep {kept_name}=KEY"
                )

    def texts(self, row: Object) -> list[str]:
        """The cells of a row under all headers."""
        return [_text(_value(row, path)) or "" for path in self.paths.values()]


def _shape(row: Object) -> tuple[str, ...]:
    """The headers of a row. Most rows have no nested values, so their keys are the headers."""
    is_flat = _NESTED.isdisjoint(map(type, row.values()))
    return tuple(row) if is_flat else tuple(paths_of(row))


_NESTED: frozenset[type] = frozenset({dict, list})


def paths_of(row: Object, outer: Path = ()) -> dict[str, Path]:
    """The paths to the values in an object, by their headers."""
    paths: dict[str, Path] = {}
    for key, value in row.items():
        path = (*outer, key)
        if isinstance(value, dict):
            paths |= paths_of(value, path)
        elif kinds := _kinds(value):
            paths |= {".".join((*path, kind)): (*path, kind) for kind in kinds}
        else:
            paths[".".join(path)] = path
    return paths


def _kinds(value: object) -> list[str]:
    """The kinds of identifiers in a list of objects with `id` and `kind`; none for any other value."""
    if not isinstance(value, list) or not value:
        return []
    kinds = [item.get("kind") for item in value if isinstance(item, dict) and "id" in item]
    found = [kind for kind in kinds if isinstance(kind, str)]
    return list(dict.fromkeys(found)) if len(found) == len(value) else []


def _value(row: Object, path: Path) -> object:
    value: object = row
    for key in path:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list):
            value = _of_kind(value, key)
        else:
            return None
    return value


def _of_kind(identifiers: list[object], kind: str) -> object:
    """The identifier of one kind; several as a text that is no identifier."""
    ids = [item.get("id") for item in identifiers if isinstance(item, dict) and item.get("kind") == kind]
    return ids[0] if len(ids) == 1 else " and ".join(map(str, ids)) or None


def _frame(rows: Sequence[Object], paths: Mapping[str, Path]) -> pl.DataFrame:
    """The cells under the paths as text, and WHOLE if some rows lack an identifier."""
    frame = pl.DataFrame([_column(name, rows, path) for name, path in paths.items()])
    are_short = map(is_too_short, (pl.col(role) for role in IDENTIFIERS if role in paths))
    lack_identifier = frame.select(pl.all_horizontal(are_short)).to_series()
    if not lack_identifier.any():
        return frame
    whole = [_whole(row) if lacks else None for row, lacks in zip(rows, lack_identifier, strict=True)]
    return frame.with_columns(pl.Series(WHOLE, whole, dtype=pl.String))


def _whole(row: Object) -> str:
    """All cells of a row, one a line."""
    return "\n".join(_text(_value(row, path)) or "" for path in paths_of(row).values())


def _column(name: str, rows: Sequence[Object], path: Path) -> pl.Series:
    key = path[0]
    values = [row.get(key) for row in rows] if len(path) == 1 else [_value(row, path) for row in rows]
    try:
        return pl.Series(name, values, dtype=pl.String)
    except (TypeError, UnicodeEncodeError):  # numbers, or half of a surrogate pair
        return pl.Series(name, [_text(value) for value in values], dtype=pl.String)


def _text(value: object) -> str | None:
    """A value as text. Half a surrogate pair becomes `?`: JSON allows it, and UTF-8 does not."""
    if value is None:
        return None
    text = str(value)
    if isinstance(value, dict | list | bool):
        try:
            text = _as_json(value)
        except RecursionError:  # hundreds of lists in lists
            text = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


def _as_json(value: object) -> str:
    """A value as JSON, its numbers as they are written."""
    match value:
        case Number():
            return value
        case list():
            return f"[{', '.join(map(_as_json, value))}]"
        case dict():
            return f"{{{', '.join(f'{_as_json(key)}: {_as_json(inner)}' for key, inner in value.items())}}}"
        case _:
            return json.dumps(value, ensure_ascii=False)


# -- lists of cells -------------------------------------------------------------------------------------


def _of_cells(name: str, blocks: Iterator[list[object]], options: ReadOptions, notes: list[str]) -> Inventory:
    """Rows that are lists of cells, or single cells. The first ones may be a header."""
    first = _records(name, next(blocks))
    found = layout.find(name, [[cell or "" for cell in row] for row in first[:SAMPLE]], options)
    positions = found.columns.positions
    width = len(found.headers) or max(map(len, first))
    at_header = found.repeated_at
    identifiers = [positions[role] for role in IDENTIFIERS if role in positions]
    may_be_shifted = not positions.keys().isdisjoint(TARGETS)

    def frames() -> Iterator[Block]:
        for rows in chain([first[found.first_row :]], (_records(name, block) for block in blocks)):
            for row in rows:
                if at_header >= 0 and row[at_header : at_header + 1] == [found.header_line[at_header]]:
                    found.refuse_other_header(name, [cell or "" for cell in row])
            cells = [[row[at] if at < len(row) else None for at in found.cells.values()] for row in rows]
            are_shifted = [any(row[width:]) for row in rows]
            are_long = are_shifted if may_be_shifted else [_is_longer(row[width:]) for row in rows]
            lack_identifier = [
                all(len(cell or "") < SHORTEST for at in identifiers for cell in row[at : at + 1])
                for row in rows
            ]
            wholes = [
                "\n".join(cell or "" for cell in row) if len(row) != width or lacks else None
                for row, lacks in zip(rows, lack_identifier, strict=True)
            ]
            yield block_of(cells, tuple(found.cells), are_long, are_shifted, wholes)

    return Inventory(
        name=name,
        roles=positions.keys(),
        headers=found.headers_by_role,
        blocks=frames,
        notes=[*notes, *found.notes],
        kept=found.kept,
        available=found.available,
    )


def _is_longer(beyond: Sequence[str | None]) -> bool:
    """Whether one of some cells without a header holds an identifier or an account."""
    return any(contents.is_identifier_or_account(cell or "") for cell in beyond)


def _records(name: str, rows: list[object]) -> list[list[str | None]]:
    for row in rows:
        if isinstance(row, dict):
            raise InventoryError(
                f"{name}: some items are lists or texts, and some are objects: {json.dumps(row)[:40]}"
            )
    return [[_text(cell) for cell in row] if isinstance(row, list) else [_text(row)] for row in rows]
