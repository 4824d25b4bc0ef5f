"""The carrier's API as methods: log in, submit requests, renew tokens, count licenses, manage listeners."""

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
import msgspec

from batchlic.carrier.already import Asked
from batchlic.carrier.answers import Answer, Outcome, RejectedToken, Reply, TokenKind
from batchlic.carrier.auth import AroundLogin, CarrierUnreachable, TokenManager
from batchlic.carrier.bodies import DECODE_ERRORS, decode
from batchlic.carrier.catalog import Action
from batchlic.carrier.credentials import Credentials, Secret
from batchlic.carrier.hiding import hide
from batchlic.carrier.http_client import HttpClient, ProxyLoginRequired, Timeouts, open_http_client
from batchlic.carrier.interpretation import answer_from_error, answer_from_reply
from batchlic.carrier.messages import (
    AssignLicenseRequest,
    CallbackListener,
    CallbackRegistration,
    CallbackService,
    Message,
    ReceivedSubscriptions,
    Subscription,
    SubscriptionsRequest,
)
from batchlic.carrier.refused_questions import RefusalReason, reason_of_refusal
from batchlic.carrier.request_ids import RequestIds
from batchlic.errors import CredentialsRejected, UsageError

CALLBACK_SERVICE = "CarrierService"
"""The carrier calls back the listener of this service with the outcomes of license requests."""

_CACHES = ("x-cache", "x-cache-status", "cf-cache-status", "cache-status", "x-proxy-cache")
_HIT = re.compile(r"(?<![a-z])hit(?![a-z])", re.IGNORECASE)
_AGE = re.compile(r"[ ,]*0*[1-9]")
_METHODS = {Action.ASSIGN: "POST", Action.UNASSIGN: "DELETE"}
_encoder = msgspec.json.Encoder()
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Submission:
    """One license request. An unassign without a body undoes the transaction of its X-Request-ID.

    An assign may have none: an empty `x_request_id` is not sent.
    """

    action: Action
    x_request_id: str
    body: bytes | None

    def asked(self) -> Asked | None:
        """What the body asks for; None without a body."""
        if self.body is None:
            return None
        request = msgspec.json.decode(self.body, type=AssignLicenseRequest)
        identifiers = (identifier.id for device in request.devices for identifier in device.device_ids)
        return Asked(self.action, request.sku_number, tuple(identifiers))

    def identifiers(self) -> tuple[str, ...]:
        """All identifiers in the body, in their order."""
        asked = self.asked()
        return asked.identifiers if asked else ()


class AccountError(UsageError):
    """The carrier refused a request about an account: its name, the SKU or the URL is wrong.

    `names_account`: the refusal is about the account's name. `reason`: what it proves.
    """

    def __init__(
        self,
        message: str,
        *,
        names_account: bool = False,
        reason: RefusalReason = RefusalReason.UNKNOWN,
    ) -> None:
        super().__init__(message)
        self.names_account = names_account
        self.reason = reason


def encode(request: AssignLicenseRequest) -> bytes:
    """Encode a license request. Equal requests give equal bytes."""
    return _encoder.encode(request)


