"""The credentials that the settings give, and `Secret`, which keeps them out of logs and errors."""

import re
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
        """Raise UsageError if a token can neither be used nor fetched: missing, or no valid header value."""
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


def is_header_value(token: str) -> bool:
    """Whether an HTTP header can carry the token: visible ASCII characters only."""
    return _VISIBLE.fullmatch(token) is not None


def revealed(secret: Secret | None) -> str:
    """The text of a secret, empty if there is none."""
    return secret.reveal() if secret else ""
