"""The carrier's license API for programs that only want single requests, blocking and async.

The methods have the names of the carrier's SDKs; docs/reference/carrier-client.md compares both.
"""

import os
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from anyio.from_thread import BlockingPortal, start_blocking_portal
from pydantic import SecretStr

from batchlic.carrier.answers import Answer, Outcome, Reply
from batchlic.carrier.auth import CarrierUnreachable
from batchlic.carrier.bodies import decode_text
from batchlic.carrier.catalog import BASE_URL, SKUS, Action, LicenseType
from batchlic.carrier.client import Carrier, Submission, encode, open_client
from batchlic.carrier.credentials import Credentials, Secret
from batchlic.carrier.http_client import Timeouts, check_base_url
from batchlic.carrier.license_errors import ApiResponse, error_of
from batchlic.carrier.license_models import SecuritySuccessResult, check_request, check_transaction
from batchlic.carrier.messages import AssignLicenseRequest
from batchlic.errors import BatchlicError, CredentialsRejected, RefusedToStart, UsageError
from batchlic.settings import Settings, load_settings

_LOOK_S = 0.1
"""Seconds after which a caller that waits hears a signal, though polars lets signals restart waits."""

_LIFETIME = {sku.lower() for sku, license_type in SKUS.items() if license_type is LicenseType.LIFETIME}
"""In lower case: the carrier may accept another spelling."""

_Sent = ApiResponse[SecuritySuccessResult]


class _Requests:
    """Sends license requests through an open `Carrier`, and raises what is no acceptance."""

    def __init__(self, carrier: Carrier, *, consent_lifetime: bool) -> None:
        self._carrier = carrier
        self._consent_lifetime = consent_lifetime

    async def assign(self, body: AssignLicenseRequest, x_request_id: str | None) -> _Sent:
        check_request(body)
        if x_request_id is not None:
            check_transaction(x_request_id)
        self._require_consent(body.sku_number)
        return await self._send(Submission(Action.ASSIGN, x_request_id or "", encode(body)))

    async def unassign(self, x_request_id: str, body: AssignLicenseRequest | None) -> _Sent:
        check_transaction(x_request_id)
        if body is None:
            return await self._send(Submission(Action.UNASSIGN, x_request_id, None))
        check_request(body)
        if body.sku_number.strip().lower() in _LIFETIME:
            raise RefusedToStart(f"{body.sku_number}: a Lifetime license can't be unassigned")
        return await self._send(Submission(Action.UNASSIGN, x_request_id, encode(body)))

    def _require_consent(self, sku: str) -> None:
        """Raise RefusedToStart if the licenses of a SKU may be irrevocable, without consent (promise E)."""
        license_type = SKUS.get(sku)
        if self._consent_lifetime or license_type is LicenseType.FLEXIBLE:
            return
        reason = (
            "Lifetime licenses are"
            if license_type
            else "batchlic does not know this SKU: its licenses may be"
        )
        raise RefusedToStart(
            f"{sku}: {reason} irrevocable. To assign them, make the client with consent_lifetime=True"
        )

    async def _send(self, submission: Submission) -> _Sent:
        """Send a request; if a token is rejected, renew the token and send the request once more.

        An answer that only suggests that a token was rejected proves too little for that.
        """
        await self._carrier.login()
        answer, reply = await self._carrier.exchange(submission)
        if answer.outcome is Outcome.UNAUTHORIZED and not answer.is_inferred:
            try:
                await self._carrier.renew(answer)
            except CredentialsRejected as rejection:
                if answer.http_status != 401:
                    raise
                raise self._error(answer, reply, submission, str(rejection)) from None
            answer, reply = await self._carrier.exchange(submission)
        if answer.outcome is not Outcome.ACCEPTED or reply is None or answer.request_id is None:
            raise self._error(answer, reply, submission)
        return ApiResponse(reply.status, self._headers(reply), SecuritySuccessResult(answer.request_id))

    def _error(
        self, answer: Answer, reply: Reply | None, submission: Submission, advice: str = ""
    ) -> BatchlicError:
        if reply is None and answer.http_status == 407:
            return CredentialsRejected(answer.summary)
        if reply is None and answer.outcome is Outcome.UNAVAILABLE:
            return CarrierUnreachable(f"the request was not sent: {answer.error_message}")
        response = ApiResponse(reply.status, self._headers(reply), self._text(reply)) if reply else None
        return error_of(answer, response, submission.action, submission.x_request_id or None, advice)

    def _headers(self, reply: Reply) -> dict[str, str]:
        return {name: self._carrier.hide(value) for name, value in reply.headers.items()}

    def _text(self, reply: Reply) -> str:
        """The body; empty if it broke off, because it may end in a part of a secret."""
        if not reply.complete:
            return ""
        return self._carrier.hide(decode_text(reply.body, reply.headers.get("content-type", "")))


