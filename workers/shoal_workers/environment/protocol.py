"""OpenEnv's wire protocol for the holder of a lease, over HTTP and WebSocket.

Differs from a plain OpenEnv server in one point: the environment belongs to the lease, not to the connection, so HTTP
calls and WebSocket messages of one lease drive the same episode.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter, Request, WebSocket, WebSocketDisconnect
from pydantic import ValidationError
from starlette.responses import Response

from shoal.api.services.leases import ResetRequest, StepRequest
from shoal_workers.environment import mcp
from shoal_workers.environment.adapter import (
    GraderError,
    InvalidActionError,
    NoRoomError,
    Observation,
    StartingError,
    Step,
)
from shoal_workers.environment.guard import Held, LeaseLostError
from shoal_workers.environment.member import Episode, Member
from shoal_workers.environment.slot import EnvironmentFailedError
from shoal_workers.service import ProblemError, Service
from shoal_workers.service.app import invalid_request

RequestT = TypeVar("RequestT", ResetRequest, StepRequest)

_JSON = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_CODES = {"invalid-request": "VALIDATION_ERROR", "lease-expired": "SESSION_ERROR"}
_RESET_FIELDS = frozenset({"seed", "episode_id", "task"})
_OBSERVATION_SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "data": {}, "metadata": {"type": "object"}},
}
_STATE_SCHEMA = {
    "type": "object",
    "properties": {"episode_id": {"type": ["string", "null"]}, "step_count": {"type": "integer", "minimum": 0}},
    "additionalProperties": True,
}

OPENAPI: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "OpenEnv environment", "version": "1.0.0"},
    "paths": {
        path: {method: {"responses": {"200": {"description": "As OpenEnv defines it."}}}}
        for method, path in (
            ("post", "/reset"),
            ("post", "/step"),
            ("get", "/state"),
            ("get", "/health"),
            ("get", "/metadata"),
            ("get", "/schema"),
            ("post", "/mcp"),
        )
    },
}
"""The routes of one lease, for tools that look an environment's up."""


