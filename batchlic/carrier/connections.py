"""HTTP connections on asyncio, by aiohttp: each error says whether the request was sent.

Importing aiohttp is slow, so only commands that send requests import this module.
"""

import ssl

import aiohttp
import httpx
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from httpx_aiohttp import AiohttpTransport


def pooled_transport(
    context: ssl.SSLContext, proxy: httpx.Proxy | None, *, max_connections: int, keepalive_s: float
) -> AiohttpTransport:
    """A transport with at most `max_connections`, each kept open for `keepalive_s` seconds without use."""

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=_Connector(ssl=context, limit=max_connections, keepalive_timeout=keepalive_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(_exchange_once,),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        )

    return AiohttpTransport(verify=context, proxy=proxy, client=session)


class _Connector(aiohttp.TCPConnector):
    """A connector that raises httpx.ConnectError for every failure: nothing was sent."""

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> Connection:
        try:
            return await super().connect(req, traces, timeout)
        except Exception as error:
            raise httpx.ConnectError(str(error) or "no connection in time") from error


async def _exchange_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Raise httpx.ReadError for every failure after the connection was made: the request may be executed.

    aiohttp repeats a DELETE when a kept-alive connection breaks, and httpx-aiohttp reports such a break as a
    connect timeout. Neither handles httpx.ReadError, so both pass it on.
    """
    try:
        return await handler(request)
    except httpx.ConnectError:
        raise
    except Exception as error:
        raise httpx.ReadError(str(error) or type(error).__name__) from error
