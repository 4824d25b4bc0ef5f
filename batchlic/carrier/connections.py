"""Connections on asyncio: aiohttp's, with failures that tell whether anything was sent.

Only who sends needs it, and it takes a while to import.
"""

import ssl

import aiohttp
import httpx
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from httpx_aiohttp import AiohttpTransport


def pooled(
    context: ssl.SSLContext, proxy: httpx.Proxy | None, *, max_connections: int, keepalive: float
) -> AiohttpTransport:
    """At most `max_connections`, each kept for `keepalive` idle seconds."""

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=_Connector(ssl=context, limit=max_connections, keepalive_timeout=keepalive),
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(_exchange_once,),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        )

    return AiohttpTransport(verify=context, proxy=proxy, client=session)


class _Connector(aiohttp.TCPConnector):
    """A connector whose failures all say: no connection, so nothing was sent."""

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
    """Make any failure with a connection in hand a ReadError: it leaves doubt.

    aiohttp by itself repeats a DELETE when a kept-alive connection breaks, and httpx-aiohttp calls such a
    break a time-out of connecting. Neither knows this error, so it passes both.
    """
    try:
        return await handler(request)
    except httpx.ConnectError:
        raise
    except Exception as error:
        raise httpx.ReadError(str(error) or type(error).__name__) from error
