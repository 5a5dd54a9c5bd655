"""The HTTP contract of an engine."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from shoal.api.services.models import AbortRequest, GenerateRequest, ParseRequest, WeightsTarget, WeightsUpdate
from shoal_workers.engines.engine import Engine
from shoal_workers.service import ProblemError, Service, read, reply
from shoal_workers.service.abandon import CLIENT_CLOSED_REQUEST, Abandon, AbandonedError
from shoal_workers.service.problems import problem_response
from shoal_workers.tokens.results import encode_result


def add_routes(service: Service, engine: Engine) -> None:
    """Generation, abort, weights, and a liveness that ends with the core."""

    async def generate(request: Request) -> Response:
        call = await read(request, GenerateRequest)
        try:
            with Abandon(request):
                result = await engine.generate(call)
        except AbandonedError:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return Response(encode_result(result), media_type="application/json")

    async def abort(request: Request) -> Response:
        wanted = await read(request, AbortRequest)
        return Response(
            orjson.dumps({"aborted": await engine.abort(wanted.request_ids)}), media_type="application/json"
        )

    async def weights(request: Request) -> Response:
        return reply(await engine.load_weights(await read(request, WeightsUpdate)))

    async def parse(request: Request) -> Response:
        return reply(await engine.parse(await read(request, ParseRequest)))

    async def prepare(request: Request) -> Response:
        await engine.prepare(await read(request, WeightsTarget))
        return Response(status_code=204)

    async def healthz(_: Request) -> Response:
        if engine.alive:
            return PlainTextResponse("ok")
        return problem_response(ProblemError("engine-dead", engine.status().detail or "a step hangs", status=503))

    # Plain Starlette routes: FastAPI's dependency machinery would cost as much as the rest of the call.
    service.app.router.routes.insert(0, Route("/generate", generate, methods=["POST"]))
    service.app.router.routes.insert(0, Route("/abort", abort, methods=["POST"]))
    service.app.router.routes.insert(0, Route("/weights", weights, methods=["POST"]))
    service.app.router.routes.insert(0, Route("/weights/prepare", prepare, methods=["POST"]))
    service.app.router.routes.insert(0, Route("/parse", parse, methods=["POST"]))
    service.app.router.routes.insert(0, Route("/healthz", healthz))