class Carrier:
    """A client of the carrier, shared by all workers; made by `open_client`.

    `batchlic.CarrierClient` is the public client, for programs that only want single requests.
    """

    def __init__(
        self, http: HttpClient, credentials: Credentials, around_login: AroundLogin = nullcontext
    ) -> None:
        self._http = http
        self._token_manager = TokenManager(http, credentials, around_login)
        self._licenses_url = http.url("/m2m/v1/devices/license/actions/assign")
        self._counted_as: dict[str, str] = {}
        self._request_ids = RequestIds()
        self._has_warned = False

    def remember(self, accepted: Iterable[tuple[str, str]]) -> None:
        """Load the answers of earlier sessions of the run, as pairs of requestId and X-Request-ID.

        A requestId that belongs to one of these X-Request-IDs is not believed for another one.
        """
        self._request_ids.remember(accepted)

    async def login(self) -> None:
        """Fetch the tokens that the settings don't give.

        Raises CredentialsRejected (remembered: later calls raise it without sending), CarrierUnreachable
        (another attempt may succeed), StoppedEarly (three logins without an answer: another could lock the
        login).
        """
        await self._token_manager.login()

    async def submit(self, submission: Submission) -> Answer:
        """Send one request. Failures of the carrier or the network are in the answer; they do not raise.

        A requestId that was given to another request before makes the answer ambiguous. A 407 of a proxy is
        `unavailable` with `http_status` 407: repeating the request is useless until the setting is corrected.
        """
        answer, _ = await self.exchange(submission)
        return answer

    async def exchange(self, submission: Submission) -> tuple[Answer, Reply | None]:
        """Send one request as `submit`; return the HTTP response too, or None if none arrived."""
        tokens, secrets = self._token_manager.tokens, self._token_manager.secrets
        named = [(b"X-Request-ID", submission.x_request_id.encode())] if submission.x_request_id else []
        try:
            reply = await self._http.exchange(
                _METHODS[submission.action], self._licenses_url, [*tokens.headers, *named], submission.body
            )
        except ProxyLoginRequired as error:
            return replace(answer_from_error(error, secrets=secrets), http_status=407), None
        except httpx.RequestError as error:
            return answer_from_error(error, secrets=secrets), None
        answer = answer_from_reply(
            reply,
            asked=submission.asked,
            secrets=secrets,
            token_generation=tokens.generation,
        )
        if answer.outcome in {Outcome.ACCEPTED, Outcome.REFUSED}:
            self._token_manager.have_worked = True
        return self._with_warning(self._believed(answer, submission, reply), reply), reply

    def _believed(self, answer: Answer, submission: Submission, reply: Reply) -> Answer:
        """The answer, or an ambiguous one if its requestId was given to another request before."""
        request_id = answer.request_id
        owner = submission.x_request_id or uuid4().hex  # without a name, each request is another one
        if request_id is None or self._request_ids.belongs(request_id, owner):
            return answer
        reply.discard_connections()
        message = f"requestId {request_id} already belongs to another request"
        return replace(answer, outcome=Outcome.AMBIGUOUS, request_id=None, error_message=message)

    def _with_warning(self, answer: Answer, reply: Reply) -> Answer:
        """Warn once if a cache answered: it may answer without asking the carrier."""
        sign = _sign_of_cache(reply.headers)
        if sign is None or self._has_warned:
            return answer
        self._has_warned = True
        warning = (
            f"an answer seems to come from a cache ({sign}): check that no gateway caches license requests"
        )
        return replace(answer, warning=warning)

    def hide(self, text: str) -> str:
        """Replace all credentials and tokens in a text (promise F)."""
        return hide(text, self._token_manager.secrets)

    async def renew(self, answer: Answer) -> None:
        """Renew the token that an `unauthorized` answer rejects, once for all workers.

        If the answer does not say which token is rejected, both may be renewed. Raises as `login`.
        """
        await self._token_manager.renew(answer.rejected or RejectedToken(TokenKind.EITHER))

    async def logout(self) -> None:
        """End the session if this client opened it. Failures are ignored: a session expires by itself."""
        await self._token_manager.logout()

    async def subscriptions(self, account: str, sku: str | None = None) -> list[Subscription]:
        """Ask for the license counts of an account. Raises as `login`, and AccountError.

        The carrier's documents disagree on whether this request takes an account name with a dash. So if a
        refusal names the account, the request is sent once more without the dash; see `counted_as`.
        """
        try:
            return await self._subscriptions(self.counted_as(account), sku)
        except AccountError as refusal:
            without_dash = account.replace("-", "")
            if not refusal.names_account or self.counted_as(account) == without_dash:
                raise
            try:
                counts = await self._subscriptions(without_dash, sku)
            except AccountError:
                raise refusal from None
            self._counted_as[account] = without_dash
            return counts

    def counted_as(self, account: str) -> str:
        """The account name that the carrier took in a request for license counts, with or without dash."""
        return self._counted_as.get(account, account)

    async def _subscriptions(self, account: str, sku: str | None) -> list[Subscription]:
        question = SubscriptionsRequest(account_name=account, sku_number=sku)
        path = "/m2m/v1/accounts/subscriptions/actions/list"
        return (await self._ask("POST", path, ReceivedSubscriptions, question)).read()

    async def listeners(self, account: str) -> list[CallbackListener]:
        """List the listeners of an account, without their passwords. Raises as `subscriptions`."""
        listeners = await self._ask("GET", _callbacks_path(account), list[CallbackListener])
        return [msgspec.structs.replace(listener, password=None) for listener in listeners]

    async def register_listener(
        self, account: str, url: str, username: str | None = None, password: Secret | None = None
    ) -> CallbackService:
        """Register `url` for the outcomes of license requests. Raises as `subscriptions`."""
        registration = CallbackRegistration(
            name=CALLBACK_SERVICE,
            url=url,
            username=username,
            password=password.reveal() if password else None,
        )
        return await self._ask("POST", _callbacks_path(account), CallbackService, registration)

    async def deregister_listener(self, account: str, service: str = CALLBACK_SERVICE) -> CallbackService:
        """Deregister the listener of a service. Raises as `subscriptions`."""
        return await self._ask(
            "DELETE", f"{_callbacks_path(account)}/name/{quote(service, safe='')}", CallbackService
        )

    async def _ask(self, method: str, path: str, kind: type[_T], question: Message | None = None) -> _T:
        """Send a request; if the carrier rejects a token, renew the token and send the request once more."""
        body = None if question is None else _encoder.encode(question)
        answer, result = await self._try(method, path, kind, body)
        if answer.outcome is Outcome.UNAUTHORIZED:
            await self.renew(answer)
            answer, result = await self._try(method, path, kind, body)
        if result is not None:
            return result
        if answer.outcome is Outcome.REFUSED:
            raise AccountError(
                f"the carrier refused {method} {path} ({answer.summary})",
                names_account="account" in answer.summary.lower(),
                reason=reason_of_refusal(answer),
            )
        is_of_api = answer.outcome is Outcome.UNAUTHORIZED and answer.error_code is not None
        status = None if is_of_api else answer.http_status
        raise CarrierUnreachable(
            f"no answer to {method} {path} ({answer.summary})", answer.retry_after_s, status
        )

    async def _try(
        self, method: str, path: str, kind: type[_T], body: bytes | None
    ) -> tuple[Answer, _T | None]:
        tokens, secrets = self._token_manager.tokens, self._token_manager.secrets
        try:
            reply = await self._http.exchange(method, self._http.url(path), tokens.headers, body)
        except ProxyLoginRequired as error:
            raise CredentialsRejected(str(error)) from None
        except httpx.RequestError as error:
            return answer_from_error(error, secrets=secrets), None
        answer = answer_from_reply(reply, secrets=secrets, token_generation=tokens.generation)
        if not 200 <= reply.status < 300:
            return answer, None
        try:
            result = decode(reply.body, kind)
        except DECODE_ERRORS:
            return _unreadable(answer), None
        self._token_manager.have_worked = True
        return answer, result


