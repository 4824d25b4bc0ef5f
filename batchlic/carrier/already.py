"""Whether a refusal says that the carrier has already done what the request asks for.

Only such a refusal of a repetition shows that the first request was executed. "Already" alone shows nothing:
"Device is already deactivated", "Device already belongs to another account". So a sentence counts only if it
consists of known words, and if no other sentence is about something else.
"""

import re
from typing import NamedTuple

from batchlic.carrier.bodies import as_words
from batchlic.carrier.catalog import Action


class Asked(NamedTuple):
    """What a request asks for: an action, the SKU, and all identifiers of its devices."""

    action: Action
    sku_number: str
    identifiers: tuple[str, ...]


_FILLERS = """
    the this that requested same device imei iccid sim line subscriber it is was has have had been already
    previously license licence sku to on for from with of by id kind error refused rejected
"""
"""Words that change nothing. "A", "another" and "not" are not among them."""

_DONE = {
    Action.ASSIGN: "assigned active applied provisioned given granted allocated assignment holds",
    Action.UNASSIGN: "unassigned removed released revoked returned",
}
_KNOWN = {action: frozenset(f"{_FILLERS} {done}".split()) for action, done in _DONE.items()}
_BEFORE = r"\b(?:already|previously) (?:been )?"
_SAYS_DONE = {
    Action.ASSIGN: re.compile(
        rf"{_BEFORE}(?:assigned|active|applied|provisioned|given|granted|allocated|on)\b|"
        r"\b(?:already (?:has|have|holds)|(?:has|have) already) (?:the|this|that) "
        r"(?:(?:same|requested) )?license\b"
    ),
    Action.UNASSIGN: re.compile(rf"{_BEFORE}(?:unassigned|removed|released|revoked|returned)\b"),
}
_SOMETHING_ELSE = re.compile(
    r"\b(?:another|others?|different|else|elsewhere|not|no|never|none|cannot|n t|accounts?|belongs?|customer|"
    r"expired|cancell?ed|suspended|deactivated|inactive|insufficient|available|limit\w*|quota|all|may|might|"
    r"could|if|or|either|unless)\b"
)
_LONG_NUMBER = re.compile(r"\b\d{7,}\b")


def says_already(words: str, asked: Asked) -> bool:
    """Whether an error with these words (as `bodies.as_words` gives them) says that the request is done."""
    for identifier in asked.identifiers:
        words = re.sub(rf"\b{re.escape(identifier)}\b", "device", words)
    words = f" {words} ".replace(f" {as_words(asked.sku_number)} ", " license ").replace("licence", "license")
    if _SOMETHING_ELSE.search(words) or _LONG_NUMBER.search(words):
        return False
    return any(_says_done(sentence.strip(), asked.action) for sentence in words.split("|"))


def _says_done(sentence: str, action: Action) -> bool:
    said = sentence.split()
    is_about_license = "license" in said and _KNOWN[action].issuperset(said)
    return is_about_license and _SAYS_DONE[action].search(sentence) is not None