class _Client:
    """What both clients have in common: how they are made, and how their connection is opened."""

    def __init__(
        self,
        *,
        base_url: str = BASE_URL,
        client_id: str | SecretStr | None = None,
        client_secret: str | SecretStr | None = None,
        username: str | SecretStr | None = None,
        password: str | SecretStr | None = None,
        access_token: str | SecretStr | None = None,
        session_token: str | SecretStr | None = None,
        timeout: float = 60.0,
        consent_lifetime: bool = False,
    ) -> None:
        given = {
            "client_id": client_id,
            "client_secret": client_secret,
            "username": username,
            "password": password,
            "access_token": access_token,
            "session_token": session_token,
        }
        try:
            self._base_url = str(check_base_url(base_url))
            self._credentials = Credentials(**{name: _secret(text) for name, text in given.items()})
        except UsageError as error:
            raise UsageError(_as_arguments(str(error))) from None
        if not timeout > 0:
            raise UsageError(f"timeout: {timeout:g} is not above 0 seconds")
        if not isinstance(consent_lifetime, bool):
            raise UsageError(f"consent_lifetime: give True or False, not {consent_lifetime!r}")
        self._timeouts = Timeouts(exchange=timeout)
        self._consent_lifetime = consent_lifetime
        self._lock = threading.Lock()

    @classmethod
    def from_settings(
        cls,
        settings: Settings | None = None,
        *,
        profile: str | None = None,
        timeout: float = 60.0,
        consent_lifetime: bool = False,
    ) -> Self:
        """Make a client with the address and the login of the settings.

        Args:
            settings: Default: those that the command line reads, from `BATCHLIC_…` variables, `.env`, the
                credentials file, or a profile.
            profile: Name of the profile with the login. Default: BATCHLIC_PROFILE.
            timeout: Seconds to wait without a byte of an answer.
            consent_lifetime: Allow Lifetime licenses, which are irrevocable.

        Raises:
            UsageError: The settings are missing or wrong.
        """
        if settings is not None and profile is not None:
            raise UsageError("give settings or profile, not both: a profile is a name for settings")
        settings = settings or load_settings(profile)
        found = settings.credentials()
        credentials = {
            name: SecretStr(secret.reveal())
            for name in Credentials.__dataclass_fields__
            if (secret := getattr(found, name))
        }
        return cls(
            base_url=settings.base_url, timeout=timeout, consent_lifetime=consent_lifetime, **credentials
        )

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[_Requests]:
        """Open connections for the length of the block. At its end, end the session that was opened."""
        async with open_client(self._base_url, self._credentials, timeouts=self._timeouts) as carrier:
            try:
                yield _Requests(carrier, consent_lifetime=self._consent_lifetime)
            finally:
                await carrier.logout()


class AsyncCarrierClient(_Client):
    """The carrier's license API, async. It runs on asyncio and trio; open it with `async with`.

        async with AsyncCarrierClient.from_settings() as client:
            answer = await client.assign_license_to_devices(body, "1-20261129001")

    Any number of tasks of one event loop may share a client: tokens are fetched once for all of them. The
    login happens with the first request. The arguments are those of `CarrierClient`.
    """

    _context: AbstractAsyncContextManager[_Requests] | None = None
    _requests: _Requests | None = None

    async def __aenter__(self) -> Self:
        if self._context is not None:
            raise UsageError("the client is already open, or was closed: make another one")
        self._context = self._opened()
        self._requests = await self._context.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._requests = None
        if self._context is not None:
            await self._context.__aexit__(kind, error, trace)

    async def assign_license_to_devices(
        self, body: AssignLicenseRequest, x_request_id: str | None = None
    ) -> ApiResponse[SecuritySuccessResult]:
        """Assign a license to each device. See `CarrierClient.assign_license_to_devices`."""
        return await self._open_requests().assign(body, x_request_id)

    async def unassign_license_to_devices(
        self, x_request_id: str, body: AssignLicenseRequest | None = None
    ) -> ApiResponse[SecuritySuccessResult]:
        """Take licenses back from devices. See `CarrierClient.unassign_license_to_devices`."""
        return await self._open_requests().unassign(x_request_id, body)

    def _open_requests(self) -> _Requests:
        if self._requests is None:
            raise UsageError("the client is not open: use it inside `async with`")
        return self._requests


@dataclass(frozen=True, slots=True)
class _Running:
    """The event loop of a blocking client, in a thread of its own, and the process that started it."""

    portal: BlockingPortal
    requests: _Requests
    process: int
    stack: ExitStack


