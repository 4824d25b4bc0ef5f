"""Who may come in: the OAuth login, the session login, their tokens, and the lock after five wrong tries."""

import base64
import binascii
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs

from batchlic.carrier.messages import AccessToken, Login, Session
from batchlic.sandbox.bodies import LoginBody
from batchlic.sandbox.refusals import Refusal, gateway_refusal, platform_refusal

NAME = SECRET = "sandbox"  # noqa: S105 - the published credentials of the sandbox, for both logins
WRONG_LOGINS_BEFORE_LOCK = 5


class Lock:
    """Counts wrong logins in a row; once locked, only a new sandbox opens it."""

    def __init__(self) -> None:
        self._wrong = 0

    @property
    def locked(self) -> bool:
        """Whether even the right credentials are refused."""
        return self._wrong >= WRONG_LOGINS_BEFORE_LOCK

    def opens(self, credentials: Login) -> bool:
        """Whether these credentials come in."""
        if self.locked:
            return False
        right = (credentials.username, credentials.password) == (NAME, SECRET)
        self._wrong = 0 if right else self._wrong + 1
        return right


class Logins:
    """Both logins and all tokens; times in seconds of anyio's clock.

    An access token lives `access_token_s` from when it was made, and within that time is given again to
    whoever asks. A session lives while it is used at least every `session_idle_s`; every login opens one.
    """

    def __init__(self, access_token_s: float, session_idle_s: float, new_id: Callable[[], str]) -> None:
        self._access_token_s = access_token_s
        self._session_idle_s = session_idle_s
        self._new_id = new_id
        self._oauth_lock, self._session_lock = Lock(), Lock()
        self._access_expiry: dict[str, float] = {}
        self._session_expiry: dict[str, float] = {}
        self._newest_access = ""

    def access_token(self, headers: Mapping[bytes, bytes], form: bytes, now: float) -> AccessToken:
        """The OAuth endpoint: client credentials in a Basic header, the grant as a form."""
        if not self._oauth_lock.opens(_basic(headers)):
            reason = (
                "The login is locked." if self._oauth_lock.locked else "The client credentials are wrong."
            )
            raise gateway_refusal(401, "900901", "Invalid Credentials", reason)
        if parse_qs(form.decode("latin-1")).get("grant_type") != ["client_credentials"]:
            raise gateway_refusal(400, "900901", "Invalid Request", "grant_type must be client_credentials.")
        if self._access_expiry.get(self._newest_access, now) <= now:
            self._newest_access = self._new_id()
            self._access_expiry[self._newest_access] = now + self._access_token_s
        remaining = round(self._access_expiry[self._newest_access] - now)
        return AccessToken(self._newest_access, expires_in=remaining, scope="default")

    def open_session(self, credentials: LoginBody, now: float) -> Session:
        """The session login."""
        if not self._session_lock.opens(Login(credentials.username, credentials.password)):
            reason = "The login is locked." if self._session_lock.locked else "Wrong username or password."
            raise Refusal(
                401, {"errorCode": "UnifiedWebService.REQUEST_FAILED.Login.Rejected", "errorMessage": reason}
            )
        token = self._new_id()
        self._session_expiry[token] = now + self._session_idle_s
        return Session(token)

    def close_session(self, headers: Mapping[bytes, bytes], now: float) -> Session:
        """The session logout."""
        token = self.check_session(headers, now)
        del self._session_expiry[token]
        return Session(token)

    def check_access(self, headers: Mapping[bytes, bytes], now: float) -> str:
        """The bearer token of a request, or the gateway's refusal."""
        scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise gateway_refusal(401, "900902", "Missing Credentials", "A bearer token is required.")
        expiry = self._access_expiry.get(token)
        if expiry is None:
            raise gateway_refusal(401, "900901", "Invalid Credentials", "The access token is not known.")
        if expiry <= now:
            raise _access_expired()
        return token

    def check_session(self, headers: Mapping[bytes, bytes], now: float) -> str:
        """The session token of a request, used just now; or the platform's refusal."""
        token = headers.get(b"vz-m2m-token", b"").decode("latin-1")
        if not token:
            raise platform_refusal("REQUEST_FAILED.SessionToken.Format", "VZ-M2M-Token is required.")
        expiry = self._session_expiry.get(token)
        if expiry is None:
            raise platform_refusal("INPUT_INVALID.SessionToken.Invalid", "The session token is not known.")
        if expiry <= now:
            raise _session_expired()
        self._session_expiry[token] = now + self._session_idle_s
        return token

    def expire_access(self, token: str, now: float) -> Refusal:
        """End an access token early, for all who hold it; returns what its holder is told."""
        self._access_expiry[token] = now
        return _access_expired()

    def expire_session(self, token: str, now: float) -> Refusal:
        """End a session early, for all who hold it; returns what its holder is told."""
        self._session_expiry[token] = now
        return _session_expired()


def _basic(headers: Mapping[bytes, bytes]) -> Login:
    """Credentials of a Basic header; empty ones, which nobody has, where there is none."""
    scheme, _, encoded = headers.get(b"authorization", b"").partition(b" ")
    try:
        name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return Login("", "")
    return Login(name, secret) if scheme.lower() == b"basic" else Login("", "")


def _access_expired() -> Refusal:
    return gateway_refusal(401, "900903", "Access Token Expired", "Ask for a new access token.")


def _session_expired() -> Refusal:
    return platform_refusal("REQUEST_FAILED.SessionToken.Expired", "The session was unused for too long.")