class Driver:
    """The operations of the protocol on a member's slots; every failure is a ProblemError.

    With `own_form`, observations of an OpenEnv environment are as it made them, which is what its typed clients read.
    """

    def __init__(self, member: Member) -> None:
        self._member = member

    def lease(self, token: str) -> Held:
        """The live lease of a token; problem `lease-expired` (410)."""
        try:
            return self._member.holder(token)
        except LeaseLostError as error:
            raise ProblemError("lease-expired", str(error), status=410) from None

    async def reset(self, lease: Held, data: Mapping[str, Any], *, own_form: bool = False) -> dict[str, Any]:
        """Start an episode; unknown fields belong to the task, as the arguments of OpenEnv's reset do."""
        request = validated(ResetRequest, data)
        task = {**request.task, **{key: value for key, value in data.items() if key not in _RESET_FIELDS}}
        slot = self._member.slots[lease.slot]
        try:
            observation = await slot.reset(request.seed, task, self._member.config.reset_timeout)
        except Exception as error:
            raise self._problem(lease, error) from error
        self.lease(lease.token)
        episode_id = request.episode_id or uuid.uuid4().hex
        self._member.begin_episode(lease, episode_id, observation)
        return _payload(observation, None, {"episode_id": episode_id}, own_form)

    async def step(
        self, lease: Held, action: Mapping[str, Any], timeout: float | None = None, *, own_form: bool = False
    ) -> dict[str, Any]:
        """Do one action."""
        episode = self._running_episode(lease)
        config = self._member.config
        limit = config.step_timeout
        try:
            slot = self._member.slots[lease.slot]
            step = _graded(await slot.step(action, min(timeout or limit, limit), config.evaluate_timeout))
        except InvalidActionError as error:
            self._member.counters.invalid_actions += 1
            return _payload(episode.last, None, {"invalid_action": str(error)}, own_form)
        except Exception as error:
            raise self._problem(lease, error) from error
        self.lease(lease.token)
        return self._record(episode, step, own_form)

    async def mcp(self, lease: Held, body: bytes) -> dict[str, Any]:
        """The answer to a JSON-RPC request of MCP, errors included."""
        request = mcp.parse(body)
        if "error" in request:
            return request
        try:
            return dict(await self._member.slots[lease.slot].mcp(request, self._member.config.step_timeout))
        except Exception as error:
            problem = self._problem(lease, error)
            return mcp.failure(mcp.INTERNAL_ERROR, problem.detail, request.get("id"))

    async def state(self, lease: Held) -> dict[str, Any]:
        """The episode's id, its number of steps, and the environment's own fields."""
        episode = self._member.episode(lease)
        try:
            own = await self._member.slots[lease.slot].state(self._member.config.step_timeout)
        except Exception as error:
            raise self._problem(lease, error) from error
        return {
            **own,
            "episode_id": episode.episode_id if episode else None,
            "step_count": episode.steps if episode else 0,
        }

    def metadata(self) -> dict[str, Any]:
        """OpenEnv's environment metadata."""
        source = self._member.config.environment
        return {"name": self._member.backend.name, "description": f"{source.protocol} environment", "version": "1"}

    def schema(self) -> dict[str, Any]:
        """JSON schemas of actions, observations and state."""
        general = {
            "action": self._member.backend.action_schema,
            "observation": _OBSERVATION_SCHEMA,
            "state": _STATE_SCHEMA,
        }
        own = next((slot.schemas for slot in self._member.slots if slot.schemas), {})
        return {**general, **own}

    def _running_episode(self, lease: Held) -> Episode:
        episode = self._member.episode(lease)
        if episode is None:
            raise ProblemError("no-episode", "reset the environment first", status=409)
        if episode.done:
            raise ProblemError("episode-over", "the episode has ended; reset the environment", status=409)
        return episode

    def _record(self, episode: Episode, step: Step, own_form: bool) -> dict[str, Any]:
        counters = self._member.counters
        counters.steps += 1
        counters.invalid_actions += "invalid_action_counted" in step.observation.info
        episode.steps += 1
        episode.done = step.terminated or step.truncated
        episode.last = step.observation
        ends = {"terminated": step.terminated, "truncated": step.truncated}
        return _payload(step.observation, step.reward, ends, own_form)

    def _problem(self, lease: Held, error: Exception) -> ProblemError:
        if isinstance(error, GraderError):
            self._member.counters.errors += 1
            return ProblemError("grader-error", str(error), status=500)
        reason = error.reason if isinstance(error, EnvironmentFailedError) else "exception"
        if isinstance(error, StartingError | NoRoomError):
            reason = "lost"
        if reason != "broken":
            self._member.environment_failed(lease, str(error), lost=reason == "lost")
        return ProblemError("environment-error", str(error), status=500, extensions={"reason": reason})


def _graded(step: Step) -> Step:
    """The step with its reward as a plain number; raises GraderError for one that is none, as JSON would make it 0."""
    if step.reward is None:
        return step
    try:
        reward = float(step.reward)
    except (TypeError, ValueError, OverflowError):
        reward = math.nan
    if not math.isfinite(reward) or isinstance(step.reward, str):
        raise GraderError(f"reward: {step.reward!r} is no finite number")
    return replace(step, reward=reward)


def add_lease_routes(service: Service, driver: Driver) -> None:
    """The protocol under /leases/{token}: the token is the right to drive the slot."""

    async def reset(request: Request) -> Response:
        lease = driver.lease(request.path_params["token"])
        return json_response(await driver.reset(lease, await body_object(request)))

    async def step(request: Request) -> Response:
        lease = driver.lease(request.path_params["token"])
        body = validated(StepRequest, await body_object(request))
        return json_response(await driver.step(lease, body.action, body.timeout_s))

    service.fast("POST", "/leases/{token}/reset", reset)
    service.fast("POST", "/leases/{token}/step", step)
    service.app.include_router(_lease_router(driver))


