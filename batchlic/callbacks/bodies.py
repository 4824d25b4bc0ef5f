"""Reads the body of a callback, however it is encoded or damaged.

The carrier's messages are JSON objects. Any other body is searched for credentials and a requestId: a message
that has them is kept as text, so that no outcome is lost.
"""

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import msgspec

from batchlic.carrier.bodies import DECODE_ERRORS, decode_text

Fields: TypeAlias = Mapping[str, object]
"""The fields of a JSON object by their names in lower case."""


class UnreadableBody(Exception):
    """A body without the credentials of a callback. `is_json` is whether it is JSON."""

    def __init__(self, *, is_json: bool) -> None:
        super().__init__(is_json)
        self.is_json = is_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The body of a callback; `fields` is empty unless it is a JSON object with credentials."""

    username: str | None = field(repr=False)
    password: str | None = field(repr=False)
    request_id: str | None
    fields: Fields = field(repr=False)
    content: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The body without its credentials.

        The count of the carrier's tries is left out, too, so that a repeated message has the same text.
        """
        text = decode_text(self.content)
        for pattern in _CREDENTIALS:
            text = pattern.sub(_hidden, text)
        return _COUNT.sub("", text)


_COMPRESSED = (b"\x1f\x8b", b"\x78")
"""The first bytes of gzip and zlib data. No JSON begins with them."""

_ANY_COMPRESSION = zlib.MAX_WBITS | 32


def decompressed(body: bytes, *, limit: int) -> bytes:
    """Return a body without its compression (gzip or zlib), but at most one byte more than `limit`.

    A body that can't be decompressed is returned as it is.
    """
    if not body.startswith(_COMPRESSED):
        return body
    try:
        return zlib.decompressobj(_ANY_COMPRESSION).decompress(body, limit + 1)
    except zlib.error:
        return body


def read_body(body: bytes) -> Body:
    """Read a body. Raises UnreadableBody if it is no JSON object and has no credentials."""
    fields, is_json = _decode(body)
    found = _Essentials.of_object(fields)
    if not all(found):
        searched = _Essentials.of_text(decode_text(body))
        if not fields and not (searched.username and searched.password):
            raise UnreadableBody(is_json=is_json)
        if not fields or all(searched):
            fields, found = {}, searched
    return Body(**found._asdict(), fields=fields, content=body)


class _Essentials(NamedTuple):
    """What a message must have to be kept."""

    username: str | None
    password: str | None
    request_id: str | None

    @classmethod
    def of_object(cls, fields: Fields) -> "_Essentials":
        return cls._stripped(as_text(fields.get(name)) for name in ("username", "password", "requestid"))

    @classmethod
    def of_text(cls, text: str) -> "_Essentials":
        """Search a text. Only the first username and password count: one request can guess only once."""
        return cls._stripped(_first_value(pattern, text) for pattern in _PATTERNS)

    @classmethod
    def _stripped(cls, values: Iterable[str | None]) -> "_Essentials":
        username, password, request_id = values
        return cls(username, password, request_id and request_id.strip())


# -- JSON -----------------------------------------------------------------------------------------------


def as_text(value: object) -> str | None:
    """Return a text or a number of JSON as text; None for anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    is_text = isinstance(value, str | int | float) and not isinstance(value, bool)
    return str(value) if is_text else None


def by_lower_name(content: Mapping[str, object]) -> Fields:
    """Return the fields of a JSON object by lower-case name; the carrier's own spelling comes first."""
    fields = {name.lower(): value for name, value in content.items()}
    return fields | {name.lower(): content[name] for name in _SPELLINGS if name in content}


_SPELLINGS = ("username", "password", "requestId", "deviceIds", "status", "faultResponse", "id", "kind")

_MAX_DEPTH = 5
_LENIENT = json.JSONDecoder(strict=False)


def objects_with_id(value: object, depth: int = 0) -> Iterator[Fields]:
    """Yield the objects with an `id` in a JSON value of objects and lists, in their order."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, dict) and "id" in (fields := by_lower_name(value)):
        yield fields
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from objects_with_id(one, depth + 1)


def _decode(body: bytes) -> tuple[Fields, bool]:
    """The fields of a JSON object, none if the body is not one; and whether the body is JSON at all."""
    try:
        content = msgspec.json.decode(body)
    except DECODE_ERRORS:
        text = decode_text(body)
        try:
            content, end = _LENIENT.raw_decode(text, max(text.find("{"), 0))
        except (ValueError, RecursionError):
            return {}, False
        if _has_another(text[end:], content):
            return {}, True  # a second message must not be lost
    while isinstance(content, list) and len(content) == 1:
        [content] = content
    return by_lower_name(content) if isinstance(content, dict) else {}, True


def _has_another(rest: str, first: object) -> bool:
    """Whether the text after a message holds another one."""
    at = rest.find("{")
    try:
        return at >= 0 and _LENIENT.raw_decode(rest, at)[0] != first
    except (ValueError, RecursionError):
        return False


# -- any text -------------------------------------------------------------------------------------------


_VALUE = r"""(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^\s"'&<>,;{}\[\]]+))"""


def _pattern(name: str) -> re.Pattern[str]:
    """A field and its value, as in JSON, in a form or in XML."""
    return re.compile(rf"""\b{name}["']?\s*[:=>]\s*[\[{{(]*\s*{_VALUE}""", re.IGNORECASE)


_CREDENTIALS = (_pattern("username"), _pattern("password"))
_PATTERNS = (*_CREDENTIALS, _pattern("request_?id"))
_COUNT = re.compile(r"""["']?\bcallback_?count["']?\s*[:=>]\s*["']?[0-9]+["']?\s*,?""", re.IGNORECASE)


def _first_value(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    if found is None:
        return None
    quoted, single_quoted, bare = found.groups()
    if quoted is None:
        return single_quoted or (None if bare == "null" else bare)
    try:
        return str(json.loads(f'"{quoted}"', strict=False))
    except ValueError:
        return str(quoted)


def _hidden(field_and_value: re.Match[str]) -> str:
    field, value = field_and_value[0], next(filter(None, field_and_value.groups()), "")
    return field.removesuffix(f'"{value}"').removesuffix(f"'{value}'").removesuffix(value) + '"[hidden]"'
