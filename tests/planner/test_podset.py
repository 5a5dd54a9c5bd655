"""The arithmetic of pod sets: tables for the rules, and a simulated cluster for the invariants."""

from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.planner.observed import LOST_SECONDS, Holder, PodView
from shoal.planner.podset import Limits, Removal, plan_podset, surge_of


def pod(
    name: str, *, hash_: str = "new", ready: bool = True, phase: str = "Running", created: float = 0.0, **more: object
) -> PodView:
    values = {"uid": name, "role": "environment", "deleting": False} | more
    return PodView(name=name, spec_hash=hash_, phase=phase, ready=ready, created_at=created, **values)  # type: ignore[arg-type]


def names(removals: tuple[Removal, ...]) -> list[str]:
    return [removal.pod.name for removal in removals]


def test_fills_an_empty_set_within_one_pass_limit() -> None:
    plan = plan_podset([], 100, "new", now=0.0, limits=Limits(max_creates=64))
    assert (plan.create, plan.remove, plan.partial) == (64, (), True)


def test_counts_creations_that_the_cache_does_not_show() -> None:
    assert plan_podset([pod("a")], 3, "new", now=0.0, limits=Limits(), creating=2).create == 0


def test_bounds_pods_that_are_starting() -> None:
    starting = [pod(str(index), ready=False, phase="Pending") for index in range(3)]
    assert plan_podset(starting, 10, "new", now=0.0, limits=Limits(max_pending=4)).create == 1


def test_removes_the_idle_before_the_busy_and_the_newest_first() -> None:
    pods = [pod("old", created=1), pod("busy", created=3), pod("new", created=2)]
    plan = plan_podset(pods, 1, "new", now=0.0, limits=Limits(), busy=lambda each: 5 if each.name == "busy" else 0)
    assert names(plan.remove) == ["new", "old"]


def test_does_not_serve_means_first_to_go_and_without_grace() -> None:
    pods = [pod("serving"), pod("starting", ready=False, phase="Pending")]
    (removal,) = plan_podset(pods, 1, "new", now=0.0, limits=Limits()).remove
    assert removal.pod.name == "starting"
    assert not removal.gracious


def test_a_pod_that_is_being_deleted_holds_its_place() -> None:
    pods = [pod("a"), pod("leaving", deleting=True)]
    assert plan_podset(pods, 2, "new", now=0.0, limits=Limits()).create == 0


def test_a_lost_or_disrupted_pod_holds_no_place() -> None:
    lost = pod("lost", deleting=True, grace_until=100.0)
    assert plan_podset([pod("a"), lost], 2, "new", now=100.0, limits=Limits()).create == 0
    assert plan_podset([pod("a"), lost], 2, "new", now=100.0 + LOST_SECONDS, limits=Limits()).create == 1
    evicted = pod("evicted", deleting=True, grace_until=100.0, disrupted="EvictionByEvictionAPI")
    assert plan_podset([pod("a"), evicted], 2, "new", now=0.0, limits=Limits()).create == 1


def test_a_holder_whose_pod_is_lost_is_replaced() -> None:
    """A Sandbox is not being deleted itself; its controller waits for a pod that no node ends."""
    stuck = pod("s", ready=False, grace_until=100.0, holder=Holder("Sandbox", "s"))
    assert plan_podset([stuck], 1, "new", now=100.0, limits=Limits()).remove == ()
    (removal,) = plan_podset([stuck], 1, "new", now=100.0 + LOST_SECONDS, limits=Limits()).remove
    assert (removal.reason, removal.gracious) == ("Lost", False)


def test_a_deletion_asked_for_is_not_asked_again() -> None:
    pods = [pod("a"), pod("b")]
    plan = plan_podset(pods, 1, "new", now=0.0, limits=Limits(), deletions=frozenset({"b"}))
    assert plan.remove == ()


def test_finished_pods_are_cleared_and_replaced_only_once_gone() -> None:
    plan = plan_podset([pod("done", phase="Succeeded", ready=False)], 1, "new", now=0.0, limits=Limits())
    assert names(plan.remove) == ["done"]
    assert plan.create == 0


def test_template_change_surges_first_and_keeps_all_serving() -> None:
    old = [pod(name, hash_="old") for name in "abcd"]
    plan = plan_podset(old, 4, "new", now=0.0, limits=Limits(surge=1, unavailable=0))
    assert (plan.create, plan.remove) == (1, ())
    plan = plan_podset([*old, pod("fresh")], 4, "new", now=0.0, limits=Limits(surge=1, unavailable=0))
    assert len(plan.remove) == 1
    assert plan.remove[0].reason == "TemplateChanged"


