"""Request headers and JSON responses, as the carrier checks and writes them."""

import re

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from batchlic.sandbox.refusals import license_refusal

Headers = dict[bytes, bytes]
"""Header names are in lower case."""

_ACCEPTS_JSON = re.compile(rb"\*/\*|application/(\*|json)")


def read_headers(request: Request) -> Headers:
    """Return the headers; raise a Refusal if the caller does not accept JSON."""
    headers: Headers = dict(request.scope["headers"])
    if not _ACCEPTS_JSON.search(headers.get(b"accept", b"*/*")):
        raise license_refusal(406, "Only application/json is produced.")
    return headers


def require_json(headers: Headers) -> None:
    """Raise a Refusal if the body is not JSON by its Content-Type."""
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise license_refusal(415, "The body must be application/json.")


def json_response(body: object) -> Response:
    """A response with `body` as JSON."""
    return Response(msgspec.json.encode(body), media_type="application/json")
