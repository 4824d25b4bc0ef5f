"""Reads bodies tolerantly: damaged JSON, XML faults, HTML pages, plain text, in any encoding.

Gateways, proxies and old servers answer in many forms. This module reads what a body says; the module
`interpretation` decides what that proves.
"""

import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import islice
from typing import TypeAlias, TypeVar

import msgspec

from batchlic.carrier.answers import Reply
from batchlic.carrier.messages import strip_service_name

DECODE_ERRORS = (msgspec.DecodeError, ValueError, RecursionError)
"""What a decoder raises for a body that is not the expected JSON."""

Scalar: TypeAlias = str | int | float

_T = TypeVar("_T")

_lenient = json.JSONDecoder(strict=False)
"""Accepts raw line feeds and other control characters in strings, NaN and Infinity, and lone surrogates."""

_MAX_VALUES = 1000
_MAX_WORDS = 4000
_MAX_PLAIN = 8000
"""Characters that are searched for words and signs: gateways' pages are short, and some patterns are slow."""

_BEFORE_JSON = re.compile(r"[\s\x00-\x20\ufeff)\]}',;&]{0,16}(?=[{\[\"])")
"""Characters in front of the JSON that mean nothing, such as a byte order mark or the prefix `)]}',`."""

_PAIR = re.compile(r'"(\w{1,40})"\s*:\s*(?:"((?:[^"\\]|\\.)*)"|(-?\d{1,18}(?:\.\d{1,9})?))', re.DOTALL)
_ELEMENT = re.compile(r"<(?:[\w.-]+:)?([\w.-]{1,40})(?:\s[^<>]*)?>([^<>]*)</")
_TAG = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^<>]*>", re.DOTALL | re.IGNORECASE)
_PAGE = re.compile(r"<(!doctype\s+html|html|head|body|title|h[1-6]|center|p|br|div|hr)\b", re.IGNORECASE)
_TITLE = re.compile(r"<title[^<>]*>([^<]+)", re.IGNORECASE)
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)

_SERVICE_CODE = re.compile(
    r"(?<![A-Za-z_])(?:INPUT_INVALID|REQUEST_FAILED|REQUEST_ONHOLD|REQUEST_CANCELLED)(?:\.[A-Za-z]+)+"
)
"""A code of the carrier's services, without the service name."""

_GATEWAY_CODE = re.compile(r"(?:code\W{0,12}|^\W{0,12})([1-9]\d{5})(?!\d)", re.IGNORECASE)
"""A code of the gateway: six digits after the word "code", or at the start of the body."""

_CODE_FIELDS = ("errorCode", "code", "faultcode", "error_code", "__type", "error")
_STATUS_FIELDS = ("statusCode", "status")
_STATUS = re.compile(r"[3-5]\d\d")
_TEXT_FIELDS = (
    "errorMessage",
    "message",
    "description",
    "error_description",
    "faultstring",
    "detail",
    "title",
    "error",
    "reason",
    "msg",
)


class Form(Enum):
    """What a body looks like."""

    EMPTY = "empty"
    JSON = "JSON"
    XML = "XML"
    PAGE = "HTML"
    TEXT = "plain text"


@dataclass(frozen=True)
class Body:
    """A body as text. `values` are pairs: the name of a field or element, and its value."""

    text: str
    form: Form
    values: tuple[tuple[str, Scalar], ...] = ()
    is_complete: bool = True

    def first(self, *fields: str) -> Scalar | None:
        """The value of the first of these fields that the body has, in upper or lower case."""
        by_name = self._by_name
        return next((by_name[name] for field in fields if (name := field.lower()) in by_name), None)

    @cached_property
    def code(self) -> str:
        """The error code without its service name: a code means the same from every service. May be empty."""
        return next(self.codes, "")

    @property
    def codes(self) -> Iterator[str]:
        """All error codes: first those in the fields for codes, then those anywhere in the text."""
        for field in _CODE_FIELDS:
            code = _as_code(self._by_name.get(field.lower()))
            if code and not (field == "error" and " " in code):
                yield strip_service_name(code)
        for field in _STATUS_FIELDS:
            if _STATUS.fullmatch(code := _as_code(self._by_name.get(field.lower()))):
                yield code
        for pattern in (_SERVICE_CODE, _GATEWAY_CODE):
            for found in pattern.finditer(self.text):
                if self.is_complete or found.end() < len(self.text):
                    yield found[found.lastindex or 0]

    @cached_property
    def service_code(self) -> str:
        """The error code if the license service wrote this error, otherwise empty.

        Its errors have a field `errorCode`, in exactly this spelling, or a code such as
        `INPUT_INVALID.DeviceState.Invalid`.
        """
        own = (_as_code(value) for field, value in self.values if field == "errorCode")
        if code := next(filter(None, own), ""):
            return strip_service_name(code)
        return next((code for code in self.codes if _SERVICE_CODE.fullmatch(code)), "")

    @cached_property
    def message(self) -> str:
        """The error's text for people; empty if there is none."""
        texts = (self._by_name.get(field.lower()) for field in _TEXT_FIELDS)
        code = self._by_name.get("error")
        return ": ".join(
            dict.fromkeys(
                text.strip()
                for text in texts
                if isinstance(text, str) and text.strip() and not (text == code and " " not in text)
            )
        )

    @cached_property
    def words(self) -> str:
        """All texts of the error, codes included, in the form of `as_words`, with a bar between them."""
        if self.form is Form.JSON and self.values:
            said = [*(_without_class(code) for code in self.codes), self.message]
        else:
            said = [self.plain]
        return " | ".join(as_words(text[:_MAX_WORDS]) for text in said)

    @cached_property
    def plain(self) -> str:
        """The beginning of the text without markup."""
        start = self.text[:_MAX_PLAIN]
        return " ".join((_TAG.sub(" ", start) if "<" in start else start).split())

    @property
    def title(self) -> str:
        """The title of a page; empty if it has none."""
        found = _TITLE.search(self.text, 0, _MAX_PLAIN)
        return found[1].strip() if found else ""

    @cached_property
    def _by_name(self) -> Mapping[str, Scalar]:
        by_name: dict[str, Scalar] = {}
        for field, value in self.values:
            by_name.setdefault(field.lower(), value)
        return by_name


