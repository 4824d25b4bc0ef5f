"""Splits JSON text into its rows, block by block: a value per line, arrays, or a list inside an object.

A text may hold several values one after another: lines, appended pages, a JSON text sequence. Text that is no
JSON is an error; nothing is passed over.
"""

import json
import re
from collections.abc import Iterator
from typing import BinaryIO, Protocol, TypeAlias

import msgspec

from batchlic.errors import InventoryError
from batchlic.reader.formats.json_pages import Pages

BLOCK_BYTES = 4 << 20
MAX_VALUE_BYTES = 64 << 20
"""Bytes of one row, and of what is around a list of rows."""

Object: TypeAlias = dict[str, object]
Path: TypeAlias = tuple[str, ...]
"""The keys that lead to a value inside an object."""

_SPACE = re.compile(rb"(?:[ \t\r\n\x1e]|\xef\xbb\xbf)*")
"""White space, the separator of JSON text sequences (RFC 7464), and the byte order marks of joined files."""
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
_DEPTH = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}
_STARTS = re.compile(rb'\{\s*["}]|\[\s*["\[\]{\d\-tfn]')
"""How JSON that can hold rows starts, and few other texts do."""
_TRIES = 8
"""Ends of rows to try before the text is searched token by token."""

_ERRORS = (msgspec.DecodeError, ValueError, RecursionError)


def _object(pairs: list[tuple[str, object]]) -> Object:
    """An object of key and value. A key with different values gets a text that names both.

    Raises ValueError if such a value is not a text or number.
    """
    found: Object = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            if isinstance(value, dict | list) or isinstance(found[key], dict | list):
                raise _Repeated(f"the key {key!r} occurs twice in one object: keep one of them")
            found[key] = f"{found[key]} and {value}"
        else:
            found[key] = value
    return found


class _Repeated(ValueError):
    """A key occurs twice in one object, so that its value is unclear."""


class Number(str):
    """A number with a fraction or an exponent, as it is written."""

    __slots__ = ()


_DECODER = msgspec.json.Decoder(object, float_hook=Number)
"""Fast, but takes the last value of a key that occurs twice in one object."""
_THOROUGH = json.JSONDecoder(parse_float=Number, parse_constant=lambda _: None, object_pairs_hook=_object)
"""Notices keys that occur twice. Accepts NaN, and half of a surrogate pair."""


def _may_repeat_keys(text: bytes, values: list[object]) -> bool:
    """Whether an object in a text, which was decoded to `values`, may have a key twice.

    The text has more colons than the values then. A colon may also be written as an escape.
    """
    colons = text.count(b":")
    if colons == sum(len(value) for value in values if isinstance(value, dict)):
        return False
    if b"\\u003a" in text or b"\\u003A" in text:
        return True
    try:
        return msgspec.json.encode(values).count(b":") != colons
    except (ValueError, TypeError, OverflowError, RecursionError):  # a number of more than 64 bits
        return True


def is_json(start: bytes) -> bool:
    """Whether a text that starts like this is JSON."""
    return _STARTS.match(start) is not None


class JsonText:
    """JSON text that is read piece by piece: `buffer` from `at` on is not used yet."""

    def __init__(self, name: str, stream: BinaryIO) -> None:
        self.name = name
        self.buffer = b""
        self.at = 0
        self._stream = stream
        self._lines = 0

    def more(self) -> bool:
        """Read on; false at the end. Raises InventoryError if a value is too long."""
        if len(self.buffer) - self.at > MAX_VALUE_BYTES:
            raise self.error(f"a value is longer than {MAX_VALUE_BYTES >> 20} MB, or not closed")
        chunk = self._stream.read(BLOCK_BYTES)
        self._lines += self.buffer.count(b"\n", 0, self.at)
        self.buffer = self.buffer[self.at :] + chunk
        self.at = 0
        return bool(chunk)

    def fill(self) -> None:
        """Read until the buffer holds a block, or to the end."""
        while len(self.buffer) - self.at < BLOCK_BYTES and self.more():
            pass

    def next(self) -> bytes:
        """The next character that is no white space; empty at the end."""
        while True:
            if spaces := _SPACE.match(self.buffer, self.at):
                self.at = spaces.end()
            is_mark_cut = len(self.buffer) - self.at < 3 and self.buffer[self.at :] in {b"\xef", b"\xef\xbb"}
            if (self.at < len(self.buffer) and not is_mark_cut) or not self.more():
                return self.buffer[self.at : self.at + 1]

    def decoded(self, end: int, form: bytes = b"%b") -> object:
        """The value in the buffer up to `end`; a number with a fraction is text. Raises InventoryError."""
        text = form % self.buffer[self.at : end]
        try:
            value = _DECODER.decode(text)
            if not _may_repeat_keys(text, [value]):
                return value
        except _ERRORS:
            pass
        try:
            return _THOROUGH.decode(text.decode("utf-8", "replace"))
        except _Repeated as error:
            raise self.error(str(error)) from None
        except _ERRORS as error:
            raise self.error(f"not JSON: {error}") from None

    def error(self, problem: str) -> InventoryError:
        """An error at the current line."""
        line = 1 + self._lines + self.buffer.count(b"\n", 0, self.at)
        return InventoryError(
            f"{self.name}: line {line}: {problem}; an inventory in JSON has one object per device: one per "
            f"line, or all in one list"
        )


