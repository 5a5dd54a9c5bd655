"""Plans for pools: life of a pool from nothing to gone, told by small tables."""

from dataclasses import replace
from typing import Any

import pytest

from shoal.api.labels import SPEC_HASH, Role
from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec, EnvironmentPoolStatus
from shoal.planner.actions import Apply, CreateOnce, CreatePod, DeletePod, Event, Plan, RetireMember
from shoal.planner.holders import Blocked
from shoal.planner.observed import Expected, Holder, PodView, Reading, Trouble
from shoal.planner.pool import (
    LARGEST_BATCH,
    MemberSlots,
    PoolDesired,
    PoolObserved,
    PoolReading,
    created_members,
    expectation,
    plan_pool,
)
from shoal.planner.sizing import ScaleMemory

NOW = 1_700_000_000.0
MEMBER = expectation("default")


def manifest(kind: str, name: str, digest: str | None) -> dict[str, Any]:
    annotations = {} if digest is None else {SPEC_HASH: digest}
    return {"kind": kind, "metadata": {"name": name, "annotations": annotations}}


DESIRED = PoolDesired(
    children=(manifest("Secret", "p-token", None), manifest("Service", "p-broker", "s1")),
    broker=manifest("Pod", "p-broker", "b1"),
    members={"default": manifest("Pod", "p-environment-", "m1")},
    selector="role=environment",
    endpoint="http://p-broker:8001",
)
CHILDREN = {("Secret", "p-token"): "", ("Service", "p-broker"): "s1"}


def spec(**fields: Any) -> EnvironmentPoolSpec:
    return EnvironmentPoolSpec.model_validate(
        {"environment": {"protocol": "Gymnasium", "entrypoint": "FrozenLake-v1"}, **fields}
    )


def member(name: str, **fields: Any) -> PodView:
    values = {
        "role": Role.ENVIRONMENT,
        "spec_hash": "m1",
        "phase": "Running",
        "ready": True,
        "deleting": False,
        "group": "default",
    }
    return PodView(name=name, uid=name, created_at=NOW, **(values | fields))


def broker_pod(**fields: Any) -> PodView:
    return replace(member("p-broker", group=""), role=Role.BROKER, spec_hash="b1", **fields)


def observed(
    pods: list[PodView],
    reading: PoolReading | None = None,
    *,
    expected: Expected | None = None,
    children: dict[tuple[str, str], str] = CHILDREN,
) -> PoolObserved:
    return PoolObserved(1, EnvironmentPoolStatus(), pods, children, expected or Expected(), Reading(reading, 0.0))


def plan(spec_: EnvironmentPoolSpec, seen: PoolObserved, memory: dict[str, ScaleMemory] | None = None) -> Plan:
    return plan_pool(spec_, DESIRED, seen, memory or {}, NOW)


def of(plan_: Plan, kind: type) -> list[Any]:
    return [action for action in plan_.actions if isinstance(action, kind)]


def condition(plan_: Plan, type_: str) -> dict[str, Any]:
    (found,) = [each for each in plan_.status["conditions"] if each["type"] == type_]
    return dict(found)


def test_a_new_pool_gets_secret_service_broker_and_members() -> None:
    result = plan(spec(scale={"min": 2, "buffer": 1}), observed([], children={}))
    assert len(of(result, CreateOnce)) == 1
    assert [action.manifest["kind"] for action in of(result, Apply)] == ["Service"]
    assert [action.role for action in of(result, CreatePod)] == [Role.BROKER, MEMBER, MEMBER]
    assert condition(result, "Available")["reason"] == "BrokerNotReady"


def test_nothing_changes_when_nothing_has_to() -> None:
    reading = PoolReading({"a": MemberSlots(free=1, total=1)})
    result = plan(spec(replicas=1), observed([broker_pod(), member("a")], reading))
    assert [action for action in result.actions if not isinstance(action, Event)] == []
    assert result.requeue_after is None
    assert condition(result, "Available")["status"] == "True"
    assert condition(result, "Progressing")["status"] == "False"


def test_demand_grows_the_pool_and_pinned_replicas_do_not_follow_it() -> None:
    reading = PoolReading({"a": MemberSlots(leased=1, total=1)}, queued={"default": 4})
    pods = [broker_pod(), member("a")]
    assert len(of(plan(spec(scale={"max": 10, "buffer": 0}), observed(pods, reading)), CreatePod)) == 4
    assert of(plan(spec(replicas=1), observed(pods, reading)), CreatePod) == []


