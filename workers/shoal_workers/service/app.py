"""The application every role shares: probes, metrics, status, authentication and problem documents."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from shoal_workers.service.auth import BearerAuth, Grant
from shoal_workers.service.credentials import Token, as_credential
from shoal_workers.service.measure import Measure
from shoal_workers.service.problems import ProblemError, problem_response
from shoal_workers.telemetry.setup import tracing
from shoal_workers.telemetry.spans import TraceRequests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=BaseModel)
Status = Callable[[], "BaseModel | Awaitable[BaseModel]"]
Resource = Callable[[], AbstractAsyncContextManager[object]]


class Service:
    """One role's HTTP service.

    `status` gives the role's status message; `token` guards every route except the probes, /metrics, /status and
    `public_prefixes`; `grants` have tokens of their own. Routes are added to `app`. What must live as long as the
    service is added by `lives_with` and is entered in order at start and left in reverse at stop. `stopping` is set as
    soon as a stop is asked for, before open requests are waited for: long polls must watch it.
    """

    def __init__(
        self,
        role: str,
        status: Status,
        *,
        token: Token = None,
        public_prefixes: Iterable[str] = (),
        grants: Iterable[Grant] = (),
    ) -> None:
        self.role = role
        self.registry = CollectorRegistry()
        self.stopping = asyncio.Event()
        self._status = status
        self._reason = "starting"
        self._resources: list[Resource] = []
        self._drains: list[Callable[[], Awaitable[None]]] = []
        self._stop: Callable[[], None] = lambda: None
        self.app = FastAPI(title=f"shoal {role}", docs_url=None, redoc_url=None, lifespan=self._lifespan)
        self.app.add_middleware(
            BearerAuth, own=as_credential(token), public_prefixes=tuple(public_prefixes), grants=tuple(grants)
        )
        self.app.add_middleware(Measure, registry=self.registry)
        if tracing():
            self.app.add_middleware(TraceRequests, role=role)
        _add_problem_handlers(self.app)
        self._add_common_routes()

    def fast(self, method: str, path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        """Add a route that is called hundreds of times a second: found first, without FastAPI's parameters.

        The endpoint gets the bare request (`request.path_params`, `read`). The route is not in the OpenAPI document.
        """
        self.app.router.routes.insert(0, Route(path, endpoint, methods=[method]))

    def set_ready(self) -> None:
        """From now on /readyz answers 200."""
        self._reason = ""

    def set_not_ready(self, reason: str) -> None:
        """From now on /readyz answers 503 with the reason."""
        self._reason = reason

    @property
    def ready(self) -> bool:
        """Whether /readyz answers 200."""
        return not self._reason

    def lives_with(self, resource: Resource) -> None:
        """Enter `resource()` (an async context manager) at start, leave it at stop."""
        self._resources.append(resource)

    def before_stop(self, drain: Callable[[], Awaitable[None]]) -> None:
        """Await `drain()` when a stop begins, while requests are still served."""
        self._drains.append(drain)

    def stops_by(self, stop: Callable[[], None]) -> None:
        """The server's own way to stop; `ask_stop` calls it."""
        self._stop = stop

    def ask_stop(self) -> None:
        """Stop gracefully, as on SIGTERM: for a role that ends by itself."""
        self._stop()

    async def begin_stop(self) -> None:
        """Announce the stop and run what was registered by `before_stop`; one that fails is logged."""
        self.stopping.set()
        self.set_not_ready("stopping")
        for drain in self._drains:
            try:
                await drain()
            except Exception:
                logger.exception("drain failed")

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for resource in self._resources:
                await stack.enter_async_context(resource())
            yield

    def _add_common_routes(self) -> None:
        app = self.app

        @app.get("/healthz", include_in_schema=False)
        async def healthz() -> Response:
            return PlainTextResponse("ok")

        @app.get("/readyz", include_in_schema=False)
        async def readyz() -> Response:
            if self._reason:
                return problem_response(ProblemError("not-ready", self._reason, status=503))
            return PlainTextResponse("ok")

        @app.get("/metrics", include_in_schema=False)
        async def metrics() -> Response:
            return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

        @app.get("/status", include_in_schema=False)
        async def status() -> Response:
            current = self._status()
            return reply(await current if inspect.isawaitable(current) else current)


def reply(message: BaseModel, status: int = 200) -> Response:
    """The message as JSON; cheaper than a response model on routes called many times a second."""
    return Response(message.__pydantic_serializer__.to_json(message), status_code=status, media_type="application/json")


async def read(request: Request, model: type[ModelT]) -> ModelT:
    """The request's body as a message; raises ProblemError `invalid-request` (422) naming the field."""
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        raise invalid_request(error.errors(include_url=False)) from None


def invalid_request(errors: Iterable[object]) -> ProblemError:
    """The problem for a body or parameter that does not fit its model: field paths and reasons."""
    fields = [
        {"field": ".".join(str(part) for part in item["loc"]), "reason": str(item["msg"])}
        for item in errors
        if isinstance(item, dict)
    ]
    detail = "; ".join(f"{item['field']}: {item['reason']}" for item in fields)
    return ProblemError("invalid-request", detail, status=422, extensions={"errors": fields})


def _add_problem_handlers(app: FastAPI) -> None:
    @app.exception_handler(ProblemError)
    async def on_problem(_: Request, error: ProblemError) -> Response:
        return problem_response(error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: RequestValidationError) -> Response:
        return problem_response(invalid_request(error.errors()))

    @app.exception_handler(HTTPException)
    async def on_http(_: Request, error: HTTPException) -> Response:
        name = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, f"http-{error.status_code}")
        return problem_response(ProblemError(name, str(error.detail), status=error.status_code))

    @app.exception_handler(Exception)
    async def on_failure(_: Request, error: Exception) -> Response:
        detail = f"{type(error).__name__}: {error}"
        return problem_response(ProblemError("internal-error", detail, status=500))
