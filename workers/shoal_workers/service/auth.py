"""Bearer authentication as a bare ASGI layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from shoal_workers.service.credentials import Credential
from shoal_workers.service.problems import ProblemError, problem_response

PUBLIC_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/status"})


@dataclass(frozen=True)
class Grant:
    """Routes that a token of its own opens, so that whoever holds it can do this and nothing else.

    Args:
        credential: the token; without one the service's own token is asked for.
        prefixes: how the paths begin.
        methods: HTTP methods; empty for all.
        alone: no other token opens these routes, not even the service's.
    """

    credential: Credential | None
    prefixes: tuple[str, ...]
    methods: frozenset[str] = frozenset()
    alone: bool = False

    def covers(self, scope: Scope) -> bool:
        """Whether the request is for one of the routes."""
        path: str = scope["path"]
        return path.startswith(self.prefixes) and (not self.methods or scope.get("method") in self.methods)


def reports(credential: Credential | None, prefix: str) -> Grant:
    """Routes by which workers tell of themselves.

    What runs in a worker, an environment above all, can read the worker's token; with it, it can call nothing else.
    And who uses the service cannot pass for a worker.
    """
    return Grant(credential, (prefix,), frozenset({"PUT", "DELETE"}), alone=True)


class BearerAuth:
    """Lets a request pass with a token that opens it, or on a public path; answers 401 `unauthorized` otherwise.

    The service's own token opens every route that is no grant's alone. No token configured means that everything
    passes (tests, one-machine set-ups). `public_prefixes` are paths whose capability is in the path itself.
    """

    def __init__(
        self,
        app: ASGIApp,
        own: Credential | None,
        public_prefixes: Iterable[str] = (),
        grants: Iterable[Grant] = (),
    ) -> None:
        self._app = app
        self._own = own
        self._prefixes = tuple(public_prefixes)
        self._grants = [grant for grant in grants if grant.credential is not None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if self._own is None or scope["type"] == "lifespan" or self._may_pass(scope, self._own):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "unauthorized"})
        else:
            error = ProblemError("unauthorized", "a valid bearer token is required", status=401)
            await problem_response(error)(scope, receive, send)

    def _may_pass(self, scope: Scope, own: Credential) -> bool:
        path: str = scope["path"]
        if path in PUBLIC_PATHS or (self._prefixes and path.startswith(self._prefixes)):
            return True
        headers = dict(scope["headers"])
        shown = headers.get(b"authorization")
        if shown is None and b"x-api-key" in headers:
            # Where Anthropic's clients put it.
            shown = b"Bearer " + headers[b"x-api-key"]
        if shown is None:
            return False
        openers = self._openers(scope, own)
        if any(opener.matches(shown) for opener in openers):
            return True
        # A caller may have the renewed token a moment before this process: look before refusing it.
        renewed = [opener for opener in openers if opener.refresh()]
        return any(opener.matches(shown) for opener in renewed)

    def _openers(self, scope: Scope, own: Credential) -> list[Credential]:
        granted = [grant for grant in self._grants if grant.covers(scope)]
        alone = [grant for grant in granted if grant.alone]
        found = [grant.credential for grant in alone or granted if grant.credential is not None]
        return found if alone else [own, *found]