def test_without_the_brokers_word_a_pool_never_shrinks() -> None:
    pods = [broker_pod(), *(member(name) for name in "abc")]
    result = plan(spec(scale={"min": 0, "max": 5, "buffer": 0, "scaleDownDelay": "0s"}), observed(pods))
    assert of(result, RetireMember) == []


def test_shrinks_by_retiring_the_idle_after_the_delay() -> None:
    reading = PoolReading({"a": MemberSlots(leased=1, total=1), "b": MemberSlots(free=1, total=1)})
    pods = [broker_pod(), member("a"), member("b")]
    sized = spec(scale={"max": 5, "buffer": 0, "scaleDownDelay": "10s"})
    waiting = plan(sized, observed(pods, reading))
    assert of(waiting, RetireMember) == []
    assert waiting.requeue_after == pytest.approx(10.0)
    due = plan(sized, observed(pods, reading), {"default": ScaleMemory(smaller_since=NOW - 10)})
    assert [action.name for action in of(due, RetireMember)] == ["b"]


def test_suspend_lets_members_go_and_then_the_broker_that_retires_them() -> None:
    reading = PoolReading({"a": MemberSlots(leased=1, total=1)})
    result = plan(spec(suspend=True), observed([broker_pod(), member("a")], reading))
    assert of(result, DeletePod) == []
    assert [action.name for action in of(result, RetireMember)] == ["a"]
    last = plan(spec(suspend=True), observed([broker_pod()], PoolReading()))
    assert [action.name for action in of(last, DeletePod)] == ["p-broker"]
    assert condition(result, "Available")["reason"] == "Suspended"


def test_crash_is_told_with_the_pods_own_words() -> None:
    broken = member(
        "a", ready=False, trouble=Trouble("CrashLoopBackOff", "environment.entrypoint: no module named nope")
    )
    result = plan(spec(replicas=1), observed([broker_pod(), broken]))
    degraded = condition(result, "Degraded")
    assert degraded["reason"] == "EnvironmentFailed"
    assert "no module named nope" in degraded["message"]
    assert "Warning" in [event.type for event in of(result, Event)]


