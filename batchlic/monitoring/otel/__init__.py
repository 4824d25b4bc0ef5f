"""Traces and metrics by OpenTelemetry, sent by OTLP over HTTP. Needs the extra `otel`."""
