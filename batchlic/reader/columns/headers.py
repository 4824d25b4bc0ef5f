"""Compares headers as people compare them: case, punctuation and spaces make no difference."""

import re
import unicodedata

_PUNCTUATION = re.compile(r"[\W_]+")
_REMARK = re.compile(r"\(([^()]*)\)|\[([^\[\]]*)\]")


def fold(header: str) -> str:
    """A header without case, punctuation, spaces and invisible characters."""
    return _PUNCTUATION.sub("", unicodedata.normalize("NFKC", header)).casefold()


def without_remarks(header: str) -> str:
    """The folded header without remarks in parentheses: `IMEI (15 digits)` is `imei`."""
    return fold(_REMARK.sub(" ", header))


def remarks(header: str) -> list[str]:
    """The folded remarks in parentheses: `Serial number (IMEI)` has `imei`."""
    return [fold(remark[1] or remark[2] or "") for remark in _REMARK.finditer(header)]
