"""What the standard variables of OpenTelemetry ask for. This module imports nothing of OpenTelemetry.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Signal = Literal["traces", "metrics"]

_PROTOCOL = "http/protobuf"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whether a signal is to be sent; if a variable forbids that by mistake, `problem` says so."""

    is_on: bool
    problem: str | None = None


def wanted(signal: Signal, environment: Mapping[str, str]) -> Wanted:
    """Whether traces or metrics are to be sent: only if an endpoint is configured."""
    name = signal.upper()
    variable, endpoint = _first(
        environment, f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    exporters = environment.get(f"OTEL_{name}_EXPORTER", "").strip() or "otlp"
    if not endpoint or _is_true(environment.get("OTEL_SDK_DISABLED", "")) or exporters == "none":
        return Wanted(is_on=False)
    if "otlp" not in {one.strip() for one in exporters.split(",")}:
        return Wanted(
            is_on=False, problem=f"OTEL_{name}_EXPORTER={exporters}: batchlic sends {signal} by otlp only"
        )
    if not endpoint.lower().startswith(("http://", "https://")):  # not quoted: it may hold a password
        return Wanted(is_on=False, problem=f"{variable}: the endpoint must begin with http:// or https://")
    setting, protocol = _first(
        environment, f"OTEL_EXPORTER_OTLP_{name}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    if protocol and protocol != _PROTOCOL:
        return Wanted(
            is_on=False, problem=f"{setting}={protocol}: batchlic sends {signal} by {_PROTOCOL} only"
        )
    return Wanted(is_on=True)


def _first(environment: Mapping[str, str], *names: str) -> tuple[str, str]:
    """The first of some variables that has a value, and its value."""
    for name in names:
        if value := environment.get(name, "").strip():
            return name, value
    return names[-1], ""


def _is_true(value: str) -> bool:
    return value.strip().lower() == "true"
