"""What every request must pass, and the headers of every answer."""

from math import ceil
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchlic.web.access import FailureLimit, Hosts, Sessions, Token

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: with that, browsers hide the origin of a login form, too.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

_POSTED = {"/login", "/logout"}
_OPEN_TO_ALL = {"/login", "/healthz", "/static/report.css", "/static/pages.css", "/static/icon.svg"}

SESSION_COOKIE = "batchlic-session"


class Guard:
    """Refuses requests with another method than GET and HEAD, from another site, or without a session.

    Without a `token`, no session is needed. /metrics also takes the token as a bearer token.
    """

    def __init__(
        self, app: ASGIApp, *, token: Token | None, sessions: Sessions, failures: FailureLimit, hosts: Hosts
    ) -> None:
        self._app = app
        self._token = token
        self._sessions = sessions
        self._failures = failures
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that must not reach the pages.

        It goes by the path that the pages are chosen by, and not by `request.url`: its Host header and its
        query are texts of the sender, who may put anything there.
        """
        path = request.scope["path"]
        if refusal := self._refusal_of_form(request):
            return refusal
        if path != "/healthz" and not self._hosts.accepts(request.headers.get("host", "")):
            return PlainTextResponse("unknown host name: add it with --public-host\n", 421)
        if self._token is None or path in _OPEN_TO_ALL or has_session(request, self._sessions):
            return None
        return self._refusal_of_metrics(request, self._token) if path == "/metrics" else _login_first(request)

    def _refusal_of_form(self, request: Request) -> Response | None:
        path = request.scope["path"]
        allowed = "POST" if path == "/logout" else "GET, HEAD, POST" if path in _POSTED else "GET, HEAD"
        if request.method not in allowed.split(", "):
            return PlainTextResponse("these pages are read-only\n", 405, headers={"Allow": allowed})
        if request.method == "POST" and not _is_of_this_site(request.headers):
            return PlainTextResponse("this form comes from another site\n", 403)
        return None

    def _refusal_of_metrics(self, request: Request, token: Token) -> Response | None:
        address = address_of(request)
        if wait := self._failures.wait_s(address):
            return PlainTextResponse("too many wrong tokens\n", 429, headers={"Retry-After": f"{ceil(wait)}"})
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and token.is_same(given.strip()):
            return None
        if given:
            self._failures.fail(address)
        return PlainTextResponse("give the token\n", 401, headers={"WWW-Authenticate": "Bearer"})


def _login_first(request: Request) -> Response:
    path = request.scope["path"]
    if path.endswith("/live"):
        return PlainTextResponse("log in first\n", 401)
    query = request.scope["query_string"].decode("latin-1")
    asked = f"{path}?{query}" if query else path
    return RedirectResponse(f"/login?next={quote(asked, safe='/')}", 303)


def has_session(request: Request, sessions: Sessions) -> bool:
    """Whether a request has the cookie of an open session."""
    values = (request.cookies.get(name, "") for name in (SESSION_COOKIE, f"__Host-{SESSION_COOKIE}"))
    return any(value and sessions.is_open(value) for value in values)


def address_of(request: Request) -> str:
    """The address that sent a request, or that of the proxy before the server."""
    return request.client.host if request.client else ""


def _is_of_this_site(headers: Headers) -> bool:
    """Whether a form was sent by a page of this server, or by a program.

    Browsers send Origin with each POST, and Sec-Fetch-Site where the connection is trusted:
    https://www.rfc-editor.org/rfc/rfc6454 and https://www.w3.org/TR/fetch-metadata.
    """
    if (site := headers.get("sec-fetch-site")) is not None:
        return site in {"same-origin", "none"}
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2].lower() == headers.get("host", "").lower()
