"""What traces and metrics share: the resource, the last flush, and the library's log."""

import threading
from collections.abc import Callable
from importlib.metadata import version
from logging import NullHandler, getLogger

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

FLUSH_S = 4.0
"""Seconds that the end of a run waits for the endpoint: less than what an event stream gives a subscriber."""


def resource() -> Resource:
    """The resource that describes this process, from OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.

    Other detectors don't run: they may add the command line, which can hold the address of an inventory.
    """
    own = Resource({"service.name": "batchlic", "service.version": version("batchlic")})
    return own.merge(OTELResourceDetector().detect())


def flush(shut_down: Callable[[], object]) -> None:
    """Send what is left, but wait for it only so long: the endpoint may be down."""
    thread = threading.Thread(target=shut_down, name="batchlic OpenTelemetry flush", daemon=True)
    thread.start()
    thread.join(FLUSH_S)


def silence_library() -> None:
    """Keep OpenTelemetry's own log off the terminal: it may quote an address with a password (promise F)."""
    logger = getLogger("opentelemetry")
    logger.propagate = False
    logger.addHandler(NullHandler())
