"""Routes for agents, trainer, engines and operator: tokens, weights, registrations."""

from __future__ import annotations

from collections.abc import Callable

import orjson
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shoal.api.services.models import EngineReport, GenerateRequest, GenerateResult, SessionSettings, WeightsTarget
from shoal_workers.gateway.calls import Calls
from shoal_workers.gateway.engines import Engines
from shoal_workers.gateway.sessions import Sessions, within
from shoal_workers.gateway.status import Overview
from shoal_workers.service import ProblemError, Service, read, reply
from shoal_workers.service.abandon import CLIENT_CLOSED_REQUEST, Abandon, AbandonedError
from shoal_workers.service.app import invalid_request
from shoal_workers.tokens.results import encode_result

_JSON = "application/json"


def add_generate_routes(service: Service, calls: Calls, sessions: Sessions) -> None:
    """Tokens in, tokens out."""

    async def generate(request: Request) -> Response:
        body = await request.body()
        call = _parse(body)
        try:
            with Abandon(request):
                outcome = await calls.run(call, body)
        except AbandonedError:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return Response(encode_result(outcome) if isinstance(outcome, GenerateResult) else outcome, media_type=_JSON)

    async def generate_in_session(request: Request) -> Response:
        name = request.path_params["session"]
        sessions.admit(name)
        call = within(name, sessions.settings(name), _parse(await request.body()))
        try:
            with Abandon(request):
                result = await calls.generate(call)
        except AbandonedError:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        sessions.record(name, call.prompt_token_ids, result)
        return Response(encode_result(result), media_type=_JSON)

    # Plain Starlette routes in front of all others: this path is taken for every turn of every episode.
    service.app.router.routes.insert(0, Route("/generate", generate, methods=["POST"]))
    service.app.router.routes.insert(1, Route("/sessions/{session}/generate", generate_in_session, methods=["POST"]))


def add_session_routes(service: Service, sessions: Sessions, check_run: Callable[[str], None]) -> None:
    """Sessions: opened with settings, read, forgotten. `check_run` raises for a run that has not got the fleet."""

    @service.app.put("/sessions/{session}")
    async def put_session(session: str, request: Request) -> Response:
        settings = await read(request, SessionSettings)
        # Here its opener is told. Later it would be a program with a client of its own, which takes it for an outage.
        check_run(settings.run)
        sessions.open(session, settings)
        return Response(status_code=204)

    @service.app.get("/sessions/{session}")
    async def get_session(session: str) -> Response:
        return reply(sessions.get(session))

    @service.app.delete("/sessions/{session}")
    async def delete_session(session: str) -> Response:
        return Response(orjson.dumps({"deleted": sessions.delete(session)}), media_type=_JSON)


def add_fleet_routes(service: Service, engines: Engines, overview: Overview) -> None:
    """Weights and engines."""

    @service.app.put("/weights/target")
    async def put_target(request: Request) -> Response:
        target = await read(request, WeightsTarget)
        engines.set_target(target, reset=request.query_params.get("reset") == "true")
        return Response(orjson.dumps({"accepted": target.version}), media_type=_JSON)

    @service.app.delete("/weights/target")
    async def delete_target(run: str) -> Response:
        engines.leave(run)
        return Response(status_code=204)

    @service.app.get("/weights")
    async def get_weights() -> Response:
        return reply(overview.weights())

    @service.app.put("/engines/{name}")
    async def put_engine(name: str, request: Request) -> Response:
        report = await read(request, EngineReport)
        if report.name != name:
            raise ProblemError("wrong-name", f"the report of {report.name} was sent as {name}", status=422)
        engines.report(report)
        return Response(status_code=204)

    @service.app.delete("/engines/{name}")
    async def delete_engine(name: str, uid: str = "") -> Response:
        engines.forget(name, uid)
        return Response(status_code=204)

    @service.app.post("/engines/{name}:drain")
    async def drain_engine(name: str) -> Response:
        return Response(orjson.dumps({"running": engines.drain(name)}), media_type=_JSON)


def _parse(body: bytes) -> GenerateRequest:
    try:
        return GenerateRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_request(error.errors(include_url=False)) from None
