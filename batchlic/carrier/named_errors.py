"""Whether an error field names an error: many programs fill theirs with a zero, a null or "Success"."""

import re
from collections.abc import Iterator

_NO_ERROR = re.compile(
    r"0*(?:\.0+)?|0x0+|20[0-2]|ok|n|success(?:ful(?:ly)?)?|none|null|nil|n\.?/?a\.?|not applicable|-+|false|"
    r"\[\]|\{\}|no(?:[ _-]?(?:errors?|faults?|failures?)"
    r"(?: (?:(?:was|were|has been|have been) )?(?:found|occurred|detected))?[.!]?)?"
)
_DONE = r"(?:accepted|received|submitted|queued|completed|process(?:ed|ing)|success(?:ful(?:ly)?)?)"
_WORD = (
    rf"(?:{_DONE}|the|your|licen[cs]e|request|operation|transaction|order|batch|was|is|has|have|been|being|"
    r"will|be|for|and|ok)"
)
_SUCCESS = re.compile(rf"(?=.*\b{_DONE}\b){_WORD}(?:\W+{_WORD}){{0,12}}[.!]?")
"""A sentence of nothing but these words, such as "Request accepted" or "Your request is being processed"."""


def names_error(value: object) -> bool:
    """Whether the value of an error field, or any value inside it, is the code or the text of an error."""
    texts = (str(scalar).strip().lower() for scalar in scalars(value))
    return any(not _NO_ERROR.fullmatch(text) and not _SUCCESS.fullmatch(text) for text in texts)


def scalars(value: object) -> Iterator[object]:
    """The values inside a value, at any depth, except null; or the value itself."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        elif value is not None:
            yield value
