"""What a pass over a RolloutFleet observes, builds and decides."""

from dataclasses import replace
from functools import partial
from typing import Any

from shoal.api.labels import PORTS, Role
from shoal.api.services.common import Finding
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
from shoal.builders.carrying import carried_all
from shoal.builders.children import build_service, build_tokens
from shoal.builders.helpers import placed_helper
from shoal.builders.network import fleet_policies
from shoal.builders.owner import Owner
from shoal.controllers.context import Context
from shoal.controllers.scaffold import KindController, Pass
from shoal.controllers.world import REFLECTED
from shoal.engine.keys import ObjectKey
from shoal.engine.store import Store
from shoal.kube.resources import ROLLOUT_FLEETS
from shoal.planner.actions import Plan
from shoal.planner.fleet import FleetDesired, FleetObserved, FleetReading, expectation, plan_fleet
from shoal.planner.sizing import ScaleMemory

Json = dict[str, Any]


class FleetController(KindController[RolloutFleetSpec, FleetDesired, FleetObserved]):
    """Reconciles RolloutFleets."""

    resource = ROLLOUT_FLEETS
    spec = RolloutFleetSpec
    role = Role.GATEWAY
    message = GatewayStatus

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._memory: dict[str, ScaleMemory] = {}

    @property
    def store(self) -> Store[Json]:
        """The cache of fleets."""
        return self._context.world.fleets

    def owner(self, key: ObjectKey, uid: str) -> Owner:
        """Return the identity of a fleet."""
        return fleet.fleet_owner(key.name, key.namespace, uid)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a fleet that is gone."""
        self._memory.pop(uid, None)

    async def observe(self, at: Pass[RolloutFleetSpec]) -> FleetObserved:
        """Return what the caches and the gateway say."""
        context, owner = self._context, at.owner
        roles = [Role.GATEWAY, Role.ENGINE, *(expectation(group.name) for group in at.spec.worker_groups)]
        return FleetObserved(
            generation=at.generation,
            status=read_status(RolloutFleetStatus, context.status.current(at.body)),
            pods=at.pods,
            reflected=at.body.get(REFLECTED),
            children=context.world.children_of(owner.namespace, owner.uid),
            expected=context.effects.expected(owner, roles),
            gateway=self.read(owner.uid, GatewayStatus, read_gateway),
        )

    def build(self, at: Pass[RolloutFleetSpec], observed: FleetObserved) -> FleetDesired:
        """Return every object of the fleet."""
        owner, spec, context = at.owner, at.spec, self._context
        engine = partial(context.neighbours.engine, owner)
        engines, configs = carried_all(owner, Role.ENGINE, fleet.build_engines(owner, spec, context.images, engine))
        return FleetDesired(
            children=(
                *build_tokens(owner, Role.ENGINE, Role.AGENT),
                build_service(owner, Role.GATEWAY),
                *fleet_policies(owner, context.network),
                *configs,
            ),
            gateway=placed_helper(
                fleet.build_gateway(owner, spec, context.images),
                Role.GATEWAY,
                [group.template for group in spec.worker_groups],
            ),
            engines=engines,
            selector=fleet.engine_selector(owner.name),
            endpoint=owner.url(Role.GATEWAY, PORTS[Role.GATEWAY]),
        )

    def plan(self, at: Pass[RolloutFleetSpec], desired: FleetDesired, observed: FleetObserved) -> Plan:
        """Decide, and remember the size."""
        uid = at.owner.uid
        observed = replace(observed, blocked=self._context.neighbours.blocked(desired.engines.values()))
        plan = plan_fleet(at.spec, desired, observed, self._memory.get(uid, ScaleMemory()), self._context.now)
        self._memory[uid] = plan.memory
        return plan


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
    failed = [Finding(reason="WeightUpdateFailed", message=status.update_error)] if status.update_error else []
    return FleetReading(engines, versions, status.queued, [*status.findings, *failed], usage)
