"""What a pass over an EnvironmentPool observes, builds and decides."""

from dataclasses import replace
from functools import partial
from typing import Any

from shoal.api.labels import PORTS, Role
from shoal.api.services.leases import DEFAULT_VARIANT, BrokerStatus
from shoal.api.tolerant import read_status
from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec, EnvironmentPoolStatus, PoolUsage
from shoal.builders import environment
from shoal.builders.carrying import carried_all
from shoal.builders.children import build_service, build_tokens
from shoal.builders.helpers import placed_helper
from shoal.builders.network import pool_policies
from shoal.builders.owner import Owner
from shoal.controllers.context import Context
from shoal.controllers.scaffold import KindController, Pass
from shoal.controllers.world import REFLECTED, SCALED
from shoal.engine.keys import ObjectKey
from shoal.engine.store import Store
from shoal.kube.resources import ENVIRONMENT_POOLS
from shoal.planner.actions import Plan
from shoal.planner.pool import (
    MemberSlots,
    PoolDesired,
    PoolObserved,
    PoolReading,
    created_members,
    expectation,
    plan_pool,
)
from shoal.planner.sizing import Refill, ScaleMemory

Json = dict[str, Any]


class PoolController(KindController[EnvironmentPoolSpec, PoolDesired, PoolObserved]):
    """Reconciles EnvironmentPools."""

    resource = ENVIRONMENT_POOLS
    spec = EnvironmentPoolSpec
    role = Role.BROKER
    message = BrokerStatus

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._memory: dict[str, dict[str, ScaleMemory]] = {}
        self._refills: dict[str, Refill] = {}

    @property
    def store(self) -> Store[Json]:
        """The cache of pools."""
        return self._context.world.pools

    def owner(self, key: ObjectKey, uid: str) -> Owner:
        """Return the identity of a pool."""
        return environment.pool_owner(key.name, key.namespace, uid)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a pool that is gone."""
        self._memory.pop(uid, None)
        self._refills.pop(uid, None)

    async def observe(self, at: Pass[EnvironmentPoolSpec]) -> PoolObserved:
        """Return what the caches and the broker say."""
        context, owner = self._context, at.owner
        variants = [variant.name for variant in at.spec.variants] or [DEFAULT_VARIANT]
        roles = [Role.BROKER, Role.ENVIRONMENT, *(expectation(variant) for variant in variants)]
        return PoolObserved(
            generation=at.generation,
            status=read_status(EnvironmentPoolStatus, context.status.current(at.body)),
            pods=at.pods,
            reflected=at.body.get(REFLECTED),
            scaled=at.body[SCALED],
            children=context.world.children_of(owner.namespace, owner.uid),
            expected=context.effects.expected(owner, roles),
            broker=self.read(owner.uid, BrokerStatus, read_broker),
        )

    def build(self, at: Pass[EnvironmentPoolSpec], observed: PoolObserved) -> PoolDesired:
        """Return every object of the pool."""
        owner, spec, context = at.owner, at.spec, self._context
        member = partial(context.neighbours.member, owner, spec)
        built = environment.build_members(owner, spec, context.images, member)
        members, configs = carried_all(owner, Role.ENVIRONMENT, built)
        return PoolDesired(
            children=(
                *build_tokens(owner, Role.ENVIRONMENT, Role.AGENT),
                build_service(owner, Role.BROKER),
                *pool_policies(owner, spec.isolation, context.network),
                *configs,
            ),
            broker=placed_helper(environment.build_broker(owner, spec, context.images), Role.BROKER, [spec.template]),
            members=members,
            selector=environment.member_selector(owner.name),
            endpoint=owner.url(Role.BROKER, PORTS[Role.BROKER]),
        )

    def plan(self, at: Pass[EnvironmentPoolSpec], desired: PoolDesired, observed: PoolObserved) -> Plan:
        """Decide within what the refill rate allows now, and remember sizes and allowance."""
        uid, now = at.owner.uid, self._context.now
        refill = Refill.at_rate(self._refills.get(uid), at.spec.scale.refill_rate, now)
        blocked = self._context.neighbours.blocked(desired.members.values())
        observed = replace(observed, allowance=int(refill.left), blocked=blocked)
        plan = plan_pool(at.spec, desired, observed, self._memory.get(uid, {}), now)
        self._memory[uid] = plan.memory
        self._refills[uid] = refill.less(created_members(plan))
        return plan


def read_broker(status: BrokerStatus) -> PoolReading:
    """The broker's report as plans see it; requests for any variant are counted with the first one."""
    members = {
        member.name: MemberSlots(member.slots.leased, member.slots.free, member.slots.quarantined, member.slots.total)
        for member in status.members
        if not member.lost
    }
    queued = {name: variant.queued for name, variant in status.variants.items()}
    if status.queued_any and queued:
        first = next(iter(queued))
        queued[first] += status.queued_any
    elif status.queued_any:
        queued = {"default": status.queued_any}
    usage = PoolUsage(
        slot_seconds=round(status.slot_seconds),
        occupied_seconds=round(status.occupied_seconds),
        active_seconds=round(status.active_seconds),
    )
    return PoolReading(members, queued, status.wait_p50, status.wait_p99, usage, status.findings)