class Devices(Protocol):
    """What is known of the keys of devices."""

    def is_device(self, value: Object) -> bool:
        """Whether an object is a device, and not an object around a list of devices."""

    def found_under(self, path: Path) -> None:
        """Learn under which keys the list of devices is."""

    def of_all(self, value: Object) -> Object:
        """The keys of an object around devices that hold for all of them, such as their account."""


def blocks(
    text: JsonText, devices: Devices, notes: list[str], late_notes: list[str]
) -> Iterator[list[object]]:
    """The rows of a text: its values, the items of its arrays, or of the list of devices in its objects.

    `notes` gets how the rows were found, and `late_notes` what was found until the end. Raises
    InventoryError.
    """
    text.fill()
    path = _path_of_list(text, devices) if text.next() == b"{" else ()
    wrapper = _Wrapper(path, devices, late_notes)
    if wrapper.path:
        notes.append(f"{text.name}: the devices are in {'.'.join(wrapper.path)!r}")
        devices.found_under(wrapper.path)
    while first := text.next():
        text.fill()
        if values := _lines(text) or _whole_values(text):
            yield [row for value in values for row in wrapper.rows(text, value)]
        elif first == b"[":
            text.at += 1
            yield from _items(text)
        elif first == b"{" and wrapper.path:
            yield from wrapper.streamed(text)
        elif first != b"{":
            shown = text.buffer[text.at : text.at + 60].decode("utf-8", "replace")
            raise text.error(f"not JSON: {shown!r}")
        elif not text.more():
            raise text.error("the object is cut off")
    late_notes.extend(wrapper.pages.notes(text.name))


def _lines(text: JsonText) -> list[object]:
    """The values in the whole lines of the buffer; empty if the values are not one per line."""
    end = text.buffer.rfind(b"\n", text.at) + 1
    lines = text.buffer[text.at : end].replace(b"\x1e", b" ")
    try:
        values: list[object] = _DECODER.decode_lines(lines)
    except _ERRORS:
        return []
    if not all(isinstance(value, dict | list) for value in values) or _may_repeat_keys(lines, values):
        return []
    text.at = max(end, text.at)
    return values


def _whole_values(text: JsonText) -> list[object]:
    """The whole objects and arrays at the start of the buffer."""
    values: list[object] = []
    while text.next() in {b"{", b"["} and (end := _end_of_value(text.buffer, text.at)):
        values.append(text.decoded(end))
        text.at = end
    return values


def _end_of_value(text: bytes, start: int, depth: int = 0) -> int | None:
    """Where the object or array at `start` ends, `depth` others being open; None if it does not."""
    for token in _TOKEN.finditer(text, start):
        depth += _DEPTH.get(token[0], 0)
        if not depth:
            return token.end()
    return None


# -- an array that is longer than a block ---------------------------------------------------------------


def _items(text: JsonText) -> Iterator[list[object]]:
    """The items of an array whose opening bracket has been taken."""
    while (first := text.next()) != b"]":
        if rows := _first_items(text):
            yield rows
        elif not first or not text.more():
            raise text.error("the list is cut off")
        if text.next() == b",":
            text.at += 1
    text.at += 1


def _first_items(text: JsonText) -> list[object]:
    """The whole items of an array at the start of the buffer."""
    text.fill()
    end = len(text.buffer)
    for _ in range(_TRIES):
        end = text.buffer.rfind(b"}", text.at, end)
        if end < 0:
            break
        whole = b"[%b]" % text.buffer[text.at : end + 1]
        try:
            items = _DECODER.decode(whole)
        except _ERRORS:
            continue
        if _may_repeat_keys(whole, _as_list(items)):
            items = text.decoded(end + 1, b"[%b]")
        text.at = end + 1
        return _as_list(items)
    if (last := _end_of_items(text.buffer, text.at)) is None:
        return []
    items = text.decoded(last, b"[%b]")
    text.at = last
    return _as_list(items)


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _end_of_items(text: bytes, start: int) -> int | None:
    """Where the whole items of an array that start at `start` end; None if no item is whole."""
    depth, end = 0, None
    for token in _TOKEN.finditer(text, start):
        depth += _DEPTH.get(token[0], 0)
        if depth < 0:
            return token.start()
        if not depth and token[0] == b",":
            end = token.start()
    return end


