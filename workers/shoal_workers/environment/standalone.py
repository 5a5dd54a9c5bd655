"""OpenEnv's routes at the root, for a server that is used without a broker (`open: true`).

A WebSocket holds a slot for as long as it is open; plain HTTP calls share one slot.
"""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Request, WebSocket
from starlette.responses import Response

from shoal.api.services.leases import GrantRequest, Outcome, StepRequest
from shoal_workers.environment.guard import GuardError, Held
from shoal_workers.environment.mcp import parse
from shoal_workers.environment.member import Member
from shoal_workers.environment.protocol import Driver, body_object, converse, json_response, validated
from shoal_workers.service import ProblemError

# Nobody renews these leases: they end with their connection, or with the process.
FOREVER_SECONDS = 10 * 365 * 86_400.0
ROOT_PATHS = ("/reset", "/step", "/state", "/health", "/metadata", "/schema", "/ws", "/mcp", "/openapi.json")


def open_routes(member: Member, driver: Driver) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.post("/reset")
    async def reset(request: Request) -> Response:
        return json_response(await driver.reset(_take(member, "open-http"), await body_object(request), own_form=True))

    @routes.post("/step")
    async def step(request: Request) -> Response:
        body = validated(StepRequest, await body_object(request))
        lease = _take(member, "open-http")
        return json_response(await driver.step(lease, body.action, body.timeout_s, own_form=True))

    @routes.get("/state")
    async def state() -> Response:
        return json_response(await driver.state(_take(member, "open-http")))

    @routes.get("/health")
    async def health() -> Response:
        return json_response({"status": "healthy"})

    @routes.get("/metadata")
    async def metadata() -> Response:
        return json_response(driver.metadata())

    @routes.get("/schema")
    async def schema() -> Response:
        return json_response(driver.schema())

    @routes.post("/mcp")
    async def mcp(request: Request) -> Response:
        body = await request.body()
        wrong = parse(body)
        # What needs no environment must not take the only slot.
        if "error" in wrong:
            return json_response(wrong)
        return json_response(await driver.mcp(_take(member, "open-http"), body))

    @routes.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            lease = _take(member, f"open-{uuid.uuid4().hex}")
        except ProblemError as error:
            data = {"message": error.detail, "code": "CAPACITY_REACHED"}
            await websocket.send_json({"type": "error", "data": data})
            await websocket.close()
            return
        try:
            await converse(driver, lease.token, websocket)
        finally:
            member.release(lease.lease_id, Outcome.OK)
            member.changed.set()

    return routes


def _take(member: Member, key: str) -> Held:
    request = GrantRequest(lease_id=key, key=key, holder="open", ttl=FOREVER_SECONDS, max_seconds=FOREVER_SECONDS)
    try:
        return member.grant(request)
    except GuardError as error:
        raise ProblemError(error.name, str(error), status=409) from None
