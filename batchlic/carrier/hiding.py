"""Hides secrets in a text, however the text spells them (promise F).

Gateways quote what they refuse: as JSON, in a page, or as it was in a URL or a form. So each character of a
secret is looked for in all these spellings.
"""

import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from html.entities import codepoint2name

_HIDDEN = "[hidden]"
_ANY_CASE_FROM = 8
"""Characters from which a secret is hidden in upper and lower case: shorter ones may be common words."""

_TOKEN_FROM = 100
"""Characters from which a secret is a token: runs of letters, digits, - and _ are looked for as they are.

Programs do not encode these, and a pattern of all their spellings takes long to compile.
"""

_PADDING = r"(?:=|%(?:25){0,3}3D|&(?:amp;){0,3}#0{0,6}61;|\\{1,8}u003d){0,2}"
"""The end of a Base64 text, which some programs leave out."""

_ENTITIES = {ord("'"): "apos", **codepoint2name}
_PIECE = re.compile(r"\\+|.", re.DOTALL)
_PIECE_OF_TOKEN = re.compile(r"[A-Za-z0-9_-]+|\\+|.", re.DOTALL)


def hide(text: str, secrets: Collection[str]) -> str:
    """Replace the secrets in a text."""
    for secret in filter(None, secrets):
        text = _pattern(secret).sub(_HIDDEN, text)
    return text


@lru_cache(maxsize=256)
def _pattern(secret: str) -> re.Pattern[str]:
    """A pattern for a secret. Its repetitions are bounded: otherwise, some texts would take minutes."""
    unpadded = secret.rstrip("=")
    is_long = len(unpadded) >= _ANY_CASE_FROM
    whole = unpadded if is_long else secret
    misread = whole.encode(errors="replace").decode("latin-1")
    pieces = _PIECE_OF_TOKEN if len(whole) >= _TOKEN_FROM else _PIECE
    spelled = ("".join(map(_spelled, pieces.findall(form))) for form in dict.fromkeys((whole, misread)))
    return re.compile(
        f"(?:{'|'.join(spelled)}){_PADDING if is_long else ''}", re.IGNORECASE if is_long else 0
    )


def _spelled(piece: str) -> str:
    """A pattern for a character or several backslashes in all spellings, the longest first; or for a word."""
    if len(piece) > 1 and not piece.startswith("\\"):
        return re.escape(piece)
    if piece.startswith("\\"):
        encoded = f"(?:{'|'.join(_encoded(piece[0]))})" + f"{{{len(piece)}}}"
        return rf"(?:{encoded}|\\{{{len(piece)},{8 * len(piece)}}})"
    plain = rf"\\{{0,8}}{re.escape(piece)}" if piece in "\"'/" else re.escape(piece)
    return f"(?:{'|'.join([*_encoded(piece), plain])})"


def _encoded(character: str) -> Iterator[str]:
    """Patterns for a character as in a URL, a form, a page and JSON, encoded once or several times."""
    yield "".join(rf"%(?:25){{0,3}}(?i:{byte:02x})" for byte in character.encode(errors="replace"))
    yield rf"&(?:amp;){{0,3}}(?i:#0{{0,6}}{ord(character)}|#x0{{0,6}}{ord(character):x});?"
    yield "".join(rf"\\{{1,8}}u(?i:{unit:04x})" for unit in _utf_16(ord(character)))
    if character == " ":
        yield r"\+"
    if name := _ENTITIES.get(ord(character)):
        yield f"&(?:amp;){{0,3}}{name};?"


def _utf_16(code_point: int) -> tuple[int, ...]:
    """UTF-16 without Python's codec: that is a file, which can't be opened when descriptors are used up."""
    if code_point < 0x10000:
        return (code_point,)
    return 0xD7C0 + (code_point >> 10), 0xDC00 | (code_point & 0x3FF)
