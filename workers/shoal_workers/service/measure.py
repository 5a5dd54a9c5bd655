"""Counts and times HTTP requests, as a bare ASGI layer."""

from __future__ import annotations

from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shoal_workers.telemetry.names import HTTP_REQUESTS, HTTP_SECONDS

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Measure:
    """Adds each HTTP request to a counter by method and status, and its seconds to a histogram."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._requests = Counter(HTTP_REQUESTS, "HTTP requests answered.", ("method", "status"), registry=registry)
        self._seconds = Histogram(HTTP_SECONDS, "Seconds until answered.", buckets=_BUCKETS, registry=registry)
        self._children: dict[tuple[str, int], Counter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        start = perf_counter()
        try:
            await self._app(scope, receive, observed)
        finally:
            self._seconds.observe(perf_counter() - start)
            self._child(scope["method"], status).inc()

    def _child(self, method: str, status: int) -> Counter:
        child = self._children.get((method, status))
        if child is None:
            child = self._children[(method, status)] = self._requests.labels(method, str(status))
        return child
