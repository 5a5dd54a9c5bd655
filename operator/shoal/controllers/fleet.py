"""RolloutFleet: observe, plan, apply, report."""

from functools import partial
from typing import Any

from pydantic import ValidationError

from shoal.api.labels import PORTS, Role
from shoal.api.services.models import GatewayStatus
from shoal.api.tolerant import read_status
from shoal.api.v1alpha1.rolloutfleet import (
    EnginePhase,
    EngineStatusEntry,
    FleetUsage,
    RolloutFleetSpec,
    RolloutFleetStatus,
    WeightVersions,
)
from shoal.builders import fleet
from shoal.builders.children import build_service, build_tokens
from shoal.builders.network import fleet_policies
from shoal.builders.owner import Owner
from shoal.controllers.context import Context, service_of, url_of
from shoal.controllers.effects import Subject
from shoal.engine.keys import ObjectKey
from shoal.engine.manager import Result
from shoal.engine.scrape import Target
from shoal.kube.resources import ROLLOUT_FLEETS
from shoal.planner.fleet import FleetDesired, FleetObserved, FleetReading, expectation, plan_fleet
from shoal.planner.observed import PodView, Reading
from shoal.planner.sizing import ScaleMemory

Json = dict[str, Any]

STALE_SECONDS = 15.0
"""A gateway that has not answered for this long is told of as not ready."""


class FleetController:
    """Reconciles RolloutFleets."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._memory: dict[str, ScaleMemory] = {}

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a fleet that is gone."""
        self._memory.pop(uid, None)

    async def reconcile(self, key: ObjectKey) -> Result:
        """One pass over the fleet of this key; a fleet that is gone needs none, its children are garbage collected."""
        context = self._context
        body = context.world.fleets.get(key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            return Result()
        owner = fleet.fleet_owner(key.name, key.namespace, body["metadata"]["uid"])
        pods = context.world.workers_of(owner.namespace, owner.uid)
        tokens = context.world.taken_by(owner.namespace, owner.uid, owner.secret)
        gateway = service_of(pods, Role.GATEWAY)
        subject = Subject(owner, ROLLOUT_FLEETS, gateway.ip if gateway else "", tokens)
        try:
            spec = RolloutFleetSpec.model_validate(body["spec"])
        except ValidationError as error:
            await context.reject(subject, body, error)
            return Result()
        targets = {Role.GATEWAY: Target(url_of(gateway), GatewayStatus)} if gateway else {}
        context.scraper.set_targets(owner.uid, targets)
        desired = build(owner, spec, context)
        plan = plan_fleet(
            spec,
            desired,
            self._observe(owner, body, pods, spec, desired),
            self._memory.get(owner.uid, ScaleMemory()),
            context.now,
        )
        self._memory[owner.uid] = plan.memory
        return await context.carry_out(subject, body, plan)

    def _observe(
        self, owner: Owner, body: Json, pods: list[PodView], spec: RolloutFleetSpec, desired: FleetDesired
    ) -> FleetObserved:
        context = self._context
        roles = [Role.GATEWAY, Role.ENGINE, *(expectation(group.name) for group in spec.worker_groups)]
        return FleetObserved(
            generation=body["metadata"].get("generation", 0),
            status=read_status(RolloutFleetStatus, context.status.current(body)),
            pods=pods,
            children=context.world.children_of(owner.namespace, owner.uid),
            expected=context.effects.expected(owner, roles),
            gateway=self._reading(owner.uid),
            blocked=context.neighbours.blocked(desired.engines.values()),
        )

    def _reading(self, uid: str) -> Reading[FleetReading]:
        seen = self._context.scraper.get(uid, Role.GATEWAY)
        if seen is None or not isinstance(seen.value, GatewayStatus):
            return Reading(error=seen.error if seen else "")
        age = seen.age(self._context.clock.now())
        return Reading(read_gateway(seen.value) if age < STALE_SECONDS else None, age, seen.error)


def build(owner: Owner, spec: RolloutFleetSpec, context: Context) -> FleetDesired:
    """Every object of a fleet."""
    return FleetDesired(
        children=(
            *build_tokens(owner, Role.ENGINE, Role.AGENT),
            build_service(owner, Role.GATEWAY),
            *fleet_policies(owner, context.network),
        ),
        gateway=fleet.build_gateway(owner, spec, context.images),
        engines=fleet.build_engines(owner, spec, context.images, partial(context.neighbours.engine, owner)),
        selector=fleet.engine_selector(owner.name),
        endpoint=owner.url(Role.GATEWAY, PORTS[Role.GATEWAY]),
    )


def read_gateway(status: GatewayStatus) -> FleetReading:
    """The gateway's report as plans see it."""
    engines = {
        engine.name: EngineStatusEntry(
            name=engine.name,
            phase=EnginePhase(engine.phase.value),
            weight_version=engine.weight_version,
            running=engine.running,
            waiting=engine.waiting,
            kv_use_percent=round(100 * engine.kv_use),
        )
        for engine in status.engines
    }
    versions = WeightVersions(
        min=status.min_version, max=status.max_version, target=status.target_version, run=status.run
    )
    usage = FleetUsage(
        engine_seconds=round(sum(engine.uptime_seconds for engine in status.engines)),
        busy_seconds=round(sum(engine.busy_seconds for engine in status.engines)),
        requests=status.requests,
        served_while_updating=status.served_while_updating,
    )
    return FleetReading(engines, versions, status.queued, status.update_error, usage)
