"""Bearer authentication as a bare ASGI layer."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from shoal_workers.service.problems import ProblemError, problem_response

PUBLIC_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/status"})


@dataclass(frozen=True)
class Reports:
    """Routes below `prefix` by which workers tell of themselves (PUT, DELETE), and the token that they have for it.

    What runs in a worker, an environment above all, can read the worker's token. With a token for nothing but this it
    can call no other route of the service.
    """

    prefix: str
    token: str | None

    def has(self, scope: Scope) -> bool:
        """Whether the request is a worker's report."""
        return scope.get("method") in ("PUT", "DELETE") and scope["path"].startswith(self.prefix)


class BearerAuth:
    """Lets a request pass with the right bearer token, or on a public path; answers 401 `unauthorized` otherwise.

    No token configured means that everything passes (tests, one-machine set-ups). `public_prefixes` are paths whose
    capability is in the path itself. `reports` have a token of their own, and the service's opens none of them.
    """

    def __init__(
        self, app: ASGIApp, token: str | None, public_prefixes: Iterable[str] = (), reports: Reports | None = None
    ) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode() if token else None
        self._prefixes = tuple(public_prefixes)
        self._reports = reports if reports is not None and reports.token else None
        self._reporter = f"Bearer {reports.token}".encode() if reports is not None and reports.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if self._expected is None or scope["type"] == "lifespan" or self._may_pass(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "unauthorized"})
        else:
            error = ProblemError("unauthorized", "a valid bearer token is required", status=401)
            await problem_response(error)(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if path in PUBLIC_PATHS or (self._prefixes and path.startswith(self._prefixes)):
            return True
        reported = self._reports is not None and self._reports.has(scope)
        expected = self._reporter if reported else self._expected
        assert expected is not None
        return any(
            name == b"authorization" and hmac.compare_digest(value, expected) for name, value in scope["headers"]
        )
