"""Compares headers."""

import re
import unicodedata

_HIDDEN = re.compile(r"[\W_]+")


def fold(header: str) -> str:
    """A header without case, punctuation, spaces and invisible characters."""
    return _HIDDEN.sub("", unicodedata.normalize("NFKC", header)).casefold()
