"""Allocators, samplers and turn budgets: formulas by hand, and the invariants that each must keep."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.services.common import StrategyConfig
from shoal.api.services.trajectories import Assignment, EpisodeKind
from shoal_workers.agent.budget import BUDGETS, FixedBudget, LongestSuccessBudget, PercentileBudget
from shoal_workers.data.difficulty import TaskRecord
from shoal_workers.data.manager import DataManager
from shoal_workers.data.rules.allocators import (
    ALLOCATORS,
    Allocation,
    Ar3poAllocator,
    DartAllocator,
    E3Allocator,
    UniformAllocator,
)
from shoal_workers.data.rules.samplers import SAMPLERS, Draw, SequentialSampler, UniformSampler, VadeSampler
from shoal_workers.service import ConfigurationError
from tests.data.play import claim, config, record

RECORDS = st.builds(
    TaskRecord,
    id=st.just("t"),
    successes=st.floats(0, 60),
    failures=st.floats(0, 60),
    recent=st.text("01", max_size=20),
    lengths=st.lists(st.integers(1, 40), max_size=10).map(tuple),
)


def rated(rate: float | None) -> TaskRecord:
    return (
        TaskRecord("t")
        if rate is None
        else TaskRecord("t", recent="1" * round(rate * 20) + "0" * round(20 - rate * 20))
    )


@pytest.mark.parametrize("name", ALLOCATORS.names())
@given(task=RECORDS, open_tasks=st.lists(RECORDS, max_size=6), group_size=st.integers(2, 64), data=st.data())
def test_allocators_keep_their_invariants(
    name: str, task: TaskRecord, open_tasks: list[TaskRecord], group_size: int, data: st.DataObject
) -> None:
    allocator = ALLOCATORS.create(name, {})
    size = allocator.size(Allocation(task, open_tasks, group_size))
    assert size >= 2
    assert size <= max(group_size, 16)
    shuffled = data.draw(st.permutations(open_tasks))
    assert allocator.size(Allocation(task, shuffled, group_size)) == size
    more = allocator.more(group_size, size, data.draw(st.integers(0, size)))
    assert more == 0 or size + more <= group_size


def test_dart_as_published() -> None:
    sizes = [DartAllocator().size(Allocation(rated(s), [], 8)) for s in (None, 0.0, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0)]
    assert sizes == [8, 8, 8, 8, 5, 4, 3, 2]


def test_e3_by_hand() -> None:
    # Four tasks at 0.0, 0.5, 0.5, 1.0: ranks 4, 2.5, 2.5, 1 of 10; each has 2, and 4 * (8 - 2) = 24 are shared.
    rates = [0.0, 0.5, 0.5, 1.0]
    sizes = [
        E3Allocator().size(Allocation(rated(rate), [rated(each) for each in rates[:i] + rates[i + 1 :]], 8))
        for i, rate in enumerate(rates)
    ]
    assert sizes == [12, 8, 8, 4]
    assert sum(sizes) == 4 * 8


@given(rates=st.lists(st.floats(0, 1), min_size=1, max_size=8), group_size=st.integers(2, 16))
def test_e3_spends_the_budget(rates: list[float], group_size: int) -> None:
    tasks = [rated(rate) for rate in rates]
    sizes = [
        E3Allocator(most=1000).size(Allocation(task, tasks[:i] + tasks[i + 1 :], group_size))
        for i, task in enumerate(tasks)
    ]
    assert abs(sum(sizes) - group_size * len(tasks)) <= len(tasks) / 2


def test_strategies_reduce_to_the_baseline_where_all_tasks_are_alike() -> None:
    alike = Allocation(rated(0.5), [rated(0.5)] * 3, 8)
    assert {each.size(alike) for each in (UniformAllocator(), DartAllocator(), E3Allocator())} == {8}
    assert Ar3poAllocator(stage=8).size(alike) == 8


def test_ar3po_stops_at_the_first_stage_with_a_success() -> None:
    allocator = Ar3poAllocator(stage=3)
    assert allocator.size(Allocation(rated(None), [], 8)) == 3
    assert [allocator.more(8, episodes, 0) for episodes in (3, 6, 8)] == [3, 2, 0]
    assert allocator.more(8, 3, 1) == 0


@given(seed=st.integers(0, 99), p=st.floats(0.02, 0.98))
def test_ar3po_needs_fewer_rollouts_for_a_success_than_whole_groups(seed: int, p: float) -> None:
    source, allocator = random.Random(seed), Ar3poAllocator(stage=4)
    outcomes = [source.random() < p for _ in range(16)]
    used = allocator.size(Allocation(rated(None), [], 16))
    while more := allocator.more(16, used, sum(outcomes[:used])):
        used += more
    assert used <= 16
    assert any(outcomes[:used]) == any(outcomes)


@pytest.mark.parametrize("name", SAMPLERS.names())
@given(size=st.integers(1, 40), seed=st.integers(0, 1000), records=st.lists(RECORDS, min_size=40, max_size=40))
def test_samplers_keep_their_invariants(name: str, size: int, seed: int, records: list[TaskRecord]) -> None:
    sampler = SAMPLERS.create(name, {})
    draws = [Draw(drawn, size, seed, records.__getitem__) for drawn in range(8)]
    indices = [sampler.next(draw) for draw in draws]
    assert indices == [sampler.next(draw) for draw in draws]
    assert set(indices) <= set(range(size))


def test_sequential_visits_in_order_and_uniform_visits_all_alike() -> None:
    nothing = TaskRecord("t")
    order = [SequentialSampler().next(Draw(drawn, 3, 0, lambda index: nothing)) for drawn in range(6)]
    assert order == [0, 1, 2, 0, 1, 2]
    counts = [0] * 10
    for drawn in range(5000):
        counts[UniformSampler().next(Draw(drawn, 10, 7, lambda index: nothing))] += 1
    assert min(counts) > 400
    assert max(counts) < 600


def test_vade_with_one_candidate_is_uniform() -> None:
    draws = [Draw(drawn, 10, 7, lambda index: TaskRecord("t")) for drawn in range(50)]
    assert [VadeSampler(candidates=1).next(draw) for draw in draws] == [UniformSampler().next(draw) for draw in draws]


def flat_share(sampler: Any, seed: int) -> float:
    """Share of groups of 8 with equal rewards over 600 draws from 200 tasks, which the sampler learns about."""
    source = random.Random(seed)
    chances = [source.betavariate(0.3, 0.3) for _ in range(200)]
    records = [TaskRecord(str(index)) for index in range(200)]
    flat = 0
    for drawn in range(600):
        index = sampler.next(Draw(drawn, 200, seed, records.__getitem__))
        outcomes = [source.random() < chances[index] for _ in range(8)]
        flat += len(set(outcomes)) == 1
        for outcome in outcomes:
            records[index] = records[index].after(outcome, 1, 0)
    return flat / 600


def test_vade_draws_fewer_groups_that_teach_nothing() -> None:
    """Its own claim, against the uniform baseline; five seeds."""
    pairs = [(flat_share(VadeSampler(), seed), flat_share(UniformSampler(), seed)) for seed in range(5)]
    assert all(vade < 0.8 * uniform for vade, uniform in pairs), pairs


def assignment(most: int, lengths: list[int], kind: EpisodeKind = EpisodeKind.TRAIN) -> Assignment:
    return Assignment(
        id="a", task_id="t", group_id="1", environment="e", max_turns=most, success_turns=lengths, kind=kind
    )


@pytest.mark.parametrize("name", BUDGETS.names())
@given(most=st.integers(1, 50), limit=st.integers(1, 50), lengths=st.lists(st.integers(1, 60)))
def test_budgets_keep_their_invariants(name: str, most: int, limit: int, lengths: list[int]) -> None:
    budget = BUDGETS.create(name, {})
    assert 1 <= budget.turns(assignment(most, lengths), limit) <= min(most, limit)
    assert budget.turns(assignment(most, []), limit) == min(most, limit)
    assert budget.turns(assignment(most, lengths, EpisodeKind.EVALUATE), limit) == min(most, limit)


def test_budgets_by_hand() -> None:
    lengths = [2, 3, 4, 10]
    assert FixedBudget().turns(assignment(20, lengths), 30) == 20
    assert PercentileBudget().turns(assignment(20, lengths), 30) == 4
    assert PercentileBudget(percentile=100).turns(assignment(20, lengths), 30) == 10
    assert PercentileBudget(fewest=5).turns(assignment(20, lengths), 30) == 20
    assert LongestSuccessBudget().turns(assignment(20, lengths), 30) == 12
    assert LongestSuccessBudget(slack=3).turns(assignment(20, lengths), 30) == 20


async def test_a_staged_group_grows_until_something_succeeds(tmp_path: Path) -> None:
    allocator = StrategyConfig(name="ar3po", parameters={"stage": 2})
    manager = DataManager(config(tmp_path, allocator=allocator, group_size=5, batch_groups=1, max_staleness=0))
    sizes = []
    for reward in (0.0, 0.0, 1.0):
        claimed = (await manager.claim(claim(9))).assignments
        sizes.append(len(claimed))
        assert len({each.group_id for each in claimed}) == 1
        states = [(await manager.record(record(each, reward))).state for each in claimed]
    assert sizes == [2, 2, 1]
    assert states == ["complete"]
    manager.close()


async def test_agents_hear_how_long_successes_were(tmp_path: Path) -> None:
    manager = DataManager(config(tmp_path, tasks={"inline": [{"id": "a"}]}, batch_groups=1, max_staleness=3))
    first, second = (await manager.claim(claim(2))).assignments
    await manager.record(record(first, 1.0))
    await manager.record(record(second, 0.0))
    assert (await manager.claim(claim())).assignments[0].success_turns == [1]
    manager.close()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sampler": {"name": "unifrom"}}, "data.sampler.name"),
        ({"allocator": {"name": "dart", "parameters": {"treshold": 1}}}, "data.allocator.parameters.treshold"),
        ({"allocator": {"name": "dart", "parameters": {"threshold": 2}}}, "data.allocator.parameters.threshold"),
        ({"allocator": {"name": "tests.data:Nothing"}}, "data.allocator.name"),
    ],
)
def test_a_strategy_that_does_not_exist_is_refused_at_the_start(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DataManager(config(tmp_path, **change))
    assert caught.value.field == field


class Biggest(UniformAllocator):
    """Somebody's own."""

    factor: int = 2

    def size(self, allocation: Allocation) -> int:
        return allocation.group_size * self.factor


async def test_a_strategy_of_ones_own_decides(tmp_path: Path) -> None:
    own = {"name": f"{__name__}:Biggest", "parameters": {"factor": 3}}
    manager = DataManager(config(tmp_path, allocator=own, batch_groups=1, max_staleness=0))
    assert len((await manager.claim(claim(20))).assignments) == 6
    manager.close()
