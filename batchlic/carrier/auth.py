"""Logins and tokens: both tokens are fetched and renewed once for all workers (promise G)."""

from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlencode

import anyio
import httpx
import msgspec

from batchlic.carrier.answers import Answer, Outcome, RejectedToken, Reply, TokenKind
from batchlic.carrier.credentials import Credentials, is_header_value, revealed
from batchlic.carrier.http_client import COMMON_HEADERS, Headers, HttpClient, ProxyLoginRequired
from batchlic.carrier.interpretation import DECODE_ERRORS, answer_from_error, answer_from_reply
from batchlic.carrier.messages import AccessToken, Login, Session
from batchlic.errors import CredentialsRejected, StoppedEarly

MAX_UNANSWERED_LOGINS = 3
"""Session logins in a row without an answer, as long as no login with this password succeeded.

The carrier locks a login after five failures, and a login without an answer may be a failure. So the limit is
below five. Once the password was accepted, a login without an answer can't be a failure.
"""

_LOGOUT_TIMEOUT_S = 5.0

_Token = TypeVar("_Token", AccessToken, Session)


class CarrierUnreachable(StoppedEarly):
    """No conclusive answer, and no sign of a mistake on our side: another attempt may succeed.

    `retry_after_s`: seconds that the carrier asked to wait, if it did.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class _NotSent(CarrierUnreachable):
    """There was no connection, so this login was not sent."""


class Logins:
    """Sends the two logins: OAuth for an access token, then the session login.

    A rejected login is remembered: every later login raises the same error and sends nothing (promise G).
    `secrets` are all texts that must not appear in an answer, tokens included.
    """

    def __init__(self, http: HttpClient, credentials: Credentials) -> None:
        self._http = http
        self._credentials = credentials
        self._rejection: str | None = None
        self._unanswered = 0
        self._password_accepted = False
        self.secrets = credentials.texts_to_hide()

    def raise_if_rejected(self) -> None:
        """Raise CredentialsRejected if an earlier login was rejected."""
        if self._rejection is not None:
            raise CredentialsRejected(self._rejection)

    async def fetch_access_token(self) -> str:
        """Log in for an access token. Raises CredentialsRejected, CarrierUnreachable."""
        if not self._credentials.can_fetch_access_token:
            raise self._rejected("BATCHLIC_ACCESS_TOKEN is rejected or has expired; give a new one")
        headers = [
            (b"Authorization", b"Basic " + self._credentials.basic().encode()),
            (b"Content-Type", b"application/x-www-form-urlencoded"),
        ]
        body = urlencode({"grant_type": "client_credentials"}).encode()
        reply = await self._post("/ts/v1/oauth2/token", headers, body)
        token = _decoded(reply, AccessToken)
        if token is None or not is_header_value(token.access_token):
            raise self._failed(reply, "OAuth", "BATCHLIC_CLIENT_ID and BATCHLIC_CLIENT_SECRET")
        return self._hidden(token.access_token)

    async def request_session(self, access_token: str) -> Reply:
        """Send one session login. Raises CredentialsRejected, CarrierUnreachable, StoppedEarly."""
        if not self._credentials.can_open_session:
            raise self._rejected("BATCHLIC_SESSION_TOKEN is rejected or has expired; give a new one")
        if self._unanswered >= MAX_UNANSWERED_LOGINS and not self._password_accepted:
            raise StoppedEarly(
                f"{self._unanswered} logins in a row had no answer and "
                "another one could lock the login: try later"
            )
        login = Login(
            username=revealed(self._credentials.username), password=revealed(self._credentials.password)
        )
        headers = [
            (b"Authorization", f"Bearer {access_token}".encode()),
            (b"Content-Type", b"application/json"),
        ]
        self._unanswered += 1  # before sending, so that a cancelled login counts
        try:
            reply = await self._post("/m2m/v1/session/login", headers, msgspec.json.encode(login))
        except _NotSent:
            self._unanswered -= 1
            raise
        if _decoded(reply, Session) is not None:
            self._unanswered = 0
        elif answer_from_reply(reply).outcome is not Outcome.AMBIGUOUS:
            self._unanswered -= 1  # not executed: neither a failure, nor a success that ends the count
        return reply

    def session_token(self, reply: Reply) -> str:
        """The token in the answer to a session login. Raises CredentialsRejected, CarrierUnreachable."""
        session = _decoded(reply, Session)
        if session is None or not is_header_value(session.session_token):
            raise self._failed(reply, "session", "BATCHLIC_USERNAME and BATCHLIC_PASSWORD")
        self._password_accepted = True
        return self._hidden(session.session_token)

    async def _post(self, path: str, headers: Headers, body: bytes) -> Reply:
        try:
            return await self._http.exchange("POST", self._http.url(path), [*headers, *COMMON_HEADERS], body)
        except ProxyLoginRequired as error:
            raise self._rejected(str(error)) from None
        except httpx.RequestError as error:
            answer = answer_from_error(error, secrets=self.secrets)
        was_sent = answer.outcome is not Outcome.UNAVAILABLE
        raise (CarrierUnreachable if was_sent else _NotSent)(f"no login: {answer.error_message}")

    def _failed(self, reply: Reply, login: str, settings: str) -> CredentialsRejected | CarrierUnreachable:
        """Error for a login without a token. A 401 or 403 counts as rejected, even if a proxy sent it."""
        answer = answer_from_reply(reply, secrets=self.secrets)
        reason = f"HTTP {reply.status}: {_reason(answer)}"
        if answer.outcome in {Outcome.REFUSED, Outcome.UNAUTHORIZED} or reply.status in {401, 403}:
            return self._rejected(f"the carrier rejected the {login} login ({reason}); check {settings}")
        return CarrierUnreachable(f"no {login} login ({reason})", answer.retry_after_s)

    def _rejected(self, text: str) -> CredentialsRejected:
        self._rejection = text
        return CredentialsRejected(text)

    def _hidden(self, token: str) -> str:
        if token not in self.secrets:
            self.secrets = (token, *self.secrets)
        return token


@dataclass(frozen=True, slots=True)
class Tokens:
    """Both tokens as request headers. `generation` counts how often a token was renewed."""

    generation: int
    headers: Headers = field(repr=False)


class TokenManager:
    """Holds the tokens of one client and renews each once, however many workers ask.

    Each token has the generation in which it was fetched. A worker whose request carried an older generation
    needs no renewal: it uses the token that is there.
    """

    def __init__(self, http: HttpClient, credentials: Credentials) -> None:
        self._http = http
        self._logins = Logins(http, credentials)
        self._can_fetch_access_token = credentials.can_fetch_access_token
        self._lock = anyio.Lock()
        self._access = revealed(credentials.access_token)
        self._session = revealed(credentials.session_token)
        self._access_since = self._session_since = 0
        self.tokens = Tokens(0, self._headers())

    @property
    def secrets(self) -> tuple[str, ...]:
        """All texts that must not appear in an answer."""
        return self._logins.secrets

    async def login(self) -> None:
        """Fetch missing tokens. Raises CredentialsRejected, CarrierUnreachable, StoppedEarly."""
        async with self._lock:
            self._logins.raise_if_rejected()
            if not self._access:
                await self._renew_access()
            if not self._session:
                await self._renew_session()

    async def renew(self, rejected: RejectedToken) -> None:
        """Renew the rejected token, unless another worker already did. Raises as `login`."""
        async with self._lock:
            self._logins.raise_if_rejected()
            if self._is_renewed(rejected):
                return
            kind = rejected.kind
            if kind is TokenKind.SESSION or (kind is TokenKind.EITHER and not self._can_fetch_access_token):
                await self._renew_session()
                return
            previous = self._access
            await self._renew_access()
            if self._access != previous:
                return
            if kind is TokenKind.ACCESS:
                raise CarrierUnreachable("the OAuth login returns the access token that the carrier rejects")
            await self._renew_session()  # the access token is still valid, so the session token is rejected

    async def logout(self) -> None:
        """End the session if this client opened it. Failures are ignored: a session expires by itself."""
        if not self._session or self._session_since == 0:
            return
        headers, self._session = self.tokens.headers, ""
        with anyio.move_on_after(_LOGOUT_TIMEOUT_S, shield=True):
            try:
                await self._http.exchange("POST", self._http.url("/m2m/v1/session/logout"), headers)
            except httpx.RequestError:
                return

    def _is_renewed(self, rejected: RejectedToken) -> bool:
        access = self._access_since > rejected.generation
        session = self._session_since > rejected.generation
        return {
            TokenKind.ACCESS: access,
            TokenKind.SESSION: session,
            TokenKind.EITHER: access or session,
        }[rejected.kind]

    async def _renew_access(self) -> None:
        self._access = await self._logins.fetch_access_token()
        self._access_since = self._next_generation()

    async def _renew_session(self) -> None:
        reply = await self._logins.request_session(self._access)
        rejected = answer_from_reply(reply).rejected
        if rejected is not None and rejected.kind is TokenKind.ACCESS:
            await self._renew_access()
            reply = await self._logins.request_session(self._access)
        self._session = self._logins.session_token(reply)
        self._session_since = self._next_generation()

    def _next_generation(self) -> int:
        self.tokens = Tokens(self.tokens.generation + 1, self._headers())
        return self.tokens.generation

    def _headers(self) -> Headers:
        return [
            (b"Authorization", f"Bearer {self._access}".encode()),
            (b"VZ-M2M-Token", self._session.encode()),
            (b"Content-Type", b"application/json"),
            *COMMON_HEADERS,
        ]


def _decoded(reply: Reply, kind: type[_Token]) -> _Token | None:
    if not 200 <= reply.status < 300:
        return None
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except DECODE_ERRORS:
        return None


def _reason(answer: Answer) -> str:
    return " ".join(filter(None, (answer.error_code, answer.error_message))) or "no reason given"
