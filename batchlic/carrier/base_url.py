"""Finds the carrier's API on a host, if the base URL has a wrong path.

A gateway that has lost its routes answers like a wrong path. So a 404 alone is no proof of a mistake: the
proof is that the API answers under another path of the same host.
"""

from collections.abc import Iterator

import httpx

from batchlic.carrier.answers import Outcome
from batchlic.carrier.http_client import COMMON_HEADERS, HttpClient, Timeouts, open_http_client
from batchlic.carrier.interpretation import answer_from_reply

USUAL_PATH = "/api"
_QUESTION = "/m2m/v1/accounts/subscriptions/actions/list"
_TIMEOUTS = Timeouts(connect=5.0, exchange=10.0, total=15.0)


async def find_root(base_url: str) -> str | None:
    """The base URL of the API on the host of `base_url`, if it has another path; None if no path is proven.

    Asks for license counts without any token, so that nothing can be executed and no login can fail. The API
    answers that the token is missing.
    """
    for root in roots_to_try(base_url):
        async with open_http_client(root, transport=None, timeouts=_TIMEOUTS, max_connections=1) as http:
            if await _is_api(http):
                return root
    return None


def roots_to_try(base_url: str) -> Iterator[str]:
    """Other base URLs on the same host: each folder of the path, with and without the usual path."""
    url = httpx.URL(base_url)
    folders = [folder for folder in url.path.split("/") if folder]
    paths = ["".join(f"/{folder}" for folder in folders[:length]) for length in range(len(folders), -1, -1)]
    tried = {url.path.rstrip("/")}
    for path in [USUAL_PATH, *(f"{path}{USUAL_PATH}" for path in paths), *paths]:
        if path not in tried:
            tried.add(path)
            yield str(url.copy_with(path=path or "/")).rstrip("/")


async def _is_api(http: HttpClient) -> bool:
    headers = [(b"Content-Type", b"application/json"), *COMMON_HEADERS]
    try:
        reply = await http.exchange("POST", http.url(_QUESTION), headers, b"{}")
    except httpx.RequestError:
        return False
    answer = answer_from_reply(reply)
    return answer.outcome is Outcome.UNAUTHORIZED and answer.error_code is not None
