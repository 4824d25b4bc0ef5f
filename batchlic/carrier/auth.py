"""Who we are to the carrier: credentials, the two tokens, and one login however many ask (promise G)."""

import re
from base64 import b64encode
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlencode

import anyio
import httpx
import msgspec

from batchlic.carrier.answers import UNREADABLE, Answer, Outcome, Reply, Token, read_reply, read_silence
from batchlic.carrier.messages import AccessToken, Login, Session
from batchlic.carrier.wire import COMMON, Headers, Wire
from batchlic.errors import CredentialsRejected, StoppedEarly, UsageError

MAX_UNANSWERED_LOGINS = 3
"""Session logins in a row without an answer, while the password has never been accepted. Five failures lock
the login, and a lost answer may have been a failure, so this stays below; an accepted password can't lock."""

_VISIBLE = re.compile(r"[!-~]+")
_LOGOUT_PATIENCE = 5.0

_M = TypeVar("_M", AccessToken, Session)


class CarrierUnreachable(StoppedEarly):
    """No answer that settles the matter, and nothing says that we are wrong: worth asking again later.

    `retry_after_s`: seconds that the carrier asked to wait, if it did.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Secret:
    """Text that shows itself to `reveal()` only, never in a repr, a log or an error (promise F)."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text; for the wire alone."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "Secret(…)"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the settings give: key and password to log in with, ready-made tokens, or a mixture.

    A ready-made token is used until the carrier rejects it.
    """

    client_id: Secret | None = None
    client_secret: Secret | None = None
    username: Secret | None = None
    password: Secret | None = None
    access_token: Secret | None = None
    session_token: Secret | None = None

    def __post_init__(self) -> None:
        """Raise UsageError if a token is missing and can't be fetched, or can't stand in an HTTP header."""
        for token, setting in ((self.access_token, "ACCESS"), (self.session_token, "SESSION")):
            if token and not _VISIBLE.fullmatch(token.reveal()):
                raise UsageError(
                    f"BATCHLIC_{setting}_TOKEN: holds a space or another character that no token has"
                )
        if not self.access_token and not self.has_key:
            raise UsageError("set BATCHLIC_CLIENT_ID and BATCHLIC_CLIENT_SECRET, or BATCHLIC_ACCESS_TOKEN")
        if not self.session_token and not self.has_password:
            raise UsageError("set BATCHLIC_USERNAME and BATCHLIC_PASSWORD, or BATCHLIC_SESSION_TOKEN")

    @property
    def has_key(self) -> bool:
        """Whether access tokens can be fetched."""
        return bool(self.client_id and self.client_secret)

    @property
    def has_password(self) -> bool:
        """Whether sessions can be opened."""
        return bool(self.username and self.password)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Both tokens as request headers, and the generation that an answer names to have them renewed."""

    generation: int
    headers: Headers = field(repr=False)


