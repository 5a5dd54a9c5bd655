"""The data manager's routes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from starlette.responses import Response

from shoal.api.labels import Role
from shoal.api.services.report import RunReport
from shoal.api.services.roles.data import DataConfig
from shoal.api.services.trajectories import (
    Accepted,
    AssignmentRenewed,
    Batch,
    BatchAck,
    BatchRenewed,
    BatchRequest,
    Claimed,
    ClaimRequest,
    FaultReport,
    HandBack,
    ProgressReport,
    Reconciled,
    ReconcileRequest,
    TrajectoryRecord,
)
from shoal_workers.data.caller import Caller
from shoal_workers.data.manager import DataManager
from shoal_workers.data.store import StoreError
from shoal_workers.service import ConfigurationError, Identity, ProblemError, Service, Token, credential, read, reply
from shoal_workers.service.auth import Grant
from shoal_workers.service.credentials import as_credential
from shoal_workers.tokens.arrays import MEDIA_TYPE, encode, to_batch

AGENT_ROUTES = ("/assignments", "/trajectories")
"""What agents call; batches and progress are the trainer's."""


def build(config: DataConfig, identity: Identity) -> Service:
    """The service of this process; raises ConfigurationError for a store or task file that cannot be used."""
    try:
        return make_service(DataManager(config), credential(), credential(Role.AGENT))
    except StoreError as error:
        raise ConfigurationError("folder", str(error)) from error


def make_service(manager: DataManager, token: Token, agent_token: Token = None) -> Service:
    """The routes over a data manager. `agent_token` takes and returns assignments; without one, `token` does."""
    grants = (Grant(as_credential(agent_token), AGENT_ROUTES),)
    service = Service("data", manager.status, token=token, grants=grants)

    @asynccontextmanager
    async def open_store() -> AsyncIterator[None]:
        yield
        manager.close()

    async def end_polls() -> None:
        manager.wake_all()

    service.lives_with(open_store)
    service.before_stop(end_polls)
    _add_agent_routes(service, manager)
    _add_trainer_routes(service, manager)

    @service.app.get("/report", response_model=RunReport)
    async def report() -> Response:
        return reply(await manager.report())

    service.set_ready()
    return service


def _add_agent_routes(service: Service, manager: DataManager) -> None:
    app = service.app

    @app.post("/assignments:claim", response_model=Claimed)
    async def claim(request: Request) -> Response:
        asked = await read(request, ClaimRequest)
        async with Caller(request, service.stopping, manager.wake_all) as caller:
            return reply(await manager.claim(asked, caller))

    @app.post("/assignments/{assignment}:renew", response_model=AssignmentRenewed)
    async def renew(assignment: str, attempt: int | None = None) -> Response:
        return reply(await manager.renew(assignment, attempt))

    @app.post("/assignments/{assignment}:fail", response_model=Accepted)
    async def fail(assignment: str, request: Request) -> Response:
        return reply(await manager.fail(assignment, await read(request, FaultReport)))

    @app.post("/assignments/{assignment}:return", response_model=Accepted)
    async def hand_back(assignment: str, request: Request) -> Response:
        return reply(await manager.hand_back(assignment, await read(request, HandBack)))

    @app.post("/trajectories", response_model=Accepted)
    async def record(request: Request) -> Response:
        try:
            posted = await read(request, TrajectoryRecord)
        except ProblemError as problem:
            await manager.refuse(await request.body(), problem)
            raise
        return reply(await manager.record(posted))


def _add_trainer_routes(service: Service, manager: DataManager) -> None:
    app = service.app

    handed: dict[int | str, dict[str, Any]] = {
        204: {"description": "No batch yet."},
        200: {"content": {MEDIA_TYPE: {}}},
    }

    @app.post("/batches:lease", response_model=Batch, responses=handed)
    async def lease(request: Request) -> Response:
        asked = await read(request, BatchRequest)
        async with Caller(request, service.stopping, manager.wake_all) as caller:
            arrays = await manager.lease_arrays(asked, caller)
        if arrays is None:
            return Response(status_code=204)
        if MEDIA_TYPE in request.headers.get("accept", ""):
            return Response(await asyncio.to_thread(encode, arrays), media_type=MEDIA_TYPE)
        return reply(await asyncio.to_thread(to_batch, arrays))

    @app.post("/batches:reconcile", response_model=Reconciled)
    async def reconcile(request: Request) -> Response:
        return reply(await manager.reconcile(await read(request, ReconcileRequest)))

    @app.post("/batches/{batch}:renew", response_model=BatchRenewed)
    async def renew(batch: str) -> Response:
        return reply(await manager.renew_batch(batch))

    @app.post("/batches/{batch}:ack", response_model=Accepted)
    async def acknowledge(batch: str, request: Request) -> Response:
        return reply(await manager.acknowledge(batch, await read(request, BatchAck)))

    @app.post("/batches/{batch}:release", response_model=Accepted)
    async def release(batch: str) -> Response:
        return reply(await manager.release(batch))

    @app.post("/progress", status_code=204)
    async def progress(request: Request) -> Response:
        await manager.progress(await read(request, ProgressReport))
        return Response(status_code=204)
