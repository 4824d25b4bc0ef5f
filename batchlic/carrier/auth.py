"""Logins and tokens: both tokens are fetched and renewed once for all workers (promise G)."""

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias
from urllib.parse import urlencode

import anyio
import httpx
import msgspec

from batchlic.carrier.answers import Answer, Outcome, RejectedToken, Reply, TokenKind
from batchlic.carrier.bodies import DECODE_ERRORS, Body, decode_text, parse, read_body
from batchlic.carrier.credentials import Credentials, is_header_value, revealed
from batchlic.carrier.http_client import COMMON_HEADERS, Headers, HttpClient, ProxyLoginRequired
from batchlic.carrier.interpretation import answer_from_error, answer_from_reply
from batchlic.carrier.messages import Login
from batchlic.errors import CredentialsRejected, StoppedEarly

MAX_UNANSWERED_LOGINS = 3
"""Session logins in a row without an answer, as long as no login with this password succeeded.

The carrier locks a login after five failures, and a login without an answer may be a failure. So the limit is
below five. Once the password was accepted, a login without an answer can't be a failure.
"""

LOGIN_REFUSED = frozenset(
    {"invalid_client", "unauthorized_client", "invalid_grant", "access_denied", "invalid_scope"}
    | {"invalid_request", "unsupported_grant_type"}
)
"""OAuth's errors that another attempt would not change (RFC 6749, 5.2)."""

_NOT_A_REFUSAL = frozenset({"REQUEST_FAILED.UnexpectedError"})
"""Codes of the service that say nothing about the credentials."""

_INPUT_INVALID = "INPUT_INVALID."
"""What the service's codes about the content of a request begin with."""

_LOCKED = 423

_OF_LOGIN = re.compile(r"password|user|log[ -]?in|lock|credential|attempt", re.IGNORECASE)
"""Words about the credentials of a login."""

_LOGOUT_TIMEOUT_S = 5.0


class _Login(NamedTuple):
    """One of the two logins: its name, the field with its token, and the settings that it needs."""

    name: str
    token: str
    settings: str


_OAUTH = _Login("OAuth", "access_token", "BATCHLIC_CLIENT_ID and BATCHLIC_CLIENT_SECRET")
_SESSION = _Login("session", "sessionToken", "BATCHLIC_USERNAME and BATCHLIC_PASSWORD")


AroundLogin: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]
"""What is entered around each login, such as a lock that processes share."""