class Keyring:
    """Holds the tokens of one client and renews each once, for however many workers ask.

    Each token remembers the generation it came with: a worker whose request carried an older one only needs
    the one that is there. A rejection is remembered: after it nobody reaches the carrier's login again.
    """

    def __init__(self, wire: Wire, credentials: Credentials) -> None:
        self._wire = wire
        self._credentials = credentials
        self._lock = anyio.Lock()
        self._rejection: str | None = None
        self._unanswered = 0
        self._password_accepted = False
        self._access = _reveal(credentials.access_token)
        self._session = _reveal(credentials.session_token)
        self._access_since = self._session_since = 0
        self.tokens = Tokens(0, self._headers())
        self.secrets = _hideable(credentials)

    async def login(self) -> None:
        """Fetch missing tokens. Raises CredentialsRejected, CarrierUnreachable, StoppedEarly."""
        async with self._lock:
            self._refuse_if_rejected()
            if not self._access:
                await self._renew_access()
            if not self._session:
                await self._renew_session()

    async def renew(self, rejected: Token, generation: int) -> None:
        """Renew what the carrier rejected of that generation, unless that is done. Raises as `login`."""
        async with self._lock:
            self._refuse_if_rejected()
            if self._renewed_since(rejected, generation):
                return
            if rejected is Token.SESSION or (rejected is Token.EITHER and not self._credentials.has_key):
                await self._renew_session()
                return
            stale = self._access
            await self._renew_access()
            if self._access != stale:
                return
            if rejected is Token.ACCESS:
                raise CarrierUnreachable("the carrier hands out the access token that it rejects")
            await self._renew_session()  # the access token is still good, so it was the other

    def _renewed_since(self, rejected: Token, generation: int) -> bool:
        access, session = self._access_since > generation, self._session_since > generation
        return {Token.ACCESS: access, Token.SESSION: session, Token.EITHER: access or session}[rejected]

    async def logout(self) -> None:
        """End the session if it was opened here; whatever comes of it, it is over for us."""
        if not self._session or self._session_since == 0:
            return
        headers, self._session = self.tokens.headers, ""
        with anyio.move_on_after(_LOGOUT_PATIENCE, shield=True):
            try:
                await self._wire.exchange("POST", self._wire.url("/m2m/v1/session/logout"), headers)
            except httpx.RequestError:
                return

    async def _renew_access(self) -> None:
        key, secret = self._credentials.client_id, self._credentials.client_secret
        if not key or not secret:
            raise self._rejected("BATCHLIC_ACCESS_TOKEN is rejected or has expired; give a new one")
        basic = b64encode(f"{key.reveal()}:{secret.reveal()}".encode())
        headers = [
            (b"Authorization", b"Basic " + basic),
            (b"Content-Type", b"application/x-www-form-urlencoded"),
        ]
        body = urlencode({"grant_type": "client_credentials"}).encode()
        reply = await self._ask("/ts/v1/oauth2/token", headers, body)
        token = _decoded(reply, AccessToken)
        if token is None or not _VISIBLE.fullmatch(token.access_token):
            raise self._failed(reply, "OAuth", "BATCHLIC_CLIENT_ID and BATCHLIC_CLIENT_SECRET")
        self._access, self._access_since = token.access_token, self.tokens.generation + 1
        self._renewed(token.access_token)

    async def _renew_session(self) -> None:
        if not self._credentials.has_password:
            raise self._rejected("BATCHLIC_SESSION_TOKEN is rejected or has expired; give a new one")
        reply = await self._ask_for_session()
        if read_reply(reply).rejected is Token.ACCESS:
            await self._renew_access()
            reply = await self._ask_for_session()
        session = _decoded(reply, Session)
        if session is None or not _VISIBLE.fullmatch(session.session_token):
            raise self._failed(reply, "session", "BATCHLIC_USERNAME and BATCHLIC_PASSWORD")
        self._password_accepted = True
        self._session, self._session_since = session.session_token, self.tokens.generation + 1
        self._renewed(session.session_token)

    async def _ask_for_session(self) -> Reply:
        if self._unanswered >= MAX_UNANSWERED_LOGINS and not self._password_accepted:
            raise StoppedEarly(
                f"{self._unanswered} logins in a row had no answer; another might lock the login: try later"
            )
        username, password = self._credentials.username, self._credentials.password
        login = Login(username=_reveal(username), password=_reveal(password))
        headers = [
            (b"Authorization", f"Bearer {self._access}".encode()),
            (b"Content-Type", b"application/json"),
        ]
        self._unanswered += 1  # before sending, so that a cancelled login counts
        try:
            reply = await self._ask("/m2m/v1/session/login", headers, msgspec.json.encode(login))
        except _NotSent:
            self._unanswered -= 1
            raise
        if _decoded(reply, Session) is not None:
            self._unanswered = 0
        elif read_reply(reply).outcome is not Outcome.AMBIGUOUS:
            self._unanswered -= 1  # not executed: it neither failed nor ended a row of failures
        return reply

    async def _ask(self, path: str, headers: Headers, body: bytes) -> Reply:
        try:
            return await self._wire.exchange("POST", self._wire.url(path), [*headers, *COMMON], body)
        except httpx.RequestError as error:
            answer = read_silence(error, secrets=self.secrets)
        unsent = answer.outcome is Outcome.UNAVAILABLE
        raise (_NotSent if unsent else CarrierUnreachable)(f"no login: {answer.error_message}")

    def _failed(self, reply: Reply, login: str, settings: str) -> CredentialsRejected | CarrierUnreachable:
        """Error for a login that brought no token. Any 401 and 403 counts as rejected, whoever said it."""
        answer = read_reply(reply, secrets=self.secrets)
        words = f"HTTP {reply.status}: {_words(answer)}"
        if answer.outcome in {Outcome.REFUSED, Outcome.UNAUTHORIZED} or reply.status in {401, 403}:
            return self._rejected(f"the carrier rejected the {login} login ({words}); check {settings}")
        return CarrierUnreachable(f"no {login} login ({words})", answer.retry_after_s)

    def _rejected(self, text: str) -> CredentialsRejected:
        self._rejection = text
        return CredentialsRejected(text)

    def _refuse_if_rejected(self) -> None:
        if self._rejection is not None:
            raise CredentialsRejected(self._rejection)

    def _renewed(self, token: str) -> None:
        if token not in self.secrets:
            self.secrets = (token, *self.secrets)
        self.tokens = Tokens(self.tokens.generation + 1, self._headers())

    def _headers(self) -> Headers:
        return [
            (b"Authorization", f"Bearer {self._access}".encode()),
            (b"VZ-M2M-Token", self._session.encode()),
            (b"Content-Type", b"application/json"),
            *COMMON,
        ]


class _NotSent(CarrierUnreachable):
    """No connection: this login did not happen."""


def _reveal(secret: Secret | None) -> str:
    return secret.reveal() if secret else ""


def _hideable(credentials: Credentials) -> tuple[str, ...]:
    """All texts that must not come back in an answer, longest first, so that none hides half of another."""
    names = ("client_id", "client_secret", "username", "password", "access_token", "session_token")
    texts = {_reveal(getattr(credentials, name)) for name in names} - {""}
    basic = b64encode(
        f"{_reveal(credentials.client_id)}:{_reveal(credentials.client_secret)}".encode()
    ).decode()
    return tuple(sorted(texts | {basic}, key=len, reverse=True))


def _decoded(reply: Reply, kind: type[_M]) -> _M | None:
    if not 200 <= reply.status < 300:
        return None
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except UNREADABLE:
        return None


def _words(answer: Answer) -> str:
    return " ".join(filter(None, (answer.error_code, answer.error_message))) or "no reason given"