@pytest.mark.parametrize("trouble", [None, Trouble("CrashLoopBackOff", "back-off 10s")])
def test_a_wrong_configuration_is_told_also_between_two_crashes(trouble: Trouble | None) -> None:
    cause = "environment: environment.entrypoint: module 'm' has no 'Nope'"
    wrong = member("m-1", ready=False, incurable=cause, trouble=trouble)
    degraded = condition(plan(spec(), observed([broker_pod(), wrong])), "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "Misconfigured")
    assert cause in degraded["message"]


def test_members_in_quarantine_are_replaced() -> None:
    reading = PoolReading({"a": MemberSlots(quarantined=2, total=2), "b": MemberSlots(free=2, total=2)})
    result = plan(spec(replicas=2, slotsPerMember=2), observed([broker_pod(), member("a"), member("b")], reading))
    assert len(of(result, CreatePod)) == 1


def test_members_older_than_their_age_are_replaced_and_the_next_is_looked_for() -> None:
    old = member("a")
    old = replace(old, created_at=NOW - 3600)
    result = plan(
        spec(replicas=2, lifecycle={"maxAge": "30m"}), observed([broker_pod(), old, member("b")], PoolReading())
    )
    assert len(of(result, CreatePod)) == 1
    assert result.requeue_after is not None


def test_members_of_a_removed_variant_are_retired() -> None:
    stray = member("x", group="gone")
    result = plan(spec(replicas=0), observed([broker_pod(), stray], PoolReading()))
    assert [(action.name, action.reason) for action in of(result, RetireMember)] == [("x", "VariantRemoved")]


def test_a_creation_in_flight_is_not_repeated() -> None:
    result = plan(
        spec(replicas=3), observed([broker_pod()], PoolReading(), expected=Expected({MEMBER: 3, Role.BROKER: 0}))
    )
    assert of(result, CreatePod) == []


SANDBOXED = replace(DESIRED, members={"default": {**manifest("Sandbox", "p-environment-", "m2")}})
MISSING = Blocked("BackendMissing", "agent-sandbox is not installed")


def sandbox(name: str, **fields: Any) -> PodView:
    return replace(member(name, spec_hash="m2", **fields), holder=Holder("Sandbox", name))


def test_a_missing_backend_changes_no_member_and_is_told() -> None:
    seen = replace(observed([broker_pod(), member("a")], PoolReading()), blocked=MISSING)
    result = plan_pool(spec(replicas=3), SANDBOXED, seen, {}, NOW)
    assert [each for each in result.actions if isinstance(each, CreatePod | DeletePod | RetireMember)] == []
    assert (condition(result, "Degraded")["status"], condition(result, "Degraded")["reason"]) == (
        "True",
        "BackendMissing",
    )
    assert result.requeue_after is None, "the backend's arrival is an event"
    assert condition(result, "Available")["status"] == "True", "the member of the old backend still serves"
    empty = plan_pool(spec(replicas=3), SANDBOXED, replace(seen, pods=[broker_pod()]), {}, NOW)
    assert (condition(empty, "Available")["status"], condition(empty, "Available")["reason"]) == (
        "False",
        "BackendMissing",
    )


def test_a_missing_backend_keeps_no_pool_from_resting() -> None:
    seen = replace(observed([broker_pod(), member("a")], PoolReading()), blocked=MISSING)
    result = plan_pool(spec(replicas=3, suspend=True), SANDBOXED, seen, {}, NOW)
    assert [action.name for action in of(result, RetireMember)] == ["a"]


def test_sandboxes_are_retired_and_deleted_as_sandboxes() -> None:
    pods = [broker_pod(), sandbox("a"), sandbox("b", ready=False), sandbox("c", phase="Succeeded", ready=False)]
    reading = PoolReading({"a": MemberSlots(free=1, total=1)})
    result = plan_pool(spec(replicas=0), SANDBOXED, observed(pods, reading), {}, NOW)
    assert [(action.name, action.holder) for action in of(result, RetireMember)] == [("a", Holder("Sandbox", "a"))]
    assert {action.holder for action in of(result, DeletePod)} == {Holder("Sandbox", "b"), Holder("Sandbox", "c")}


def test_members_of_another_backend_are_replaced_within_the_surge() -> None:
    pods = [broker_pod(), member("a"), member("b")]
    reading = PoolReading({name: MemberSlots(free=1, total=1) for name in ("a", "b")})
    result = plan_pool(spec(replicas=2), SANDBOXED, observed(pods, reading), {}, NOW)
    (creation,) = of(result, CreatePod)
    assert creation.manifest["kind"] == "Sandbox"
    assert of(result, RetireMember) == []
    grown = plan_pool(spec(replicas=2), SANDBOXED, observed([*pods, sandbox("c")], reading), {}, NOW)
    assert [action.holder for action in of(grown, RetireMember)] == [None], "a pod goes once a Sandbox serves"


def test_a_controller_that_makes_no_pods_is_asked_after() -> None:
    waiting = replace(sandbox("a", ready=False, phase="Pending"), made=False)
    soon = plan_pool(spec(replicas=1), SANDBOXED, observed([broker_pod(), waiting], PoolReading()), {}, NOW + 10)
    assert condition(soon, "Degraded")["status"] == "False"
    assert soon.requeue_after == 50
    late = plan_pool(spec(replicas=1), SANDBOXED, observed([broker_pod(), waiting], PoolReading()), {}, NOW + 61)
    assert condition(late, "Degraded")["reason"] == condition(late, "Available")["reason"] == "BackendIdle"


def test_no_more_members_are_created_than_the_rate_leaves() -> None:
    seen = replace(observed([broker_pod()], PoolReading()), allowance=3)
    limited = plan(spec(replicas=10), seen)
    assert created_members(limited) == 3
    assert limited.requeue_after == 1.0
    assert created_members(plan(spec(replicas=10), replace(seen, allowance=0))) == 0
    assert created_members(plan(spec(replicas=10), replace(seen, allowance=None))) == 10


def test_variants_share_the_rate() -> None:
    manifests = {name: manifest("Pod", "p-environment-", "m1") for name in "ab"}
    seen = replace(observed([broker_pod()], PoolReading()), allowance=5)
    wanted = spec(replicas=8, variants=[{"name": "a"}, {"name": "b"}])
    assert created_members(plan_pool(wanted, replace(DESIRED, members=manifests), seen, {}, NOW)) == 5


def test_a_large_pool_is_created_in_batches() -> None:
    wanted = spec(replicas=5000, scale={"refillRate": 100_000, "maxPending": 100_000})
    assert created_members(plan(wanted, observed([broker_pod()], PoolReading()))) == LARGEST_BATCH


def test_an_autoscaler_is_held_to_the_bound_and_a_manifest_may_pin_above_it() -> None:
    wanted = spec(replicas=5, scale={"max": 3})
    seen = observed([broker_pod()], PoolReading())
    assert created_members(plan(wanted, seen)) == 5
    scaled = plan(wanted, replace(seen, scaled=True))
    assert created_members(scaled) == 3
    assert [each["reason"] for each in scaled.status["conditions"] if each["type"] == "ScalingLimited"] == [
        "TooManyReplicas"
    ]
