"""Tracing: off without an endpoint, and one connected trace over two services with one."""

from __future__ import annotations

import os
import subprocess
import sys

from shoal_workers.telemetry import names
from shoal_workers.telemetry.setup import set_up_tracing, tracing

PROGRAM = """
import asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from shoal.api.services.common import Report
from shoal_workers.service import Service, ServiceClient, reply, serving
from shoal_workers.telemetry.setup import set_up_tracing

assert set_up_tracing("test", "pod-0")
spans = InMemorySpanExporter()
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(spans))

async def main():
    back = Service("back", Report)
    front = Service("front", Report)
    async with serving(back) as back_url, ServiceClient(back_url) as client:
        async def relay(request):
            await client.call("GET", "/status")
            return reply(Report())
        front.fast("GET", "/relay/{token}", relay)
        async with serving(front) as url, ServiceClient(url) as caller:
            await caller.call("GET", "/relay/secret-token")
    back_span, front_span = spans.get_finished_spans()
    assert (front_span.name, back_span.name) == ("front GET", "back GET")
    assert back_span.parent.span_id == front_span.context.span_id
    assert front_span.attributes["http.response.status_code"] == 200
    assert "secret-token" not in str(front_span.to_json())

asyncio.run(main())
import os; os._exit(0)  # the exporter would wait for a collector that is not there
"""


def test_tracing_is_off_without_an_endpoint(monkeypatch: object) -> None:
    assert not any(os.environ.get(name) for name in ("OTEL_EXPORTER_OTLP_ENDPOINT",))
    assert not set_up_tracing("test", "pod-0")
    assert not tracing()


def test_a_call_from_service_to_service_is_one_trace() -> None:
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_metric_names_follow_one_pattern() -> None:
    values = [value for name, value in vars(names).items() if name.isupper()]
    assert len(set(values)) == len(values)
    assert all(value.startswith("shoal_") and not value.endswith("_total") for value in values)