class CarrierUnreachable(StoppedEarly):
    """No conclusive answer, and no sign of a mistake on our side: another attempt may succeed.

    `retry_after_s`: seconds that the carrier asked to wait, if it did. `http_status`: that of the answer, if
    there was one.
    """

    def __init__(
        self, message: str, retry_after_s: float | None = None, http_status: int | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.http_status = http_status

    @property
    def may_be_wrong_url(self) -> bool:
        """Whether the answer could come from something else than the carrier's API, at a wrong address."""
        status = self.http_status
        return status is not None and status < 500 and status != 429 and self.retry_after_s is None


class LoginNotSent(CarrierUnreachable):
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
        self.password_accepted = False
        """Whether a login with this password has succeeded."""
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
        token = _token(reply, _OAUTH.token)
        if token is None:
            raise self._failed(reply, _OAUTH)
        return self._hidden(token)

    async def request_session(self, access_token: str) -> Reply:
        """Send one session login. Raises CredentialsRejected, CarrierUnreachable, StoppedEarly."""
        if not self._credentials.can_open_session:
            raise self._rejected("BATCHLIC_SESSION_TOKEN is rejected or has expired; give a new one")
        if self._unanswered >= MAX_UNANSWERED_LOGINS and not self.password_accepted:
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
        except LoginNotSent:
            self._unanswered -= 1
            raise
        if _token(reply, _SESSION.token) is not None:
            self._unanswered = 0
        elif _was_not_checked(reply):
            self._unanswered -= 1  # neither a failed login nor a success that resets the count
        return reply

    def session_token(self, reply: Reply) -> str:
        """The token in the answer to a session login. Raises CredentialsRejected, CarrierUnreachable."""
        token = _token(reply, _SESSION.token)
        if token is None:
            raise self._failed(reply, _SESSION)
        self.password_accepted = True
        return self._hidden(token)

    async def _post(self, path: str, headers: Headers, body: bytes) -> Reply:
        try:
            return await self._http.exchange("POST", self._http.url(path), [*headers, *COMMON_HEADERS], body)
        except ProxyLoginRequired as error:
            raise self._rejected(str(error)) from None
        except httpx.RequestError as error:
            answer = answer_from_error(error, secrets=self.secrets)
        kind = LoginNotSent if answer.outcome is Outcome.UNAVAILABLE else CarrierUnreachable
        raise kind(f"the login failed: {answer.error_message}", answer.retry_after_s)

    def _failed(self, reply: Reply, login: _Login) -> CredentialsRejected | CarrierUnreachable:
        """Return the error for a login whose answer has no token."""
        answer = answer_from_reply(reply, secrets=self.secrets)
        if _is_rejected(reply, answer, login):
            return self._rejected(
                f"the carrier rejected the {login.name} login ({answer.summary}); check {login.settings}"
            )
        reason = answer.summary
        if 200 <= reply.status < 300 and not answer.has_text:
            reason = f"HTTP {reply.status} without a usable {login.token}"
        return CarrierUnreachable(
            f"the {login.name} login failed ({reason})", answer.retry_after_s, reply.status
        )

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

    def __init__(self, http: HttpClient, credentials: Credentials, around_login: AroundLogin) -> None:
        self._http = http
        self._logins = Logins(http, credentials)
        self._around_login = around_login
        self._can_fetch_access_token = credentials.can_fetch_access_token
        self._can_open_session = credentials.can_open_session
        self._lock = anyio.Lock()
        self._access = revealed(credentials.access_token)
        self._session = revealed(credentials.session_token)
        self._access_since = self._session_since = 0
        self.tokens = Tokens(0, self._headers())
        self.have_worked = False
        """Whether the carrier has accepted both tokens of this client, or earlier ones, in a request."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """All texts that must not appear in an answer."""
        return self._logins.secrets

    async def login(self) -> None:
        """Fetch missing tokens. Raises CredentialsRejected, CarrierUnreachable, StoppedEarly."""
        async with self._lock:
            self._logins.raise_if_rejected()
            async with self._around_login():
                if not self._access:
                    await self._renew_access()
                if not self._session:
                    await self._renew_session()

    async def renew(self, rejected: RejectedToken) -> None:
        """Renew the rejected token, unless another worker already did. Raises as `login`.

        A ready-made token can't be renewed. If it worked before, and the answer does not say which token is
        rejected, this may be an outage: the tokens count as renewed, so that the next request tries them.
        """
        async with self._lock:
            self._logins.raise_if_rejected()
            if self._is_renewed(rejected):
                return
            async with self._around_login():
                await self._renew(rejected)

    async def _renew(self, rejected: RejectedToken) -> None:
        if rejected.kind is TokenKind.EITHER and self.have_worked and not self._can_open_session:
            await self._renew_access(keep=not self._can_fetch_access_token)
            return
        kind = TokenKind.SESSION if self._must_be_session(rejected) else rejected.kind
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

    def _must_be_session(self, rejected: RejectedToken) -> bool:
        """Whether an answer that does not say which token is rejected must mean the session token.

        It does if only the access token was renewed after an earlier such answer.
        """
        return rejected.kind is TokenKind.EITHER and self._session_since < self._access_since

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

    async def _renew_access(self, *, keep: bool = False) -> None:
        if not keep:
            self._access = await self._logins.fetch_access_token()
        self._access_since = self._next_generation()

    async def _renew_session(self) -> None:
        reply = await self._logins.request_session(self._access)
        if self._may_be_about_access_token(reply):
            previous = self._access
            await self._renew_access()
            if self._access != previous:
                reply = await self._logins.request_session(self._access)
        self._session = self._logins.session_token(reply)
        self._session_since = self._next_generation()

    def _may_be_about_access_token(self, reply: Reply) -> bool:
        """Whether a login may have been refused because the access token has expired.

        A 401 that gives no reason is more likely about this token than about a password that worked before.
        """
        answer = answer_from_reply(reply)
        if answer.rejected is None or answer.rejected.kind is TokenKind.ACCESS:
            return answer.rejected is not None
        is_either = answer.outcome is Outcome.UNAUTHORIZED and answer.rejected.kind is TokenKind.EITHER
        has_worked = self._logins.password_accepted and self._can_fetch_access_token
        return is_either and has_worked and _gives_no_reason(read_body(reply))

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


def _token(reply: Reply, field: str) -> str | None:
    """The token in a field of a 2xx, without spaces around it; None if it can't be sent in a header."""
    if not 200 <= reply.status < 300:
        return None
    try:
        value, _ = parse(decode_text(reply.body, reply.headers.get("content-type", "")))
    except DECODE_ERRORS:
        return None
    fields = {str(name).lower(): inner for name, inner in value.items()} if isinstance(value, dict) else {}
    token = fields.get(field.lower())
    token = token.strip() if isinstance(token, str) else ""
    return token if is_header_value(token) else None


def _is_rejected(reply: Reply, answer: Answer, login: _Login) -> bool:
    """Whether the carrier rejected the credentials of a login.

    Proof is a code of the service, its gateway or OAuth, a locked login, or a 401 that gives no other reason.
    Everything else is an outage: a 403 or 404 of something in between, whatever its words are, and any answer
    that asks to wait.
    """
    if reply.status == _LOCKED:
        return True
    if answer.outcome is Outcome.THROTTLED or not (200 <= reply.status < 300 or 400 <= reply.status < 500):
        return False
    if login is _SESSION and _is_about_access_token(answer):
        return False
    body = read_body(reply)
    code = body.code  # not `answer.error_code`: hiding a short secret can change it
    is_told_in_2xx = reply.status < 300 and code.startswith(_INPUT_INVALID)
    if answer.outcome is Outcome.REFUSED or is_told_in_2xx:
        return bool(code) and code not in _NOT_A_REFUSAL
    is_coded = bool(body.service_code) or code.startswith("9009")
    is_unauthorized = answer.outcome is Outcome.UNAUTHORIZED and (reply.status == 401 or is_coded)
    return is_unauthorized or code in LOGIN_REFUSED


def _gives_no_reason(body: Body) -> bool:
    """Whether a 401 to a login names no code of its own, and does not mention what was sent to log in."""
    return body.code in {"", "401"} and _OF_LOGIN.search(body.text) is None


def _was_not_checked(reply: Reply) -> bool:
    """Whether the carrier certainly did not check the password, so that this is no failed login."""
    answer = answer_from_reply(reply)
    if answer.outcome is Outcome.UNAVAILABLE:
        return reply.status not in {400, 403}  # the login endpoint itself may send these, in an unknown form
    return answer.outcome is Outcome.THROTTLED or _is_about_access_token(answer)


def _is_about_access_token(answer: Answer) -> bool:
    is_access = answer.rejected is not None and answer.rejected.kind is TokenKind.ACCESS
    return is_access and answer.outcome is Outcome.UNAUTHORIZED