def test_template_change_without_surge_takes_one_at_a_time() -> None:
    old = [pod(name, hash_="old") for name in "ab"]
    plan = plan_podset(old, 2, "new", now=0.0, limits=Limits(surge=0, unavailable=1))
    assert (plan.create, len(plan.remove)) == (0, 1)


def test_outdated_pods_that_do_not_serve_go_at_once() -> None:
    crashing = [pod("a", hash_="old", ready=False), pod("b", hash_="old", ready=False)]
    assert len(plan_podset(crashing, 2, "new", now=0.0, limits=Limits(surge=1, unavailable=0)).remove) == 2


def test_gated_pods_are_held() -> None:
    assert plan_podset([pod("a", ready=False, gated=True)], 1, "new", now=0.0, limits=Limits()).remove == ()


@given(
    held=st.lists(st.booleans(), min_size=1, max_size=20),
    desired=st.integers(0, 20),
    creating=st.integers(0, 5),
    surge=st.integers(0, 5),
)
def test_held_pods_are_neither_replaced_nor_renewed(held: list[bool], desired: int, creating: int, surge: int) -> None:
    """Whatever its age: a gated or unschedulable pod of the current template goes only when there are too many."""
    pods = [
        pod(str(index), ready=False, phase="Pending", gated=gated, unschedulable="" if gated else "no node")
        for index, gated in enumerate(held)
    ]
    limits = Limits(surge=surge, unavailable=1)
    plan = plan_podset(pods, desired, "new", now=0.0, limits=limits, creating=creating, replace=lambda _: "MaxAge")
    assert {removal.reason for removal in plan.remove} <= {"ScaleDown"}
    assert len(plan.remove) == max(0, len(pods) + creating - desired) or len(plan.remove) == len(pods)
    assert plan.create <= max(0, desired - len(pods) - creating)


@dataclass
class FakeCluster:
    """Pods with a lagging cache: creations and deletions show only some rounds later."""

    random: Random
    pods: list[PodView] = field(default_factory=list)
    unseen: list[PodView] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)
    made: int = 0

    @property
    def alive(self) -> int:
        return len(self.pods) + len(self.unseen)

    def settled(self, desired: int, hash_: str) -> bool:
        """Whether everything is as it shall be, and shown: nothing can change any more."""
        current = all(each.ready and each.spec_hash == hash_ for each in self.pods)
        return current and len(self.pods) == desired and not self.unseen

    def create(self, count: int, hash_: str) -> None:
        for _ in range(count):
            self.made += 1
            self.unseen.append(
                pod(f"p{self.made}", hash_=hash_, ready=False, phase="Pending", created=float(self.made))
            )

    def tick(self) -> None:
        shown = [each for each in self.unseen if self.random.random() < 0.5]
        self.unseen = [each for each in self.unseen if each not in shown]
        self.pods = [each for each in self.pods if not (each.uid in self.deleted and self.random.random() < 0.5)]
        self.pods = [
            replace(each, ready=True, phase="Running") if self.random.random() < 0.5 else each
            for each in self.pods + shown
        ]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    steps=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["v1", "v2", "v3"])), min_size=1, max_size=5),
    rolling=st.booleans(),
)
def test_converges_and_never_exceeds_its_bound(seed: int, steps: list[tuple[int, str]], rolling: bool) -> None:
    cluster = FakeCluster(Random(seed))
    ceiling = 0
    for desired, hash_ in steps:
        surge = surge_of(desired) if rolling else 0
        limits = Limits(surge=surge, unavailable=0 if rolling else 1, max_creates=8, max_removals=8)
        ceiling = max(cluster.alive, desired + surge)
        for _ in range(400):
            plan = plan_podset(
                cluster.pods,
                desired,
                hash_,
                now=0.0,
                limits=limits,
                creating=len(cluster.unseen),
                deletions=frozenset(cluster.deleted),
            )
            assert plan.create >= 0
            cluster.create(plan.create, hash_)
            cluster.deleted |= {removal.pod.uid for removal in plan.remove}
            assert cluster.alive <= ceiling
            if not plan.create and not plan.remove and cluster.settled(desired, hash_):
                break
            cluster.tick()
        assert len(cluster.pods) == desired
        assert all(each.ready and each.spec_hash == hash_ for each in cluster.pods)


@pytest.mark.parametrize(("desired", "surge"), [(0, 1), (1, 1), (4, 1), (5, 2), (100, 25)])
def test_surge_is_a_quarter(desired: int, surge: int) -> None:
    assert surge_of(desired) == surge
