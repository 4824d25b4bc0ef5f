"""The carrier's API as verbs: log in, submit, renew, count licenses, manage listeners."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import quote

import httpx
import msgspec

from batchlic.carrier.answers import UNREADABLE, Answer, Outcome, Token, read_reply, read_silence
from batchlic.carrier.auth import CarrierUnreachable, Credentials, Keyring, Secret
from batchlic.carrier.catalogue import Action
from batchlic.carrier.messages import (
    AssignLicenseRequest,
    CallbackListener,
    CallbackRegistration,
    CallbackService,
    Message,
    Subscription,
    Subscriptions,
    SubscriptionsRequest,
)
from batchlic.carrier.wire import Timeouts, Wire, open_wire
from batchlic.errors import UsageError

CALLBACK_SERVICE = "CarrierService"
"""The service whose listener gets the outcomes of license requests."""

_METHODS = {Action.ASSIGN: "POST", Action.UNASSIGN: "DELETE"}
_encoder = msgspec.json.Encoder()
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Submission:
    """One license request as it goes on the wire; an unassign without a body undoes that transaction."""

    action: Action
    x_request_id: str
    body: bytes | None

    def identifiers(self) -> tuple[str, ...]:
        """All identifiers in the body, in its order: what a refusal may name."""
        if self.body is None:
            return ()
        request = msgspec.json.decode(self.body, type=AssignLicenseRequest)
        return tuple(identifier.id for device in request.devices for identifier in device.device_ids)


class AccountError(UsageError):
    """The carrier refused a question about an account: its name, the SKU or the address is wrong."""


def encode(request: AssignLicenseRequest) -> bytes:
    """Body of a license request: the same bytes for the same request."""
    return _encoder.encode(request)


class CarrierClient:
    """A connection to the carrier, shared by all workers; `open_client` makes it."""

    def __init__(self, wire: Wire, credentials: Credentials) -> None:
        self._wire = wire
        self._keyring = Keyring(wire, credentials)
        self._licenses = wire.url("/m2m/v1/devices/license/actions/assign")

    async def login(self) -> None:
        """Fetch the tokens that the settings don't give; nothing to do if all are there.

        Raises CredentialsRejected (never repeated: later callers get it without traffic), CarrierUnreachable
        (worth another try), StoppedEarly (three logins without an answer: another might lock).
        """
        await self._keyring.login()

    async def submit(self, submission: Submission) -> Answer:
        """Make one HTTP exchange. Raises nothing that the carrier or the network can cause."""
        tokens, secrets = self._keyring.tokens, self._keyring.secrets
        headers = [*tokens.headers, (b"X-Request-ID", submission.x_request_id.encode())]
        try:
            reply = await self._wire.exchange(
                _METHODS[submission.action], self._licenses, headers, submission.body
            )
        except httpx.RequestError as error:
            return read_silence(error, secrets=secrets)
        answer = read_reply(reply, identifiers=submission.identifiers, secrets=secrets)
        if answer.outcome is Outcome.UNAUTHORIZED:
            return replace(answer, credentials_generation=tokens.generation)
        return answer

    async def renew(self, answer: Answer) -> None:
        """Renew the token that an `unauthorized` answer rejects, once for however many ask.

        Where the answer did not say which token, it may take two renewals. Raises as `login`.
        """
        await self._keyring.renew(answer.rejected or Token.EITHER, answer.credentials_generation)

    async def logout(self) -> None:
        """End the session, if it was opened here; failing that is no matter, it expires by itself."""
        await self._keyring.logout()

    async def subscriptions(self, account: str, sku: str | None = None) -> list[Subscription]:
        """License counts of an account. Raises as `login`, and AccountError."""
        question = SubscriptionsRequest(account_name=account, sku_number=sku)
        path = "/m2m/v1/accounts/subscriptions/actions/list"
        return (await self._ask("POST", path, Subscriptions, question)).subscription_list

    async def listeners(self, account: str) -> list[CallbackListener]:
        """Listeners registered for an account, without their passwords. Raises as `subscriptions`."""
        listeners = await self._ask("GET", _callbacks(account), list[CallbackListener])
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
        return await self._ask("POST", _callbacks(account), CallbackService, registration)

    async def deregister_listener(self, account: str, service: str = CALLBACK_SERVICE) -> CallbackService:
        """Deregister the listener of a service. Raises as `subscriptions`."""
        return await self._ask(
            "DELETE", f"{_callbacks(account)}/name/{quote(service, safe='')}", CallbackService
        )

    async def _ask(self, method: str, path: str, kind: type[_T], question: Message | None = None) -> _T:
        """Ask, and once more with a renewed token if the carrier says so."""
        body = None if question is None else _encoder.encode(question)
        answer, found = await self._try(method, path, kind, body)
        if answer.outcome is Outcome.UNAUTHORIZED:
            await self.renew(answer)
            answer, found = await self._try(method, path, kind, body)
        if found is not None:
            return found
        words = f"HTTP {answer.http_status}: {answer.error_code or ''} {answer.error_message or ''}".strip()
        if answer.outcome is Outcome.REFUSED:
            raise AccountError(f"the carrier refused {method} {path} ({words})")
        raise CarrierUnreachable(f"no answer to {method} {path} ({words})", answer.retry_after_s)

    async def _try(
        self, method: str, path: str, kind: type[_T], body: bytes | None
    ) -> tuple[Answer, _T | None]:
        tokens, secrets = self._keyring.tokens, self._keyring.secrets
        try:
            reply = await self._wire.exchange(method, self._wire.url(path), tokens.headers, body)
        except httpx.RequestError as error:
            return read_silence(error, secrets=secrets), None
        answer = replace(read_reply(reply, secrets=secrets), credentials_generation=tokens.generation)
        if not 200 <= reply.status < 300:
            return answer, None
        try:
            return answer, msgspec.json.decode(reply.body, type=kind)
        except UNREADABLE:
            return answer, None


@asynccontextmanager
async def open_client(
    base_url: str,
    credentials: Credentials,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    timeouts: Timeouts | None = None,
    max_connections: int = 100,
) -> AsyncIterator[CarrierClient]:
    """Open a client of the carrier at `base_url`; nothing is sent yet.

    `transport` takes the place of the network (a carrier in process). Raises UsageError if the address is
    none, or would send credentials in the clear.
    """
    async with open_wire(
        base_url, transport=transport, timeouts=timeouts or Timeouts(), max_connections=max_connections
    ) as wire:
        yield CarrierClient(wire, credentials)


def _callbacks(account: str) -> str:
    return f"/m2m/v1/callbacks/{quote(account, safe='')}"
