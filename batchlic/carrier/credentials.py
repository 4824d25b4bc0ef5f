"""The credentials that the settings give, and `Secret`, which keeps them out of logs and errors."""

import re
import unicodedata
from base64 import b64encode
from dataclasses import dataclass

from batchlic.errors import UsageError

_VISIBLE = re.compile(r"[!-~]+")


class Secret:
    """Text that only `reveal()` returns: repr, logs, errors and pickles never show it (promise F)."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, to send it to the carrier or to compare it."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "Secret(…)"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Credentials from the settings: a key and a password to log in with, ready-made tokens, or both.

    A ready-made token is used until the carrier rejects it.
    """

    client_id: Secret | None = None
    client_secret: Secret | None = None
    username: Secret | None = None
    password: Secret | None = None
    access_token: Secret | None = None
    session_token: Secret | None = None

    def __post_init__(self) -> None:
        """Raise UsageError if a token can neither be used nor fetched, or a text has an odd character.

        Each failed login counts towards the lock of the login, so what can't be right is not sent.
        """
        for name in self.__dataclass_fields__:
            refuse_odd_characters(f"BATCHLIC_{name.upper()}", revealed(getattr(self, name)))
        _refuse_other_than_ascii("BATCHLIC_CLIENT_ID", revealed(self.client_id))
        _refuse_other_than_ascii("BATCHLIC_CLIENT_SECRET", revealed(self.client_secret))
        if ":" in revealed(self.client_id):
            raise UsageError(
                "BATCHLIC_CLIENT_ID contains a colon, which HTTP Basic does not allow (RFC 7617)"
            )
        for token, setting in ((self.access_token, "ACCESS"), (self.session_token, "SESSION")):
            if token and not is_header_value(token.reveal()):
                raise UsageError(
                    f"BATCHLIC_{setting}_TOKEN contains a space or another character that no token has"
                )
        if not self.access_token and not self.can_fetch_access_token:
            raise UsageError("set BATCHLIC_CLIENT_ID and BATCHLIC_CLIENT_SECRET, or BATCHLIC_ACCESS_TOKEN")
        if not self.session_token and not self.can_open_session:
            raise UsageError("set BATCHLIC_USERNAME and BATCHLIC_PASSWORD, or BATCHLIC_SESSION_TOKEN")

    @property
    def can_fetch_access_token(self) -> bool:
        """Whether there is a key for the OAuth login."""
        return bool(self.client_id and self.client_secret)

    @property
    def can_open_session(self) -> bool:
        """Whether there are a username and a password for the session login."""
        return bool(self.username and self.password)

    def basic(self) -> str:
        """The key as HTTP Basic credentials, in Base64; empty parts where there is no key."""
        return b64encode(f"{revealed(self.client_id)}:{revealed(self.client_secret)}".encode()).decode()

    def texts_to_hide(self) -> tuple[str, ...]:
        """All texts that must not appear in an answer.

        The longest come first, so that hiding one leaves no part of another.
        """
        secrets = (
            self.client_id,
            self.client_secret,
            self.username,
            self.password,
            self.access_token,
            self.session_token,
        )
        texts = {revealed(secret) for secret in secrets} - {""}
        return tuple(sorted(texts | {self.basic()}, key=len, reverse=True))


def refuse_odd_characters(setting: str, text: str) -> None:
    """Raise UsageError that names the setting if the text has a line feed or another invisible character.

    Such characters come from files and from copying. Spaces are not refused: a password may have some.
    """
    odd = next((character for character in text if not character.isprintable()), None)
    if odd is None:
        return
    if text.rstrip("\r\n").isprintable():
        raise UsageError(
            f"{setting} ends with a line feed: remove it. `echo` adds one, for example to the value of a "
            "Kubernetes secret; `printf` does not"
        )
    raise UsageError(f"{setting} contains {_name_of(odd)}: remove it, or type the value again")


def _refuse_other_than_ascii(setting: str, text: str) -> None:
    """Raise UsageError if OAuth allows a character neither in a client id nor in a client secret."""
    odd = next((character for character in text if not character.isascii()), None)
    if odd is not None:
        raise UsageError(
            f"{setting} contains {_name_of(odd)}, but OAuth allows ASCII only (RFC 6749, appendix A)"
        )


def _name_of(character: str) -> str:
    """What a character is called, such as "U+200B (ZERO WIDTH SPACE)"."""
    if "\ud800" <= character <= "\udfff":
        return "a byte that is not UTF-8"
    return f"U+{ord(character):04X} ({unicodedata.name(character, 'a control character')})"


def is_header_value(token: str) -> bool:
    """Whether an HTTP header can carry the token: visible ASCII characters only."""
    return _VISIBLE.fullmatch(token) is not None


def revealed(secret: Secret | None) -> str:
    """The text of a secret, empty if there is none."""
    return secret.reveal() if secret else ""
