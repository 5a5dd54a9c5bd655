"""OpenTelemetry tracing, switched on by the standard environment variables alone."""

from __future__ import annotations

import os

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


_on = False


def tracing() -> bool:
    """Whether this process exports traces."""
    return _on


def set_up_tracing(role: str, instance: str) -> bool:
    """Export traces by OTLP when an endpoint is configured; returns whether it is.

    Without an endpoint nothing of the OpenTelemetry SDK is imported: a process on a laptop should not pay for it.
    """
    global _on
    if not any(os.environ.get(name) for name in ENDPOINT_VARIABLES):
        return False
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": f"shoal-{role}", "service.instance.id": instance})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    _on = True
    return True
