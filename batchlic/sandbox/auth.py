"""Authentication: the OAuth login, the session login, their tokens, and the lock after five wrong logins."""

import base64
import binascii
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs

from batchlic.carrier.messages import AccessToken, Login, Session
from batchlic.sandbox.config import TokenConfig
from batchlic.sandbox.refusals import Refusal, gateway_refusal, platform_refusal
from batchlic.sandbox.request_bodies import LoginBody

NAME = SECRET = "sandbox"  # noqa: S105 - the published credentials of the sandbox, for both logins
WRONG_LOGINS_BEFORE_LOCK = 5


class LoginLock:
    """Counts wrong logins in a row. A locked login stays locked until the sandbox ends."""

    def __init__(self) -> None:
        self._wrong_logins = 0

    @property
    def locked(self) -> bool:
        """Whether the login refuses even the right credentials."""
        return self._wrong_logins >= WRONG_LOGINS_BEFORE_LOCK

    def accepts(self, credentials: Login) -> bool:
        """Check credentials and count them; return whether they are accepted."""
        if self.locked:
            return False
        is_right = (credentials.username, credentials.password) == (NAME, SECRET)
        self._wrong_logins = 0 if is_right else self._wrong_logins + 1
        return is_right


class Authenticator:
    """Both logins and all tokens; times in seconds of anyio's clock.

    Within the lifetime of an access token, every OAuth login returns the same token. Every session login
    opens a session, which expires when it is unused for `session_idle_s` seconds.
    """

    def __init__(self, lifetimes: TokenConfig, new_id: Callable[[], str]) -> None:
        self._lifetimes = lifetimes
        self._new_id = new_id
        self._oauth_lock, self._session_lock = LoginLock(), LoginLock()
        self._access_expiry: dict[str, float] = {}
        self._session_expiry: dict[str, float] = {}
        self._newest_access = ""

    def access_token(self, headers: Mapping[bytes, bytes], form: bytes, now: float) -> AccessToken:
        """Handle the OAuth login: client credentials in a Basic header, the grant as a form."""
        if not self._oauth_lock.accepts(_basic(headers)):
            reason = (
                "The login is locked." if self._oauth_lock.locked else "The client credentials are wrong."
            )
            raise gateway_refusal(401, "900901", "Invalid Credentials", reason)
        if parse_qs(form.decode("latin-1")).get("grant_type") != ["client_credentials"]:
            raise gateway_refusal(400, "900901", "Invalid Request", "grant_type must be client_credentials.")
        if self._access_expiry.get(self._newest_access, now) <= now:
            self._newest_access = self._new_id()
            self._access_expiry[self._newest_access] = now + self._lifetimes.access_life_s
        remaining = round(self._access_expiry[self._newest_access] - now)
        return AccessToken(self._newest_access, expires_in=remaining, scope="default")

    def open_session(self, credentials: LoginBody, now: float) -> Session:
        """Handle the session login."""
        if not self._session_lock.accepts(Login(credentials.username, credentials.password)):
            reason = "The login is locked." if self._session_lock.locked else "Wrong username or password."
            raise Refusal(
                401, {"errorCode": "UnifiedWebService.REQUEST_FAILED.Login.Rejected", "errorMessage": reason}
            )
        token = self._new_id()
        self._session_expiry[token] = now + self._lifetimes.session_idle_s
        return Session(token)

    def close_session(self, headers: Mapping[bytes, bytes], now: float) -> Session:
        """Handle the session logout."""
        token = self.check_session(headers, now)
        del self._session_expiry[token]
        return Session(token)

    def check_access(self, headers: Mapping[bytes, bytes], now: float) -> str:
        """Return the valid bearer token of a request, or raise the gateway's Refusal."""
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
        """Return the valid session token of a request and restart its idle time, or raise a Refusal."""
        token = headers.get(b"vz-m2m-token", b"").decode("latin-1")
        if not token:
            raise platform_refusal("REQUEST_FAILED.SessionToken.Format", "VZ-M2M-Token is required.")
        expiry = self._session_expiry.get(token)
        if expiry is None:
            raise platform_refusal("INPUT_INVALID.SessionToken.Invalid", "The session token is not known.")
        if expiry <= now:
            raise _session_expired()
        self._session_expiry[token] = now + self._lifetimes.session_idle_s
        return token

    def expire_access(self, token: str, now: float) -> Refusal:
        """Expire an access token early, for all callers; return the Refusal for it."""
        self._access_expiry[token] = now
        return _access_expired()

    def expire_session(self, token: str, now: float) -> Refusal:
        """Expire a session early, for all callers; return the Refusal for it."""
        self._session_expiry[token] = now
        return _session_expired()


def _basic(headers: Mapping[bytes, bytes]) -> Login:
    """The credentials of a Basic header; without one, empty credentials, which are always wrong."""
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
