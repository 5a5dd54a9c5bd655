"""The service of a pool's broker."""

from __future__ import annotations

from fastapi import Request
from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from shoal.api.labels import Role
from shoal.api.services.leases import (
    Lease,
    LeaseQueued,
    LeaseRenewed,
    LeaseRequest,
    MemberReport,
    Outcome,
    Released,
    RenewRequest,
    Retired,
    RetireRequest,
)
from shoal.api.services.roles.broker import BrokerConfig
from shoal_workers.broker.broker import Broker
from shoal_workers.broker.guards import Guards
from shoal_workers.service import Identity, ProblemError, Service, Token, credential, read, reply
from shoal_workers.service.auth import Grant, reports
from shoal_workers.service.credentials import as_credential
from shoal_workers.telemetry import names

AGENT_ROUTES = ("/leases",)
"""What agents call; members are the operator's."""
_WAIT_BUCKETS = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300)


def build(config: BrokerConfig, identity: Identity) -> Service:
    """The service of this process."""
    return make_service(config, credential(), credential(Role.ENVIRONMENT), credential(Role.AGENT))


def make_service(config: BrokerConfig, token: Token, member_token: Token = None, agent_token: Token = None) -> Service:
    """The service. Members accept `member_token` and report with it, and `agent_token` leases; without them, `token`
    does for all.
    """
    guards = Guards(member_token or token, config.guard_timeout)
    broker = Broker(config, guards, on_wait=lambda seconds: wait.observe(seconds))
    grants = (reports(as_credential(member_token), "/members/"), Grant(as_credential(agent_token), AGENT_ROUTES))
    service = Service("broker", broker.status, token=token, grants=grants)
    wait = Histogram(
        names.BROKER_WAIT_SECONDS, "Seconds a granted lease waited.", buckets=_WAIT_BUCKETS, registry=service.registry
    )
    service.registry.register(_Metrics(broker))
    _add_lease_routes(service, broker)
    _add_member_routes(service, broker)
    service.lives_with(broker.running)
    service.before_stop(broker.end_polls)
    service.set_ready()
    return service


def _add_lease_routes(service: Service, broker: Broker) -> None:
    app = service.app

    @app.post("/leases", response_model=Lease, responses={202: {"model": LeaseQueued}})
    async def lease(request: Request) -> Response:
        # With the body read, the next message of the connection can only be its end.
        answer = await broker.lease(await read(request, LeaseRequest), gone=request.receive)
        return reply(answer, 202 if isinstance(answer, LeaseQueued) else 200)

    @app.post("/leases/{lease_id}:renew", response_model=LeaseRenewed)
    async def renew(lease_id: str, request: Request) -> Response:
        asked = await read(request, RenewRequest)
        return reply(await broker.renew(lease_id, asked.ttl))

    @app.delete("/leases/{lease_id}", response_model=Released)
    async def release(lease_id: str, outcome: Outcome = Outcome.OK) -> Response:
        return reply(await broker.release(lease_id, outcome))


def _add_member_routes(service: Service, broker: Broker) -> None:
    app = service.app

    @app.put("/members/{name}", status_code=204)
    async def report(name: str, request: Request) -> Response:
        message = await read(request, MemberReport)
        if message.name != name:
            raise ProblemError("invalid-request", f"the report is of {message.name}, not of {name}", status=422)
        broker.report(message)
        return Response(status_code=204)

    @app.delete("/members/{name}", status_code=204)
    async def goodbye(name: str, uid: str = "") -> Response:
        broker.goodbye(name, uid)
        return Response(status_code=204)

    @app.post("/members/{name}:retire", response_model=Retired)
    async def retire(name: str, request: Request) -> Response:
        asked = await read(request, RetireRequest) if await request.body() else RetireRequest()
        return reply(await broker.retire(name, asked))


class _Metrics(Collector):
    """The broker's status as metrics, read when they are asked for."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def collect(self) -> list[Metric]:
        """The metrics now."""
        status = self._broker.status()
        slots = GaugeMetricFamily(names.BROKER_SLOTS, "Slots by state.", labels=["state"])
        for state, number in status.slots.model_dump(exclude={"total"}).items():
            slots.add_metric([state], number)
        return [
            slots,
            GaugeMetricFamily(names.BROKER_MEMBERS, "Members that report.", value=len(status.members)),
            GaugeMetricFamily(names.BROKER_QUEUED, "Requests that wait for a slot.", value=status.queued),
            CounterMetricFamily(names.BROKER_GRANTS, "Leases granted.", value=status.grants),
            CounterMetricFamily(names.BROKER_EXPIRIES, "Leases that expired.", value=status.expiries),
        ]