def _lease_router(driver: Driver) -> APIRouter:
    routes = APIRouter(prefix="/leases/{token}")

    @routes.get("/state")
    async def state(token: str) -> Response:
        return json_response(await driver.state(driver.lease(token)))

    @routes.get("/health")
    async def health(token: str) -> Response:
        driver.lease(token)
        return json_response({"status": "healthy"})

    @routes.get("/metadata")
    async def metadata(token: str) -> Response:
        driver.lease(token)
        return json_response(driver.metadata())

    @routes.get("/schema")
    async def schema(token: str) -> Response:
        driver.lease(token)
        return json_response(driver.schema())

    @routes.get("/openapi.json")
    async def openapi(token: str) -> Response:
        driver.lease(token)
        return json_response(OPENAPI)

    @routes.post("/mcp")
    async def call_mcp(token: str, request: Request) -> Response:
        return json_response(await driver.mcp(driver.lease(token), await request.body()))

    @routes.websocket("/ws")
    async def ws(token: str, websocket: WebSocket) -> None:
        await websocket.accept()
        await converse(driver, token, websocket)

    return routes


async def converse(driver: Driver, token: str, websocket: WebSocket) -> None:
    """Answer the messages of one accepted WebSocket until either side closes it."""
    try:
        while True:
            answer = await _answer(driver, token, await websocket.receive_text())
            if answer is None:
                await websocket.close()
                return
            await websocket.send_text(orjson.dumps(answer, default=str, option=_JSON).decode())
    except WebSocketDisconnect:
        return


async def _answer(driver: Driver, token: str, text: str) -> dict[str, Any] | None:
    try:
        message = orjson.loads(text)
    except ValueError as error:
        return _error(f"Invalid JSON: {error}", "INVALID_JSON")
    kind = message.get("type") if isinstance(message, dict) else None
    if kind == "close":
        return None
    data = message.get("data") or {} if isinstance(message, dict) else {}
    if kind not in ("reset", "step", "state", "mcp"):
        return _error(f"Unknown message type: {kind}", "UNKNOWN_TYPE")
    if not isinstance(data, dict):
        return _error("data must be an object", "VALIDATION_ERROR")
    try:
        lease = driver.lease(token)
        if kind == "state":
            return {"type": "state", "data": await driver.state(lease)}
        if kind == "mcp":
            return {"type": "mcp", "data": await driver.mcp(lease, orjson.dumps(data))}
        call = driver.reset if kind == "reset" else driver.step
        return {"type": "observation", "data": await call(lease, data, own_form=True)}
    except ProblemError as error:
        return _error(error.detail, _CODES.get(error.name, "EXECUTION_ERROR"), problem=error.document())


def _error(message: str, code: str, **more: Any) -> dict[str, Any]:
    return {"type": "error", "data": {"message": message, "code": code, **more}}


def _payload(
    observation: Observation, reward: float | None, metadata: Mapping[str, Any], own_form: bool = False
) -> dict[str, Any]:
    full = {**observation.info, **metadata}
    shown: dict[str, Any] = {"text": observation.text, "data": observation.data, "metadata": full}
    if observation.images:
        shown["images"] = observation.images
    if own_form and observation.wire is not None:
        shown = dict(observation.wire)
    done = bool(full.get("terminated") or full.get("truncated"))
    return {"observation": shown, "reward": reward, "done": done, "metadata": full}


def json_response(content: Mapping[str, Any]) -> Response:
    """The content as JSON; numpy values are fine."""
    return Response(orjson.dumps(content, default=str, option=_JSON), media_type="application/json")


async def body_object(request: Request) -> dict[str, Any]:
    """The request's body, a JSON object or nothing; problem `invalid-request` otherwise."""
    body = await request.body()
    try:
        value = orjson.loads(body) if body else {}
    except ValueError as error:
        raise ProblemError("invalid-request", f"the body is not JSON: {error}", status=422) from None
    if not isinstance(value, dict):
        raise ProblemError("invalid-request", "the body must be a JSON object", status=422)
    return value


def validated(model: type[RequestT], data: Mapping[str, Any]) -> RequestT:
    """The data as a message; problem `invalid-request` naming the field otherwise."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid_request(error.errors(include_url=False)) from None