class CarrierClient(_Client):
    """The carrier's license API, blocking: a method for each request, by the names of the carrier's SDKs.

        with CarrierClient.from_settings() as client:
            answer = client.assign_license_to_devices(body, "1-20261129001")

    Each request is sent once, and again only if the carrier rejected a token: the client neither retries nor
    slows down, and keeps no journal and no ledger. For inventories, use `batchlic.assign`.

    Any number of threads may share a client, also where an event loop runs, as in a notebook. Requests run
    in one background thread, which starts with the first request and ends with `close`. The login happens
    with the first request; an expired token is renewed once for all threads. A rejected login is not repeated
    (five in a row lock it): later requests raise the same error without sending.

    Args:
        base_url: Root of the carrier's API: https, or http on loopback.
        client_id: Key of the OAuth login.
        client_secret: Secret of the OAuth login.
        username: Name of the session login.
        password: Password of the session login.
        access_token: A ready-made token instead of the OAuth login, or to begin with.
        session_token: A ready-made token instead of the session login, or to begin with.
        timeout: Seconds to wait without a byte of an answer.
        consent_lifetime: Allow Lifetime licenses, which are irrevocable, and SKUs unknown to batchlic.

    Raises:
        UsageError: Credentials are missing, or can't be right.
    """

    _running: _Running | None = None
    _is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session and the background thread. Close a client when no thread uses it any more.

        A second call does nothing. A client that is not closed leaves its session to expire by itself, after
        20 minutes without use.
        """
        with self._lock:
            running, self._running, self._is_closed = self._running, None, True
        if running is not None and running.process == os.getpid():
            running.stack.close()

    def assign_license_to_devices(
        self, body: AssignLicenseRequest, x_request_id: str | None = None
    ) -> ApiResponse[SecuritySuccessResult]:
        """Assign a license to each device of the request (POST).

        Args:
            body: Account, SKU, and 1 to 100 devices.
            x_request_id: The carrier's "Transaction Id": one digit, a dash and 3 to 30 digits. Without one,
                the request can't be undone as a transaction.

        Returns:
            The answer, with the `request_id` that the callbacks will carry. The carrier has accepted the
            request; the outcome of each device arrives later, by callback.

        Raises:
            InvalidRequest: The request does not follow the carrier's documents. Nothing was sent.
            RefusedToStart: A Lifetime license without `consent_lifetime`. Nothing was sent.
            RequestInDoubt: The request may have been executed: its answer was lost, or proves nothing.
            SecurityResultError: Any other answer, by its status. The request was not executed.
            CredentialsRejected: The carrier rejected a login. The request was not executed.
            CarrierUnreachable: No connection, or no answer to a login. The request was not executed.
            StoppedEarly: Three logins without an answer: another one could lock the login.
        """
        return self._run(lambda requests: requests.assign(body, x_request_id))

    def unassign_license_to_devices(
        self, x_request_id: str, body: AssignLicenseRequest | None = None
    ) -> ApiResponse[SecuritySuccessResult]:
        """Take licenses back (DELETE): those of the devices in `body`, or those of a transaction.

        Args:
            x_request_id: Without `body`: the X-Request-ID of the request to assign that is undone. With
                `body`: the "Transaction Id" of this request. One digit, a dash and 3 to 30 digits.
            body: Account, SKU, and 1 to 100 devices.

        Returns:
            The answer, as from `assign_license_to_devices`.

        Raises:
            RefusedToStart: A Lifetime license can't be unassigned. Nothing was sent.
            SecurityResultError: As from `assign_license_to_devices`, which also lists the other errors.
        """
        return self._run(lambda requests: requests.unassign(x_request_id, body))

    def _run(self, call: Callable[[_Requests], Awaitable[_Sent]]) -> _Sent:
        """Make a call in the background thread, and wait for it. An interrupted wait cancels the call."""
        running = self._started()
        future: Future[_Sent] | None = None
        try:
            future = running.portal.start_task_soon(call, running.requests)
            while not wait((future,), _LOOK_S).done:
                pass
        except BaseException as interruption:
            if future is not None:
                future.cancel()
            if future is not None or not isinstance(interruption, Exception):  # Ctrl-C as the call began
                interruption.add_note("batchlic: the license request may have been executed")
            raise
        return future.result()

    def _started(self) -> _Running:
        with self._lock:
            if self._is_closed:
                raise UsageError("the client is closed: make another one")
            if self._running is None:
                with ExitStack() as stack:
                    portal = stack.enter_context(start_blocking_portal(name="batchlic-carrier"))
                    requests = stack.enter_context(portal.wrap_async_context_manager(self._opened()))
                    self._running = _Running(portal, requests, os.getpid(), stack.pop_all())
            if self._running.process != os.getpid():
                raise UsageError("the client was used before this process was forked: make one per process")
            return self._running


def _secret(text: str | SecretStr | None) -> Secret | None:
    if text is None:
        return None
    return Secret(text.get_secret_value() if isinstance(text, SecretStr) else text)


def _as_arguments(text: str) -> str:
    """The text of an error about settings, with the names of the arguments that stand for them."""
    return re.sub(r"BATCHLIC_([A-Z_]+)", lambda found: found[1].lower(), text)
