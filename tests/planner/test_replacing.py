"""Replacement of every pod of a set whose size is decided by demand: the size stays what it was, pass after pass."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec, EnvironmentPoolStatus
from shoal.api.v1alpha1.rolloutfleet import RolloutFleetSpec, RolloutFleetStatus
from shoal.planner.actions import CreatePod, DeletePod, DrainEngine, RetireMember
from shoal.planner.fleet import FleetObserved, plan_fleet
from shoal.planner.observed import Expected, PodView, Reading
from shoal.planner.podset import surge_of
from shoal.planner.pool import MemberSlots, PoolObserved, PoolReading, plan_pool
from shoal.planner.sizing import ScaleMemory
from tests.planner import test_fleet, test_pool

PASSES = 60


class PoolWorld:
    """A pool whose members are all leased, one slot each, with as much demand as there was at its start."""

    def __init__(self, leased: int, spec: EnvironmentPoolSpec) -> None:
        self.spec = spec
        self.leased = leased
        self.numbers = count()
        self.members = [test_pool.member(f"old-{index}", spec_hash="m0") for index in range(leased)]
        self.status = EnvironmentPoolStatus(observed_generation=1, desired_replicas=leased)
        self.memory: dict[str, ScaleMemory] = {}
        self.now = test_pool.NOW
        self.most = leased

    def step(self, *, restart: bool, lost: bool) -> None:
        """One pass, a second later; new members are ready at the next one, and episodes without a slot wait for one."""
        self.now += 1
        self.memory = {} if restart else self.memory
        if lost and self.members:
            self.members.pop(0)
        slots = {each.name: MemberSlots(leased=1, total=1) for each in self.members[-self.leased :]}
        reading = PoolReading(slots, {"default": self.leased - len(slots)})
        pods: list[PodView] = [test_pool.broker_pod(), *self.members]
        observed = PoolObserved(1, self.status, pods, test_pool.CHILDREN, Expected(), Reading(reading, 0.0))
        plan = plan_pool(self.spec, test_pool.DESIRED, observed, self.memory, self.now)
        self.memory, self.status = plan.memory, EnvironmentPoolStatus.model_validate(plan.status)
        gone = {action.name for action in plan.actions if isinstance(action, RetireMember | DeletePod)}
        self.members = [each for each in self.members if each.name not in gone]
        self.members += [
            test_pool.member(f"new-{next(self.numbers)}") for action in plan.actions if isinstance(action, CreatePod)
        ]
        self.most = max(self.most, len(self.members))


events = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=10, max_size=10)


@given(leased=st.integers(1, 40), events=events)
def test_a_pool_that_follows_demand_keeps_its_size_while_it_is_replaced(
    leased: int, events: list[tuple[bool, bool]]
) -> None:
    spec = test_pool.spec(scale={"min": 0, "max": 200, "buffer": 0, "scaleDownDelay": "5m"})
    world = PoolWorld(leased, spec)
    for restart, lost in [*events, *[(False, False)] * PASSES]:
        world.step(restart=restart, lost=lost)
    assert world.most <= leased + surge_of(leased)
    assert len(world.members) == leased
    assert all(each.spec_hash == "m1" for each in world.members)


class FleetWorld:
    """A fleet that autoscaled to some engines, under a load that asks neither for more nor for fewer."""

    def __init__(self, engines: int, spec: RolloutFleetSpec) -> None:
        self.spec = spec
        self.numbers = count()
        self.engines = [test_fleet.engine(f"old-{index}", spec_hash="e0") for index in range(engines)]
        self.status = RolloutFleetStatus(observed_generation=1, desired_replicas=engines)
        self.memory = ScaleMemory()
        self.now = test_fleet.NOW
        self.least = engines

    def step(self, *, restart: bool, lost: bool) -> None:
        """One pass, a second later; new engines are ready at the next one."""
        self.now += 1
        self.memory = ScaleMemory() if restart else self.memory
        if lost and self.engines:
            self.engines.pop(0)
        self.least = min(self.least, len(self.engines))
        reading = test_fleet.reading(*(each.name for each in self.engines), running=1)
        busy = {name: entry.model_copy(update={"kv_use_percent": 75}) for name, entry in reading.engines.items()}
        observed = FleetObserved(
            1, self.status, [test_fleet.GATEWAY, *self.engines], {}, Expected(), Reading(replace(reading, engines=busy))
        )
        plan = plan_fleet(self.spec, test_fleet.DESIRED, observed, self.memory, self.now)
        self.memory, self.status = plan.memory, RolloutFleetStatus.model_validate(plan.status)
        gone = {action.name for action in plan.actions if isinstance(action, DrainEngine | DeletePod)}
        self.engines = [each for each in self.engines if each.name not in gone]
        self.engines += [
            test_fleet.engine(f"new-{next(self.numbers)}") for action in plan.actions if isinstance(action, CreatePod)
        ]


@given(engines=st.integers(1, 12), restarts=st.lists(st.booleans(), min_size=10, max_size=10))
def test_a_fleet_that_autoscales_keeps_its_engines_while_they_are_replaced(engines: int, restarts: list[bool]) -> None:
    world = FleetWorld(engines, test_fleet.spec(low=1, high=16))
    for restart in [*restarts, *[False] * PASSES]:
        world.step(restart=restart, lost=False)
    assert world.least >= engines - 1, "maxUnavailable is 1"
    assert len(world.engines) == engines
    assert all(each.spec_hash == "e1" for each in world.engines)


@given(engines=st.integers(1, 12), events=events)
def test_engines_that_were_lost_come_back(engines: int, events: list[tuple[bool, bool]]) -> None:
    world = FleetWorld(engines, test_fleet.spec(low=1, high=16))
    for restart, lost in [*events, *[(False, False)] * PASSES]:
        world.step(restart=restart, lost=lost)
    assert len(world.engines) == engines
