"""Refusals in the forms of the carrier's license endpoints, platform and gateway."""

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from starlette.responses import Response

from batchlic.sandbox.responses import AskToWait

SERVICE = "UnifiedWebService"


class Refusal(Exception):
    """An answer other than success: `status`, JSON `body` and further `headers`.

    `wait_s`: seconds that it asks the caller to wait, if it does.
    """

    wait_s: float | None = None

    def __init__(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = msgspec.json.encode(body)
        self.headers = headers


def license_refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Refusal:
    """A refusal of the license endpoints: `errorCode` repeats the status, and there is an `errorUrl`."""
    body = {
        "errorCode": str(status),
        "errorMessage": message,
        "errorUrl": f"https://carrier.example/errors/{status}",
    }
    return Refusal(status, body, headers)


def platform_refusal(code: str, message: str) -> Refusal:
    """A refusal of the platform: a stable `code` after the service name; the code determines the status."""
    return Refusal(_status_of(code), {"errorCode": f"{SERVICE}.{code}", "errorMessage": message})


def _status_of(code: str) -> int:
    if ".SessionToken." in code:
        return HTTPStatus.UNAUTHORIZED
    if code.endswith("NotFound"):
        return HTTPStatus.NOT_FOUND
    return HTTPStatus.BAD_REQUEST


def gateway_refusal(status: int, code: str, message: str, description: str) -> Refusal:
    """A refusal of the API gateway, with its outer `fault`."""
    return Refusal(status, {"fault": {"code": code, "message": message, "description": description}})


def lacks_permission() -> Refusal:
    """The gateway's refusal of a login that may not manage licenses."""
    return gateway_refusal(
        403, "900908", "Resource forbidden", "User is NOT authorized to access the Resource"
    )


def refusal_response(refusal: Refusal) -> Response:
    """The refusal as an HTTP response."""
    if refusal.wait_s is not None:
        return AskToWait(refusal.body, refusal.status, refusal.headers, "application/json", refusal.wait_s)
    return Response(refusal.body, refusal.status, refusal.headers, media_type="application/json")
