"""The guard's routes, for the broker."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from shoal.api.services.leases import (
    Grant,
    GrantRequest,
    GuardState,
    LeaseRenewed,
    Outcome,
    Released,
    RenewRequest,
    Retired,
    RetireRequest,
)
from shoal_workers.environment.guard import GuardError, LeaseLostError
from shoal_workers.environment.member import Member
from shoal_workers.service import ProblemError, read, reply


def guard_routes(member: Member) -> APIRouter:
    """Grant, renew, release, retire, and the guard's full state."""
    routes = APIRouter()

    @routes.post("/guard/grant", response_model=Grant)
    async def grant(request: Request) -> Response:
        asked = await read(request, GrantRequest)
        try:
            lease = member.grant(asked)
        except GuardError as error:
            raise _conflict(error) from None
        return reply(
            Grant(
                lease_id=lease.lease_id,
                key=lease.key,
                holder=lease.holder,
                slot=lease.slot,
                environment_url=f"{member.url}/leases/{lease.token}",
                token=lease.token,
                expires_at=lease.expires_at,
                revision=member.guard.revision,
                uid=member.identity.uid,
                started_at=member.started_at,
            )
        )

    @routes.post("/guard/leases/{lease_id}:renew", response_model=LeaseRenewed)
    async def renew(lease_id: str, request: Request) -> Response:
        asked = await read(request, RenewRequest)
        try:
            lease = member.renew(lease_id, asked.ttl)
        except GuardError as error:
            raise _conflict(error) from None
        return reply(LeaseRenewed(id=lease.lease_id, expires_at=lease.expires_at))

    @routes.delete("/guard/leases/{lease_id}", response_model=Released)
    async def release(lease_id: str, outcome: Outcome = Outcome.OK) -> Response:
        try:
            slot, state = member.release(lease_id, outcome)
        except GuardError as error:
            raise _conflict(error) from None
        return reply(Released(lease_id=lease_id, slot=slot, state=state, revision=member.guard.revision))

    @routes.post("/guard:retire", response_model=Retired)
    async def retire(request: Request) -> Response:
        asked = await read(request, RetireRequest)
        try:
            retired, leased = member.retire(None if asked.slots == "all" else asked.slots, asked.drain)
        except GuardError as error:
            raise _conflict(error) from None
        return reply(Retired(retired=retired, leased=leased, revision=member.guard.revision))

    @routes.get("/guard", response_model=GuardState)
    async def state() -> Response:
        guard = member.guard
        return reply(GuardState(name=member.identity.name, revision=guard.revision, slots=guard.report()))

    return routes


def _conflict(error: GuardError) -> ProblemError:
    return ProblemError(error.name, str(error), status=410 if isinstance(error, LeaseLostError) else 409)
