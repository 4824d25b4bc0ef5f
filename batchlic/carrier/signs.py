"""Signs of what a gateway did with a request, at a 5xx. Without one, a 5xx is ambiguous (promise D).

The texts are those of the gateways' sources and manuals. docs/reference/answers.md is made from this table.
"""

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from batchlic.carrier.conclusions import (
    AMBIGUOUS,
    PERHAPS_THROTTLED,
    PERHAPS_UNAVAILABLE,
    SERVER_ERRORS,
    UNAVAILABLE,
    Conclusion,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """Shows what a gateway did with the request, at a 5xx. All of `text`, `codes` and `headers` must fit.

    `is_whole_body`: `text` must match a body that did not break off. `example`: a matching body, a matching
    header, or both with a semicolon between them.
    """

    gateway: str
    conclusion: Conclusion
    why: str
    example: str
    text: re.Pattern[str] | None = None
    codes: tuple[str, ...] = ()
    headers: Mapping[str, re.Pattern[str]] | None = None
    is_whole_body: bool = False
    statuses: Container[int] = SERVER_ERRORS


def _text(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


SIGNS: Sequence[Sign] = (
    # These come first: they are exceptions from the rules below.
    Sign(
        gateway="Envoy, Istio",
        conclusion=AMBIGUOUS,
        text=_text(r"retried and the latest reset reason"),
        example="upstream connect error or disconnect/reset before headers. "
        "retried and the latest reset reason: connection failure",
        why="The last attempt of the gateway could not connect; an earlier one may have reached the service.",
    ),
    Sign(
        gateway="Envoy, Istio",
        conclusion=AMBIGUOUS,
        headers={"x-envoy-attempt-count": re.compile(r"0*(?:[2-9]|[1-9]\d+)\b")},
        example="x-envoy-attempt-count: 2",
        why="An earlier attempt of the gateway may have reached the service.",
    ),
    Sign(
        gateway="Envoy, Istio",
        conclusion=AMBIGUOUS,
        text=_text(
            r"reset reason: (?:connection termination|remote reset|local reset|protocol error)|"
            r"(?:upstream request|stream) timeout"
        ),
        example="upstream connect error or disconnect/reset before headers. "
        "reset reason: connection termination",
        why="The gateway was connected to the service when the connection broke or the answer took too long.",
    ),
    Sign(
        gateway="Varnish, Fastly",
        conclusion=AMBIGUOUS,
        text=_text(r"guru meditation|backend (?:fetch failed|read error|write error)|first byte timeout"),
        example="Error 503 Backend fetch failed. Guru Meditation: XID: 32770",
        why="Page and Retry-After: 5 are the same for a refused connection and for a lost answer.",
    ),
    Sign(
        gateway="Heroku",
        conclusion=UNAVAILABLE,
        text=re.compile(r"\bH(?:10|11|14|19|20|21|80|81)\b"),
        headers={"server": _text(r"cowboy|heroku")},
        example="Server: Cowboy; code=H10",
        why="App crashed, backlog too deep, no dyno, connection refused, maintenance: not passed on.",
    ),
    Sign(
        gateway="Heroku",
        conclusion=AMBIGUOUS,
        text=_text(r"application error|error-pages/"),
        headers={"server": _text(r"cowboy|heroku")},
        example="Server: Cowboy; <title>Application Error</title>",
        why="The page is the same for H10 (app crashed) and for H12, H13 and H18 (late or lost answer).",
    ),
    Sign(
        gateway="Kong",
        conclusion=AMBIGUOUS,
        text=_text(
            r"an invalid response was received from the upstream server|the upstream server is timing out|"
            r"the upstream server is currently unavailable"
        ),
        example='{"message":"An invalid response was received from the upstream server"}',
        why="The gateway was connected to the service, or may have been at an earlier attempt.",
    ),
    Sign(
        gateway="WSO2",
        conclusion=AMBIGUOUS,
        codes=("101500", "101501", "101504", "101505", "101506", "101507", "101510", "303000"),
        example='{"fault":{"code":"101504","message":"Send timeout"}}',
        why="The connection to the service broke or stayed silent, perhaps after the request was sent.",
    ),
    Sign(
        gateway="WSO2",
        conclusion=AMBIGUOUS,
        codes=("101503",),
        text=_text(r"\breset\b"),
        example='{"fault":{"code":"101503","description":"upstream connection reset"}}',
        why="Newer gateways use this code for a broken connection, too.",
    ),
    Sign(
        gateway="AWS API Gateway",
        conclusion=AMBIGUOUS,
        text=_text(r"endpoint request timed out|network error communicating with endpoint"),
        example='{"message":"Endpoint request timed out"}',
        why="The gateway was connected to the service.",
    ),
    Sign(
        gateway="Apigee",
        conclusion=AMBIGUOUS,
        text=_text(r"http\.flow\.(?:ServiceUnavailable|GatewayTimeout|UnexpectedEOF)"),
        example='{"fault":{"detail":{"errorcode":"messaging.adaptors.http.flow.ServiceUnavailable"}}}',
        why="The service closed the connection while the request was sent, or after that.",
    ),
    Sign(
        gateway="Tyk",
        conclusion=AMBIGUOUS,
        text=_text(r"upstream service reached hard timeout|there was a problem proxying the request"),
        statuses=(408, *SERVER_ERRORS),
        example='{"error":"Upstream service reached hard timeout."}',
        why="The gateway was connected to the service, or may have been.",
    ),
    # These prove that the request did not reach the service.
    Sign(
        gateway="Envoy, Istio",
        conclusion=UNAVAILABLE,
        text=_text(r"no healthy upstream"),
        example="no healthy upstream",
        why="The gateway had no host to pass the request on to (response flag UH).",
    ),
    Sign(
        gateway="Envoy, Istio",
        conclusion=UNAVAILABLE,
        text=_text(r"reset reason: (?:(?:remote |local )?connection failure|connection timeout)"),
        example="upstream connect error or disconnect/reset before headers. "
        "reset reason: remote connection failure, transport failure reason: delayed connect error: 111",
        why="The gateway could not connect to the service (UF).",
    ),
    Sign(
        gateway="Envoy, Istio",
        conclusion=UNAVAILABLE,
        text=_text(r"reset reason: (?:overflow|remote refused stream reset|overload manager)"),
        example="upstream connect error or disconnect/reset before headers. reset reason: overflow",
        why="The gateway's circuit breaker is open (UO), or the stream was refused (RFC 9113, 8.7).",
    ),
    Sign(
        gateway="Envoy, Istio",
        conclusion=UNAVAILABLE,
        headers={"x-envoy-overloaded": _text(r"true|1")},
        example="x-envoy-overloaded: true",
        why="The gateway dropped the request because of its own load.",
    ),
    Sign(
        gateway="HAProxy, OpenShift",
        conclusion=UNAVAILABLE,
        text=_text(
            r"no server is available to handle this request|"
            r"the application is currently not serving requests at this endpoint"
        ),
        statuses=(503,),
        example="<html><body><h1>503 Service Unavailable</h1> No server is available to handle this request.",
        why="No server was up, or connecting failed. For a lost answer, HAProxy sends 502 or 504.",
    ),
    Sign(
        gateway="Kong",
        conclusion=UNAVAILABLE,
        text=_text(r"failure to get a peer from the ring-balancer|name resolution failed"),
        example='{"message":"failure to get a peer from the ring-balancer"}',
        why="The gateway found no healthy target, or no address for it, so it did not pass the request on.",
    ),
    Sign(
        gateway="WSO2",
        conclusion=UNAVAILABLE,
        codes=("303001", "101503", "101508"),
        example='{"fault":{"code":"303001","description":"Currently, Address endpoint: [ SUSPENDED ]"}}',
        why="The endpoint is suspended, or the gateway could not connect to it.",
    ),
    Sign(
        gateway="AWS load balancer",
        conclusion=UNAVAILABLE,
        text=_text(r"503 service temporarily unavailable"),
        headers={"server": _text(r"awselb")},
        statuses=(503,),
        example="Server: awselb/2.0; <title>503 Service Temporarily Unavailable</title>",
        why="No target is registered. For a lost answer, the load balancer sends 502 or 504.",
    ),
    Sign(
        gateway="AWS API Gateway",
        conclusion=UNAVAILABLE,
        headers={"x-amzn-errortype": _text(r"authorizer\w*exception")},
        example="x-amzn-ErrorType: AuthorizerConfigurationException",
        why="The gateway failed while it checked the credentials, before it passed the request on.",
    ),
    Sign(
        gateway="Apigee",
        conclusion=UNAVAILABLE,
        text=_text(r"http\.flow\.(?:NoActiveTargets|SslHandshakeFailed)"),
        example='{"fault":{"detail":{"errorcode":"messaging.adaptors.http.flow.NoActiveTargets"}}}',
        why="The gateway could not connect to any target.",
    ),
    Sign(
        gateway="Tyk",
        conclusion=UNAVAILABLE,
        text=_text(r"upstream host lookup failed"),
        example='{"error":"Upstream host lookup failed"}',
        why="The service has no address.",
    ),
    Sign(
        gateway="Traefik",
        conclusion=UNAVAILABLE,
        text=_text(r"^no available server$"),
        is_whole_body=True,
        example="no available server",
        why="No server was up.",
    ),
    Sign(
        gateway="Kubernetes, Spring Cloud",
        conclusion=UNAVAILABLE,
        text=_text(r"no endpoints available for service|unable to find instance for"),
        example='{"message":"Unable to find instance for licenses"}',
        why="No instance of the service is registered.",
    ),
    Sign(
        gateway="Akamai",
        conclusion=UNAVAILABLE,
        text=_text(r"service unavailable - (?:dns failure|fail to connect)"),
        example="<h1>Service Unavailable - DNS failure</h1>",
        why="The service has no address, or the gateway could not connect to it.",
    ),
    Sign(
        gateway="Squid",
        conclusion=UNAVAILABLE,
        headers={"x-squid-error": _text(r"ERR_(?:CONNECT_FAIL|DNS_FAIL|CANNOT_FORWARD|ACCESS_DENIED)")},
        example="X-Squid-Error: ERR_CONNECT_FAIL 111",
        why="The proxy did not connect to the service.",
    ),
    Sign(
        gateway="Cloudflare",
        conclusion=UNAVAILABLE,
        headers={"server": _text(r"cloudflare")},
        statuses=(521, 523, 525, 526),
        example="Server: cloudflare",
        why="The connection to the service was refused, had no route, or failed in its TLS handshake.",
    ),
    Sign(
        gateway="nginx",
        conclusion=PERHAPS_THROTTLED,
        text=_text(r"503 service temporarily unavailable.*\bnginx"),
        headers={"retry-after": re.compile(r"\d")},
        statuses=(503,),
        example="Retry-After: 1; <title>503 Service Temporarily Unavailable</title> nginx",
        why="The page of limit_req and limit_conn. For a lost answer, nginx sends 502 or 504.",
    ),
    Sign(
        gateway="any limiter",
        conclusion=PERHAPS_UNAVAILABLE,
        text=re.compile(r"^$"),
        is_whole_body=True,
        headers={"retry-after": re.compile(r"\d")},
        statuses=(503,),
        example="Retry-After: 2",
        why="A server that does not take the request sends an empty 503 with Retry-After (RFC 9110, 15.6.4).",
    ),
)
"""The first sign that fits decides; without one, a 5xx is ambiguous."""
