"""Each row of the tables, by an example of it; and docs/reference/answers.md, which is made from them."""

import re
from pathlib import Path

import pytest

from batchlic.carrier.answers import Reply
from batchlic.carrier.bodies import read_body
from batchlic.carrier.interpretation import conclude
from batchlic.carrier.rules import BY_ERROR, BY_STATUS, CODE_PATTERNS, CODES, CodeRule, StatusRule
from batchlic.carrier.rules_page import page
from batchlic.carrier.signs import SIGNS, Sign
from batchlic.carrier.words import (
    DUPLICATE_WORDS,
    LIMIT_REACHED,
    OTHER_REQUEST_AT_WORK,
    PERHAPS_EXECUTED,
    TOKEN_WORDS,
    TOO_MANY_REQUESTS,
    WordRule,
)

WORDS = [
    *TOKEN_WORDS,
    *DUPLICATE_WORDS,
    TOO_MANY_REQUESTS,
    LIMIT_REACHED,
    OTHER_REQUEST_AT_WORK,
    *PERHAPS_EXECUTED,
]
_HEADER = re.compile(r"[A-Za-z-]+: [^;]*(?:; )?")


def reply(status: int, body: bytes | str = b"", **headers: str) -> Reply:
    return Reply(status, headers, body if isinstance(body, bytes) else body.encode())


def reply_of(sign: Sign, status: int) -> Reply:
    """The reply that the example of a sign describes: a body, a header, or both."""
    header = _HEADER.match(sign.example) if sign.headers else None
    if header is None:
        return reply(status, sign.example)
    name, _, value = header.group().removesuffix("; ").partition(": ")
    return Reply(status, {name.lower(): value}, sign.example[header.end() :].encode())


@pytest.mark.parametrize("sign", SIGNS, ids=lambda sign: f"{sign.gateway}: {sign.example[:60]}")
def test_each_sign_decides_for_its_example(sign: Sign) -> None:
    statuses = [status for status in (408, *range(500, 530)) if status in sign.statuses]
    for status in statuses:
        answer = reply_of(sign, status)
        assert conclude(answer, read_body(answer)) == sign.conclusion


@pytest.mark.parametrize("rule", CODES, ids=lambda rule: rule.codes[0])
@pytest.mark.parametrize(
    "form", ['{{"errorCode":"{}"}}', '{{"fault":{{"code":"{}"}}}}', "<a:fault><a:code>{}</a:code></a:fault>"]
)
def test_a_code_decides_in_every_form(rule: CodeRule, form: str) -> None:
    for code in rule.codes:
        for status in (200, 400, 403, 404, 500, 502, 503, 504):
            if status in rule.statuses:
                answer = reply(status, form.format(code))
                assert conclude(answer, read_body(answer)) == rule.conclusion


@pytest.mark.parametrize("rule", WORDS, ids=lambda rule: rule.about)
@pytest.mark.parametrize(
    "form", ["{}", '{{"errorCode":"400","errorMessage":"{}"}}', "<html><h1>{}</h1></html>"]
)
def test_words_decide_for_their_examples(rule: WordRule, form: str) -> None:
    for words in rule.examples:
        for status in (400, 403):
            answer = reply(status, form.format(words))
            assert conclude(answer, read_body(answer)) == rule.conclusion


@pytest.mark.parametrize("rule", BY_STATUS, ids=lambda rule: str(rule.statuses))
def test_a_status_decides_if_nothing_else_is_known(rule: StatusRule) -> None:
    status = next(status for status in rule.statuses if _first_rule(status) is rule)
    plain, coded = reply(status), reply(status, b'{"errorCode":"SOMETHING"}')
    assert conclude(plain, read_body(plain)) == rule.other
    assert conclude(coded, read_body(coded)) == rule.coded


def _first_rule(status: int) -> StatusRule:
    return next(rule for rule in BY_STATUS if status in rule.statuses)


def test_the_page_of_answers_agrees_with_the_tables() -> None:
    written = Path(__file__).parents[2] / "docs" / "reference" / "answers.md"
    assert written.read_text() == page(), "run make docs-answers"


def test_every_rule_says_why() -> None:
    reasons = [
        *(rule.why for rule in CODES),
        *(rule.why for rule in CODE_PATTERNS),
        *(rule.why for rule in WORDS),
        *(sign.why for sign in SIGNS),
        *(rule.why for rule in BY_STATUS),
        *(rule.why for rule in BY_ERROR),
    ]
    assert [why for why in reasons if not why.endswith(".")] == []