@asynccontextmanager
async def open_client(
    base_url: str,
    credentials: Credentials,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    timeouts: Timeouts | None = None,
    max_connections: int = 100,
    around_login: AroundLogin = nullcontext,
) -> AsyncIterator[Carrier]:
    """Open a client of the carrier at `base_url`. This sends nothing.

    `transport` replaces the network, for a carrier in the same process. `around_login` is entered around each
    login, and may raise. Raises UsageError if the URL is
    malformed or would send credentials unencrypted.
    """
    async with open_http_client(
        base_url, transport=transport, timeouts=timeouts or Timeouts(), max_connections=max_connections
    ) as http:
        yield Carrier(http, credentials, around_login)


def _sign_of_cache(headers: Mapping[str, str]) -> str | None:
    """The header that shows that a cache answered instead of the carrier; None without one."""
    if _AGE.match(age := headers.get("age", "")):
        return f"Age: {age[:40]}"
    found = ((name, headers[name]) for name in _CACHES if name in headers)
    return next((f"{name}: {value[:80]}" for name, value in found if _HIT.search(value)), None)


def _unreadable(answer: Answer) -> Answer:
    """An answer to a question in an unknown form.

    If it has no error text, the message says that its form is unknown.
    """
    if answer.has_text:
        return answer
    return replace(answer, error_message=f"HTTP {answer.http_status} in an unknown form")


def _callbacks_path(account: str) -> str:
    return f"/m2m/v1/callbacks/{quote(account, safe='')}"
