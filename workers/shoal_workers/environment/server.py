"""The service of a member pod."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shoal.api.addresses import http_url
from shoal.api.services.roles.environment import EnvironmentConfig
from shoal_workers.environment import adapters
from shoal_workers.environment.adapter import Backend, StartingError
from shoal_workers.environment.generators import isolate
from shoal_workers.environment.member import Member
from shoal_workers.environment.protocol import Driver, add_lease_routes
from shoal_workers.environment.registration import Registration
from shoal_workers.environment.render import TemplateError
from shoal_workers.environment.routes import guard_routes
from shoal_workers.environment.standalone import ROOT_PATHS, open_routes
from shoal_workers.service import ConfigurationError, Identity, Service, ServiceClient, Token, credential
from shoal_workers.telemetry import names

# Whoever retired the member deletes its pod; it must not come back as a new process in between.
RETIRED_SECONDS = 10.0

logger = logging.getLogger(__name__)


def build(config: EnvironmentConfig, identity: Identity) -> Service:
    """The service; raises ConfigurationError when the environment cannot exist as configured."""
    isolate()
    backend = adapters.resolve(config.environment)
    if backend.probe:
        _probe(backend)
    member = Member(config, identity, backend)
    member.url = http_url(identity.ip, config.port)
    return make_service(member, credential())


def make_service(member: Member, token: Token) -> Service:
    """The service of a member; `member.url` must be set before the first lease."""
    config = member.config
    public = ("/leases/", *ROOT_PATHS) if config.open else ("/leases/",)
    service = Service("environment", member.status, token=token, public_prefixes=public)
    driver = Driver(member)
    service.app.include_router(guard_routes(member))
    add_lease_routes(service, driver)
    if config.open:
        service.app.include_router(open_routes(member, driver))
    service.registry.register(_Metrics(member))
    service.lives_with(member.running)
    service.lives_with(lambda: _task(_follow_readiness(service, member)))
    service.lives_with(lambda: _task(_end_when_exhausted(service, member)))
    if config.broker_url:
        client = ServiceClient(config.broker_url, token=token)
        service.lives_with(Registration(member, client).running)
    service.before_stop(lambda: member.drain(config.drain_seconds))
    return service


def _probe(backend: Backend) -> None:
    """Make one instance and reset it, so that a wrong configuration is one clear line and no crash loop."""
    try:
        adapter = backend.create()
        adapter.verify()
        adapter.close()
    except ConfigurationError:
        raise
    except StartingError:
        return
    except TemplateError as error:
        raise ConfigurationError("environment.config.observation", str(error)) from None
    except Exception as error:
        raise ConfigurationError("environment.entrypoint", f"{type(error).__name__}: {error}") from error


@asynccontextmanager
async def _task(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _follow_readiness(service: Service, member: Member) -> None:
    for _ in itertools.count():
        if member.guard.started:
            break
        reasons = [slot.reason for slot in member.guard.report() if slot.reason]
        service.set_not_ready(reasons[0] if reasons else "slots are being made ready")
        await asyncio.sleep(0.05)
    if not service.stopping.is_set():
        service.set_ready()
        logger.info("ready", extra={"slots": member.guard.count, "environment": member.backend.name})


async def _end_when_exhausted(service: Service, member: Member) -> None:
    """A member whose slots are all used up ends, so that a new one takes its place."""
    await member.exhausted.wait()
    if member.told_to_retire:
        await asyncio.sleep(RETIRED_SECONDS)
    logger.info("all slots are retired", extra={"episodes": member.counters.episodes})
    service.ask_stop()


class _Metrics(Collector):
    """A member's counters, read when they are asked for."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def collect(self) -> list[Metric]:
        """The metrics now."""
        report = self._member.environment_report()
        slots = GaugeMetricFamily(names.ENVIRONMENT_SLOTS, "Slots by state.", labels=["state"])
        for state, number in self._member.slot_totals().model_dump(exclude={"total"}).items():
            slots.add_metric([state], number)
        occupied = "Seconds inside an episode, summed over slots."
        active = "Seconds executing reset, step or grading, summed over slots."
        return [
            slots,
            CounterMetricFamily(names.ENVIRONMENT_OCCUPIED_SECONDS, occupied, value=report.occupied_seconds),
            CounterMetricFamily(names.ENVIRONMENT_ACTIVE_SECONDS, active, value=report.active_seconds),
            CounterMetricFamily(names.ENVIRONMENT_EPISODES, "Episodes started.", value=report.episodes),
            CounterMetricFamily(names.ENVIRONMENT_STEPS, "Steps done.", value=report.steps),
            CounterMetricFamily(names.ENVIRONMENT_ERRORS, "Environment and grader errors.", value=report.errors),
        ]
