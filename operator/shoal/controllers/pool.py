"""EnvironmentPool: observe, plan, apply, report."""

from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import ValidationError

from shoal.api.labels import PORTS, Role
from shoal.api.services.leases import BrokerStatus
from shoal.api.tolerant import read_status
from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec, EnvironmentPoolStatus, PoolUsage
from shoal.builders import environment
from shoal.builders.children import build_service, build_tokens
from shoal.builders.network import pool_policies
from shoal.builders.owner import Owner
from shoal.controllers.context import Context, service_of, url_of
from shoal.controllers.effects import Subject
from shoal.engine.keys import ObjectKey
from shoal.engine.manager import Result
from shoal.engine.scrape import Target
from shoal.kube.resources import ENVIRONMENT_POOLS
from shoal.planner.observed import PodView, Reading
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

STALE_SECONDS = 15.0
"""A broker that has not answered for this long is told of as not ready; its last report no longer sizes the pool."""


class PoolController:
    """Reconciles EnvironmentPools."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._memory: dict[str, dict[str, ScaleMemory]] = {}
        self._refills: dict[str, Refill] = {}

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a pool that is gone."""
        self._memory.pop(uid, None)
        self._refills.pop(uid, None)

    async def reconcile(self, key: ObjectKey) -> Result:
        """One pass over the pool of this key; a pool that is gone needs none, its children are garbage collected."""
        context = self._context
        body = context.world.pools.get(key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            return Result()
        owner = environment.pool_owner(key.name, key.namespace, body["metadata"]["uid"])
        pods = context.world.workers_of(owner.namespace, owner.uid)
        tokens = context.world.taken_by(owner.namespace, owner.uid, owner.secret)
        broker = service_of(pods, Role.BROKER)
        subject = Subject(owner, ENVIRONMENT_POOLS, broker.ip if broker else "", tokens)
        try:
            spec = EnvironmentPoolSpec.model_validate(body["spec"])
        except ValidationError as error:
            await context.reject(subject, body, error)
            return Result()
        self._watch_broker(owner.uid, broker)
        desired = build(owner, spec, context)
        refill = Refill.at_rate(self._refills.get(owner.uid), spec.scale.refill_rate, context.now)
        observed = replace(self._observe(owner, body, pods, desired), allowance=int(refill.left))
        plan = plan_pool(spec, desired, observed, self._memory.get(owner.uid, {}), context.now)
        self._memory[owner.uid] = plan.memory
        self._refills[owner.uid] = refill.less(created_members(plan))
        return await context.carry_out(subject, body, plan)

    def _watch_broker(self, uid: str, broker: PodView | None) -> None:
        targets = {Role.BROKER: Target(url_of(broker), BrokerStatus)} if broker else {}
        self._context.scraper.set_targets(uid, targets)

    def _observe(self, owner: Owner, body: Json, pods: list[PodView], desired: PoolDesired) -> PoolObserved:
        context = self._context
        roles = [Role.BROKER, Role.ENVIRONMENT, *(expectation(variant) for variant in desired.members)]
        return PoolObserved(
            generation=body["metadata"].get("generation", 0),
            status=read_status(EnvironmentPoolStatus, context.status.current(body)),
            pods=pods,
            children=context.world.children_of(owner.namespace, owner.uid),
            expected=context.effects.expected(owner, roles),
            broker=self._reading(owner.uid),
            blocked=context.neighbours.blocked(desired.members.values()),
        )

    def _reading(self, uid: str) -> Reading[PoolReading]:
        seen = self._context.scraper.get(uid, Role.BROKER)
        if seen is None or not isinstance(seen.value, BrokerStatus):
            return Reading(error=seen.error if seen else "")
        age = seen.age(self._context.clock.now())
        return Reading(read_broker(seen.value) if age < STALE_SECONDS else None, age, seen.error)


def build(owner: Owner, spec: EnvironmentPoolSpec, context: Context) -> PoolDesired:
    """Every object of a pool."""
    return PoolDesired(
        children=(
            *build_tokens(owner, Role.ENVIRONMENT, Role.AGENT),
            build_service(owner, Role.BROKER),
            *pool_policies(owner, spec.isolation, context.network),
        ),
        broker=environment.build_broker(owner, spec, context.images),
        members=environment.build_members(owner, spec, context.images, partial(context.neighbours.member, owner, spec)),
        selector=environment.member_selector(owner.name),
        endpoint=owner.url(Role.BROKER, PORTS[Role.BROKER]),
    )


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
    return PoolReading(members, queued, status.wait_p50, status.wait_p99, usage)
