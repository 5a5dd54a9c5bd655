"""Sizes of pools and fleets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.v1alpha1.common import ReplicaRange, resolve_count, seconds
from shoal.api.v1alpha1.environmentpool import PoolScale
from shoal.api.v1alpha1.rolloutfleet import FleetAutoscale, WorkerGroup
from shoal.planner.sizing import (
    Demand,
    FleetLoad,
    Refill,
    ScaleMemory,
    demanded_members,
    engines_per_group,
    settle_engines,
    settle_members,
    split_by_weight,
    wanted_engines,
)


@pytest.mark.parametrize(
    ("leased", "queued", "buffer", "slots", "members"),
    [(0, 0, 0, 1, 0), (0, 0, 3, 1, 3), (5, 0, 1, 2, 3), (4, 4, "50%", 4, 3), (100, 0, 0, 1, 20), (0, 0, 0, 8, 0)],
)
def test_members_follow_leases_queue_and_buffer(
    leased: int, queued: int, buffer: int | str, slots: int, members: int
) -> None:
    scale = PoolScale(min=0, max=20, buffer=buffer)
    assert demanded_members(Demand(leased, queued), scale, slots) == members


def test_shrinks_only_after_its_delay_and_grows_at_once() -> None:
    scale = PoolScale(scale_down_delay="60s")
    held, memory, wake = settle_members(2, 5, scale, ScaleMemory(), now=1000.0)
    assert (held, wake) == (5, 60.0)
    held, memory, wake = settle_members(2, 5, scale, memory, now=1059.0)
    assert (held, wake) == (5, 1.0)
    assert settle_members(7, 5, scale, memory, now=1059.0)[0] == 7
    assert settle_members(2, 5, scale, memory, now=1060.0)[0] == 2


@given(total=st.integers(0, 10_000), weights=st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_shares_add_up_and_follow_weights(total: int, weights: list[int]) -> None:
    shares = split_by_weight(total, weights)
    assert sum(shares) == (total if sum(weights) else 0)
    for share, weight in zip(shares, weights, strict=True):
        assert sum(weights) == 0 or abs(share - total * weight / sum(weights)) < 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=6), st.integers(0, 60))
def test_engines_fill_groups_in_order_within_their_bounds(sizes: list[tuple[int, int]], total: int) -> None:
    groups = [
        WorkerGroup(name=f"g{index}", replicas=ReplicaRange(min=low, max=low + more))
        for index, (low, more) in enumerate(sizes)
    ]
    counts = engines_per_group(groups, total)
    most = sum(group.replicas.max for group in groups)
    assert sum(counts) == min(total, most)
    assert all(count <= group.replicas.max for count, group in zip(counts, groups, strict=True))


def test_engines_wait_for_a_whole_window_before_they_change() -> None:
    rule = FleetAutoscale(target_queue=4, scale_up_window="30s", scale_down_window="5m")
    busy, calm = FleetLoad(queued=100, kv_use_percent=50), FleetLoad(queued=0, kv_use_percent=0)
    size, memory = settle_engines(2, 1, 4, busy, rule, ScaleMemory(), now=10.0)
    assert size == 2
    size, memory = settle_engines(2, 1, 4, busy, rule, memory, now=40.0)
    assert size == 4
    size, memory = settle_engines(3, 1, 4, calm, rule, ScaleMemory(), now=100.0)
    size, memory = settle_engines(3, 1, 4, busy, rule, memory, now=399.0)
    size, _ = settle_engines(3, 1, 4, calm, rule, memory, now=401.0)
    assert size == 3


@pytest.mark.parametrize(
    ("current", "load", "wanted"),
    [
        pytest.param(0, FleetLoad(0, 0), 0, id="at rest"),
        pytest.param(0, FleetLoad(1, 0), 1, id="one request wakes it"),
        pytest.param(0, FleetLoad(9, 0), 3, id="with what it needs"),
        pytest.param(2, FleetLoad(8, 50), 2, id="the queue is at its target"),
        pytest.param(2, FleetLoad(9, 50), 3, id="the queue is above its target"),
        pytest.param(2, FleetLoad(4000, 50), 64, id="never above max"),
        pytest.param(4, FleetLoad(0, 90), 5, id="the caches are above their target"),
        pytest.param(4, FleetLoad(0, 80), 4, id="the caches are at their target"),
        pytest.param(4, FleetLoad(0, 32), 3, id="three would be at half"),
        pytest.param(4, FleetLoad(1, 1), 4, id="something waits"),
        pytest.param(4, FleetLoad(0, 0, running=1), 1, id="one runs"),
        pytest.param(4, FleetLoad(0, 0), 0, id="nothing to do"),
    ],
)
def test_engines_that_the_load_asks_for(current: int, load: FleetLoad, wanted: int) -> None:
    rule = FleetAutoscale(target_queue=4, target_kv_use_percent=80)
    assert wanted_engines(current, 0, 64, load, rule) == wanted


def test_a_fleet_grows_to_its_load_in_minutes_and_shrinks_by_halves() -> None:
    rule = FleetAutoscale(target_queue=4, scale_up_window="30s", scale_down_window="5m")
    size, memory, now, sizes = 0, ScaleMemory(), 1000.0, []
    while size < 64:
        size, memory = settle_engines(size, 0, 64, FleetLoad(1000 if size else 1, 0), rule, memory, now)
        sizes.append(size)
        now += 10.0
    assert sizes[0] == 1
    assert sorted(set(sizes)) == [1, 5, 10, 20, 40, 64]
    assert now <= 1000.0 + 240.0
    begin, seen = now, {size}
    while size:
        size, memory = settle_engines(size, 0, 64, FleetLoad(0, 0), rule, memory, now)
        seen.add(size)
        now += 10.0
    assert sorted(seen) == [0, 1, 2, 4, 8, 16, 32, 64]
    assert now - begin >= 7 * 300


def test_no_reading_never_scales_down() -> None:
    assert settle_engines(3, 1, 4, None, FleetAutoscale(), ScaleMemory(smaller_since=0.0), now=1e6)[0] == 3


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("1m30s", 90), ("250ms", 0.25), ("1.5h", 5400)])
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "5d"])
def test_refuses_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        seconds(text)


def test_percentages_round_as_asked() -> None:
    assert resolve_count("10%", 15) == 2
    assert resolve_count("10%", 15, round_up=False) == 1
    with pytest.raises(ValueError, match="percentage"):
        resolve_count("many", 10)


@given(
    rate=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 2000)), max_size=40),
)
def test_the_refill_rate_holds_over_any_time(rate: int, steps: list[tuple[float, int]]) -> None:
    now, passed, created, refill = 1000.0, 0.0, 0, None
    for later, wanted in steps:
        now += later  # the clock of the machine may be set back
        passed += max(0.0, later)
        refill = Refill.at_rate(refill, rate, now)
        made = min(wanted, int(refill.left))
        refill = refill.less(made)
        created += made
        assert 0 <= refill.left <= rate
    assert created <= rate * (1 + passed) + 1e-6


def test_a_second_brings_a_full_refill() -> None:
    empty = Refill.at_rate(None, 100, 5.0).less(100)
    assert Refill.at_rate(empty, 100, 5.5).left == 50
    assert Refill.at_rate(empty, 100, 60.0).left == 100
