"""What the carrier answered to a single license request: `ApiResponse`, and the errors for other answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.catalog import Action
from batchlic.errors import BatchlicError, CredentialsRejected, ExitCode

T_co = TypeVar("T_co", covariant=True)

_DONE = {Action.ASSIGN: "assigned", Action.UNASSIGN: "unassigned"}


@dataclass(frozen=True, slots=True)
class ApiResponse(Generic[T_co]):
    """An answer of the carrier.

    - `status_code`: the HTTP status.
    - `headers`: the HTTP headers, with names in lower case; headers with the same name are joined by ", ".
    - `result`: what the body says.

    Credentials and tokens in an answer are replaced by `[hidden]`.
    """

    status_code: int
    headers: Mapping[str, str] = field(repr=False)
    result: T_co


class SecurityResultError(BatchlicError):
    """The carrier did not accept a license request. Each kind of answer has a subclass.

    Unless the error is a RequestInDoubt, the request was not executed, and may be sent again.

    - `status_code`: the HTTP status; None if no answer arrived.
    - `error_code`: the carrier's code without the service name, such as `INPUT_INVALID.DeviceState.Invalid`.
    - `error_message`: the carrier's text, or a description of an answer without one.
    - `request_id`: the carrier's requestId, if there is one although the request was not accepted.
    - `x_request_id`: the X-Request-ID of the request, if it had one.
    - `retry_after`: seconds that the carrier asks to wait before the next request, counted from its answer.
    - `response`: the answer, with its body as text (empty if it broke off); None if no answer arrived.
    """

    exit_code = ExitCode.INCOMPLETE

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        error_code: str | None = None,
        error_message: str | None = None,
        request_id: str | None = None,
        x_request_id: str | None = None,
        retry_after: float | None = None,
        response: ApiResponse[str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.error_code = error_code
        self.error_message = error_message
        self.request_id = request_id
        self.x_request_id = x_request_id
        self.retry_after = retry_after
        self.response = response


class BadRequestError(SecurityResultError):
    """HTTP 400: the request is refused as a whole, even if only one device is at fault."""


class UnauthorizedError(SecurityResultError, CredentialsRejected):
    """HTTP 401: a token is still rejected after it was renewed, or can't be renewed."""

    exit_code = ExitCode.CREDENTIALS


class ForbiddenError(SecurityResultError):
    """HTTP 403: the login may not use the API, or something in front of the carrier refuses the request."""


class NotFoundError(SecurityResultError):
    """HTTP 404: a device or an account does not exist, or a gateway has no route."""


class NotAcceptableError(SecurityResultError):
    """HTTP 406: the form of the request is not acceptable."""


class TooManyRequestsError(SecurityResultError):
    """HTTP 429: too many requests. `retry_after` is None if the carrier does not say how long to wait."""


class UnexpectedStatusError(SecurityResultError):
    """Any other status, from which it is certain that the request was not executed."""


class RequestInDoubt(SecurityResultError):
    """The request may have been executed: its answer was lost, or does not say.

    The connection broke after the request left, no answer came in time, a gateway answered 502 or 504, the
    service failed with 500, or a 200 has no usable requestId. `status_code` is None if no answer arrived.

    The carrier offers no safe way to repeat such a request: it may execute both. Wait for the callbacks, or
    compare the license counts, before you send it again. Never repeat an assign of Lifetime licenses.
    """


_BY_STATUS: Mapping[int, type[SecurityResultError]] = {
    400: BadRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    406: NotAcceptableError,
    429: TooManyRequestsError,
}


def error_of(
    answer: Answer,
    response: ApiResponse[str] | None,
    action: Action,
    x_request_id: str | None,
    advice: str = "",
) -> SecurityResultError:
    """The error for an answer that is no acceptance; `advice` is added to its text."""
    is_in_doubt = answer.outcome is Outcome.AMBIGUOUS or answer.is_inferred
    kind = _BY_STATUS.get(answer.http_status or 0, UnexpectedStatusError)
    text = f"the licenses were not {_DONE[action]}: {answer.summary}"
    if is_in_doubt:
        kind = RequestInDoubt
        text = (
            f"the licenses may have been {_DONE[action]}: {answer.summary}. Before you send the request "
            "again, wait for the callbacks, or compare the license counts"
        )
    elif answer.retry_after_s is not None:
        text += f". The carrier asks to wait {answer.retry_after_s:g} s"
    if advice:
        text += f". {advice}"
    return kind(
        text,
        status_code=answer.http_status,
        error_code=answer.error_code,
        error_message=answer.error_message,
        request_id=answer.request_id,
        x_request_id=x_request_id,
        retry_after=answer.retry_after_s,
        response=response,
    )