def read_body(reply: Reply) -> Body:
    """Read the body of a reply; this never fails."""
    text = decode_text(reply.body, reply.headers.get("content-type", ""))
    if not text.strip("\ufeff\x00 \t\r\n"):
        return Body("", Form.EMPTY, is_complete=reply.complete)
    start = text.lstrip("\ufeff\x00 \t\r\n")
    if start.startswith("<"):
        if _PAGE.match(start):
            return Body(text, Form.PAGE, is_complete=reply.complete)
        elements = ((found[1], found[2].strip()) for found in islice(_ELEMENT.finditer(text), _MAX_VALUES))
        values = tuple((name, value) for name, value in elements if value)
        return Body(text, Form.XML, values, is_complete=reply.complete)
    try:
        value, _ = parse(text)
        values = tuple(_values(value))
    except DECODE_ERRORS:
        values = tuple((name, string or number) for name, string, number in _PAIR.findall(text)[:_MAX_VALUES])
    is_json = bool(values) or start.startswith(("{", "["))
    return Body(text, Form.JSON if is_json else Form.TEXT, values, is_complete=reply.complete)


def decode_text(body: bytes, content_type: str = "") -> str:
    """Decode a body: by its byte order mark, as UTF-8 or UTF-16, by its declared charset, or as Latin-1."""
    encoding = json.detect_encoding(body)
    if encoding != "utf-8":
        return body.decode(encoding, errors="replace")
    declared = _CHARSET.search(content_type)
    for candidate in ("utf-8", declared[1] if declared else "latin-1"):
        try:
            return body.decode(candidate)
        except (UnicodeDecodeError, LookupError):
            continue
    return body.decode("latin-1")


def parse(text: str) -> tuple[object, str]:
    """Parse the JSON at the start of a text. Returns its value and the text after it.

    Raises one of `DECODE_ERRORS` if the JSON is not complete.
    """
    before = _BEFORE_JSON.match(text)
    value, end = _lenient.raw_decode(text, before.end() if before else 0)
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value, _ = _lenient.raw_decode(value.lstrip())  # encoded twice
    return value, text[end:]


def decode(body: bytes, kind: type[_T]) -> _T:
    """Decode a body as JSON, tolerantly. Raises one of `DECODE_ERRORS`."""
    try:
        return msgspec.json.decode(body, type=kind)
    except DECODE_ERRORS:
        return msgspec.convert(parse(decode_text(body))[0], kind)


def as_words(text: str) -> str:
    """Lower-case words with single spaces, and a bar between sentences.

    "DUPLICATE_REQUEST" and "DuplicateRequest" both give "duplicate request".
    """
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    sentences = re.sub(r"[.;!?](?=\s)", " | ", apart)
    return " ".join(re.sub(r"[^a-z0-9|]+", " ", sentences.lower()).split())


def is_service_code(value: object) -> bool:
    """Whether a value is a code of the carrier's services, such as `INPUT_INVALID.DeviceState.Invalid`."""
    return isinstance(value, str) and bool(_SERVICE_CODE.fullmatch(strip_service_name(value.strip())))


def _values(value: object) -> Iterator[tuple[str, Scalar]]:
    """The scalar values of an object and of what it contains, the outer ones first."""
    waiting, found = deque([("", value)]), 0
    while waiting and found < _MAX_VALUES:
        name, value = waiting.popleft()
        found += 1
        if isinstance(value, dict):
            waiting.extend((str(key), inner) for key, inner in value.items())
        elif isinstance(value, list):
            waiting.extend((name, inner) for inner in value)
        elif isinstance(value, str | int | float) and not isinstance(value, bool) and name:
            yield name, value


def _as_code(value: Scalar | None) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, str | int) else ""


def _without_class(code: str) -> str:
    """A code of the services without its class: `REQUEST_FAILED` would read as "request failed"."""
    return code.partition(".")[2] if _SERVICE_CODE.fullmatch(code) else code
