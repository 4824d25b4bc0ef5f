"""Secrets are hidden however a text spells them (promise F)."""

import html
import json
from base64 import b64encode
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.carrier.hiding import _pattern, hide


def numbered(text: str, form: str) -> str:
    return "".join(character if character.isalnum() else form.format(ord(character)) for character in text)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "a URL": lambda text: quote(text, safe=""),
    "a path": quote,
    "a URL in lower case": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "a form": quote_plus,
    "a URL, twice": lambda text: quote(quote(text, safe=""), safe=""),
    "a page": html.escape,
    "a page, twice": lambda text: html.escape(html.escape(text)),
    "a page that keeps quotes": lambda text: html.escape(text, quote=False),
    "a page of Java": lambda text: numbered(text, "&#0{};"),
    "a page with hex": lambda text: numbered(text, "&#x{:X};"),
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON, not escaped": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON, twice": lambda text: json.dumps(json.dumps(text))[3:-3],
    "JSON of PHP": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON of .NET": lambda text: numbered(text, "\\u{:04X}") if text.isascii() else json.dumps(text)[1:-1],
    "a wrong encoding": lambda text: text.encode().decode("latin-1"),
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
@given(secret=st.text(st.characters(exclude_categories=("C", "Z")), min_size=4, max_size=20))
def test_f_a_secret_is_hidden_in_every_spelling(spell: Callable[[str], str], secret: str) -> None:
    assert hide(f"« {spell(secret)} »", (secret,)) == "« [hidden] »"


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_f_a_password_with_a_space_and_quotes_is_hidden(spell: Callable[[str], str]) -> None:
    password = "p@ss 'w'/<1>&\"+\\\\é"
    assert hide(spell(password), (password,)) == "[hidden]"


@pytest.mark.parametrize("change", [str.upper, str.title, lambda text: text.replace("-", "%2D")])
def test_f_a_session_token_is_hidden_in_any_case(change: Callable[[str], str]) -> None:
    token = "c3f3d17c-79ff-4b35-82df-94446785b6e0"
    assert hide(f"token {change(token)}", (token,)) == "token [hidden]"


@pytest.mark.parametrize("key", ["key:secret", "key:secrets", "key:secretss"])
def test_f_base64_is_hidden_without_its_padding(key: str) -> None:
    encoded = b64encode(key.encode()).decode()
    for spelled in (encoded, encoded.rstrip("="), quote(encoded, safe="")):
        assert hide(f"Basic {spelled}.", (encoded,)) == "Basic [hidden]."


@pytest.mark.parametrize("spell", [str.upper, quote_plus, html.escape, lambda text: json.dumps(text)[1:-1]])
def test_f_a_long_token_is_hidden(spell: Callable[[str], str]) -> None:
    token = "eyJhbGciOiJSUzI1NiJ9.a-b_c/+=" * 60
    assert hide(f"token {spell(token)}", (token,)) == "token [hidden]"


def test_the_pattern_of_a_long_token_is_not_much_longer_than_the_token() -> None:
    token = "eyJhbGciOiJSUzI1NiJ9-a_b" * 60
    assert len(_pattern(token).pattern) < 2 * len(token)


def test_a_short_secret_hides_no_word_in_another_case() -> None:
    assert hide("Account of user USER", ("user",)) == "Account of [hidden] USER"


@pytest.mark.parametrize("filler", ["a", "\\", "%", "%25", "&", "&amp;", "&#0", "\\u", "' ", "=", "\\'"])
@pytest.mark.parametrize("secret", ["aaaaaaaa", "\\\\\\\\", "a=&%'\"\\\\'\"", "''''''''", "========"])
def test_a_text_of_64_kilobytes_is_searched_at_once(filler: str, secret: str) -> None:
    """With a pattern that is worse than linear, this test does not end."""
    assert hide(filler * (64_000 // len(filler)), (f"{secret}x",)).startswith(filler)
