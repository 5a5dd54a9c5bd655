"""Spans of requests, and their context from one service to the next (W3C trace context)."""

from __future__ import annotations

from collections.abc import MutableMapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shoal_workers.telemetry.setup import tracing


class TraceRequests:
    """One server span per HTTP request, as a bare ASGI layer; only worth adding where `tracing()` is true."""

    def __init__(self, app: ASGIApp, role: str) -> None:
        self._app = app
        self._role = role

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from opentelemetry import propagate, trace

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        tracer = trace.get_tracer("shoal")
        with tracer.start_as_current_span(
            f"{self._role} {scope['method']}", context=propagate.extract(headers), kind=trace.SpanKind.SERVER
        ) as span:

            async def observed(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                await send(message)

            await self._app(scope, receive, observed)
            # The route, not the path: a path may hold a lease's token.
            route = scope.get("route")
            span.set_attribute("http.route", getattr(route, "path", ""))


def add_context(headers: MutableMapping[str, str]) -> None:
    """Put the current span's context into the headers of a request; nothing when nothing is traced."""
    if tracing():
        from opentelemetry import propagate

        propagate.inject(headers)