# -- a list inside an object ----------------------------------------------------------------------------


class _Wrapper:
    """Objects around a list of devices at `path`. With an empty path, each object is a device."""

    def __init__(self, path: Path, devices: Devices, notes: list[str]) -> None:
        self.path = path
        self.pages = Pages()
        self._devices = devices
        self._notes = notes

    def rows(self, text: JsonText, value: object) -> list[object]:
        """The rows of a whole value."""
        if isinstance(value, list):
            return value
        if not self.path or not isinstance(value, dict):
            return [value]
        *outer, inner = _along(value, self.path)
        if not isinstance(inner, list):
            shown = json.dumps(value)[:60]
            raise InventoryError(f"{text.name}: an object has no list {'.'.join(self.path)!r}: {shown}")
        if self._devices.is_device(_without(value, self.path[0])):
            path = ".".join(self.path)
            raise InventoryError(f"{text.name}: some objects are devices, and have devices in {path!r}, too")
        self._note_other_lists(text, value)
        self._add_page(value, len(inner))
        return _with(text, self._of_all(outer), inner)

    def streamed(self, text: JsonText) -> Iterator[list[object]]:
        """The rows of an object that is longer than a block."""
        start = next((end for path, end in _lists(text.buffer, text.at) if path == self.path), None)
        if start is None:
            raise text.error(f"the list {'.'.join(self.path)!r} does not begin within {BLOCK_BYTES >> 20} MB")
        before = text.decoded(start, b"%b]" + b"}" * len(self.path))
        of_all = self._of_all(_along(before, self.path)[:-1])
        opening, text.at = text.buffer[text.at : start], start
        count = 0
        for rows in _items(text):
            count += len(rows)
            yield _with(text, of_all, rows)
        while (end := _end_of_value(text.buffer, text.at, depth=len(self.path))) is None:
            if not text.more():
                raise text.error("the object is cut off")
        around = text.decoded(end, opening.replace(b"%", b"%%") + b"]%b")
        text.at = end
        if isinstance(around, dict):
            self._note_other_lists(text, around)
            self._add_page(around, count)
        if late := self._of_all(_along(around, self.path)[:-1]).keys() - of_all.keys():
            raise text.error(
                f"{min(late)!r} comes after the list of devices that it is about: move it to the start"
            )

    def _of_all(self, outer: list[object]) -> Object:
        found: Object = {}
        for value, key in zip(outer, self.path, strict=True):
            if isinstance(value, dict):
                found |= self._devices.of_all(_without(value, key))
        return found

    def _add_page(self, around: Object, rows: int) -> None:
        levels = zip(_along(around, self.path), self.path, strict=False)
        found = [_without(level, key) for level, key in levels if isinstance(level, dict)]
        self.pages.last = {key: value for level in found for key, value in level.items()}
        self.pages.rows += rows

    def _note_other_lists(self, text: JsonText, value: Object) -> None:
        """Note the other lists in an object. Raises InventoryError if one of them has devices, too."""
        for path, items in _lists_in(value):
            if path == self.path or not items:
                continue
            if any(isinstance(item, dict) and self._devices.is_device(item) for item in items):
                one, other = ".".join(self.path), ".".join(path)
                raise text.error(
                    f"devices are in {one!r} and in {other!r}: write all of them as one list, and whatever "
                    f"{one!r} and {other!r} stand for as a key of each device"
                )
            note = f"{text.name}: the list {'.'.join(path)!r} is not read"
            if note not in self._notes:
                self._notes.append(note)


def _along(value: object, path: Path) -> list[object]:
    """A value, and those that the keys of a path lead to; None where there is none."""
    values = [value]
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
        values.append(value)
    return values


def _without(value: Object, key: str) -> Object:
    return {other: inner for other, inner in value.items() if other != key}


def _with(text: JsonText, of_all: Object, rows: list[object]) -> list[object]:
    """The rows with the keys that hold for all of them. Raises InventoryError if they can't have keys."""
    if not of_all:
        return rows
    if not all(isinstance(row, dict) for row in rows):
        raise text.error(
            f"{min(of_all)!r} is beside a list of texts: write each device as an object with its keys"
        )
    return [{**of_all, **row} for row in rows if isinstance(row, dict)]


def _path_of_list(text: JsonText, devices: Devices) -> Path:
    """Where the list of devices is in the first object of a text; empty if the object is a device itself."""
    end = _end_of_value(text.buffer, text.at)
    if end is not None:
        value = text.decoded(end)
        if not isinstance(value, dict):
            return ()
        _refuse_keyed(text, value, devices, is_alone=not text.buffer[end:].strip(b" \t\r\n\x1e"))
        if any(_is_column(key, inner, devices) for key, inner in value.items()) or _is_split(value):
            raise _columns_error(text)
        if devices.is_device(value):
            return ()
        found = [(path, items[:1]) for path, items in _lists_in(value)]
    else:
        lists = list(_lists(text.buffer, text.at))
        if any(
            devices.is_device({path[-1]: ""})
            and text.buffer[start : start + 9].strip()[:1] not in {b"{", b"]"}
            for path, start in lists
        ):
            raise _columns_error(text)
        found = [(path, _first_item(text.buffer, start)) for path, start in lists]
    for path, items in found:
        if items and isinstance(items[0], dict) and devices.is_device(items[0]):
            return path
    return found[0][0] if len(found) == 1 else ()


def _is_column(key: str, value: object, devices: Devices) -> bool:
    """Whether a value has the cells of a column of identifiers: a list, or an object with their numbers."""
    if isinstance(value, dict):
        cells, is_column = list(value.values()), bool(value) and all(map(str.isdecimal, value))
    else:
        cells, is_column = (value, True) if isinstance(value, list) else ([], False)
    is_flat = bool(cells) and not any(isinstance(cell, dict | list) for cell in cells)
    return is_column and is_flat and devices.is_device({key: ""})


def _is_split(value: Object) -> bool:
    """Whether an object has its headers in one list, and its rows as lists of cells in another."""
    lists = [inner for inner in value.values() if isinstance(inner, list) and inner]
    has_rows = any(all(isinstance(row, list) for row in inner) for inner in lists)
    return has_rows and any(not any(isinstance(header, list) for header in inner) for inner in lists)


def _columns_error(text: JsonText) -> InventoryError:
    return InventoryError(
        f"{text.name}: the JSON is written column by column: write it as a list with one object per device "
        f'(in pandas: to_json(orient="records"))'
    )


def _refuse_keyed(text: JsonText, value: Object, devices: Devices, *, is_alone: bool) -> None:
    """Raise InventoryError if the only object of a text has its devices under keys of their own."""
    keyed = next((one for one in _objects_in(value, devices) if _is_keyed(one, devices)), None)
    if is_alone and keyed is not None:
        shown = ", ".join(map(repr, list(keyed)[:3]))
        raise InventoryError(
            f"{text.name}: the devices are under keys of their own ({shown}, …): write them as a list of "
            f"objects"
        )


def _objects_in(value: Object, devices: Devices) -> Iterator[Object]:
    """An object, and the objects in it that are no part of a device."""
    yield value
    if any(devices.is_device({key: ""}) for key in value):
        return
    for inner in value.values():
        if isinstance(inner, dict):
            yield from _objects_in(inner, devices)


def _is_keyed(value: Object, devices: Devices) -> bool:
    """Whether an object has nothing but objects, and at least two of them are devices."""
    inner = [item for item in value.values() if isinstance(item, dict)]
    return len(inner) == len(value) and len(inner) > 1 and sum(map(devices.is_device, inner)) > 1


def _lists_in(value: Object, path: Path = ()) -> Iterator[tuple[Path, list[object]]]:
    """The lists in an object, and in the objects in it, with their paths."""
    for key, inner in value.items():
        if isinstance(inner, list):
            yield (*path, key), inner
        elif isinstance(inner, dict):
            yield from _lists_in(inner, (*path, key))


def _lists(text: bytes, start: int) -> Iterator[tuple[Path, int]]:
    """The lists of the object at `start`, which may be cut off: their paths, and where their items start."""
    keys: list[str] = []
    last = '""'
    depth = 0
    for token in _TOKEN.finditer(text, start):
        symbol = token[0]
        if depth:
            depth += _DEPTH.get(symbol, 0)
        elif symbol == b"[":
            depth = 1
            yield (*keys[1:], _key(last)), token.end()
        elif symbol == b"{":
            keys.append(_key(last))
        elif symbol == b"}":
            keys.pop()
            if not keys:
                return
        elif symbol.startswith(b'"') and symbol.endswith(b'"'):
            last = symbol.decode("utf-8", "replace")


def _key(text: str) -> str:
    try:
        return str(json.loads(text, strict=False))
    except ValueError:
        return text


def _first_item(text: bytes, start: int) -> list[object]:
    """The item of a list at `start` if it is a whole object."""
    end = _end_of_value(text, start)
    try:
        return [_DECODER.decode(text[start:end])] if end else []
    except _ERRORS:
        return []
