"""Plans for fleets."""

from dataclasses import replace
from typing import Any

from shoal.api.labels import SPEC_HASH, Role
from shoal.api.services.common import Finding
from shoal.api.v1alpha1.rolloutfleet import EngineStatusEntry, RolloutFleetSpec, RolloutFleetStatus, WeightVersions
from shoal.planner.actions import CreatePod, DeletePod, DrainEngine, Plan
from shoal.planner.fleet import FleetDesired, FleetObserved, FleetReading, expectation, plan_fleet
from shoal.planner.holders import Blocked
from shoal.planner.observed import Expected, PodView, Reading
from shoal.planner.sizing import ScaleMemory

NOW = 1_700_000_000.0


def manifest(name: str, digest: str) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"name": name, "annotations": {SPEC_HASH: digest}}}


DESIRED = FleetDesired(
    (), manifest("f-gateway", "g1"), {"gpu": manifest("f-engine-", "e1")}, "role=engine", "http://f-gateway:8002"
)


def spec(low: int = 2, high: int = 2, **fields: Any) -> RolloutFleetSpec:
    groups = [{"name": "gpu", "replicas": {"min": low, "max": high}}]
    return RolloutFleetSpec.model_validate({"model": {"source": "file:/m"}, "workerGroups": groups, **fields})


def engine(name: str, **fields: Any) -> PodView:
    values = {
        "role": Role.ENGINE,
        "spec_hash": "e1",
        "phase": "Running",
        "ready": True,
        "deleting": False,
        "group": "gpu",
    }
    return PodView(name=name, uid=name, created_at=NOW, **(values | fields))


GATEWAY = replace(engine("f-gateway"), role=Role.GATEWAY, spec_hash="g1", group="")


def reading(*names: str, running: int = 0, queued: int = 0, error: str = "") -> FleetReading:
    engines = {name: EngineStatusEntry(name=name, phase="Ready", weight_version=3, running=running) for name in names}
    findings = [Finding(reason="WeightUpdateFailed", message=error)] if error else []
    return FleetReading(engines, WeightVersions(min=3, max=3, target=3), queued, findings)


def plan(
    spec_: RolloutFleetSpec, pods: list[PodView], seen: FleetReading | None, memory: ScaleMemory | None = None
) -> Plan:
    observed = FleetObserved(1, RolloutFleetStatus(), pods, {}, Expected(), Reading(seen, 0.0))
    return plan_fleet(spec_, DESIRED, observed, memory or ScaleMemory(), NOW)


def of(plan_: Plan, kind: type) -> list[Any]:
    return [action for action in plan_.actions if isinstance(action, kind)]


def available(plan_: Plan) -> tuple[str, str]:
    (found,) = [each for each in plan_.status["conditions"] if each["type"] == "Available"]
    return found["status"], found["reason"]


def test_creates_gateway_and_engines() -> None:
    result = plan(spec(), [], None)
    assert [action.role for action in of(result, CreatePod)] == [Role.GATEWAY, expectation("gpu"), expectation("gpu")]
    assert available(result) == ("False", "GatewayNotReady")


def test_serves_once_an_engine_does() -> None:
    result = plan(spec(), [GATEWAY, engine("a"), engine("b")], reading("a", "b"))
    assert available(result) == ("True", "Serving")
    assert result.requeue_after is None
    assert result.status["weightVersion"] == {"min": 3, "max": 3, "target": 3, "run": ""}


def test_template_change_drains_one_engine_at_a_time() -> None:
    old = [engine("a", spec_hash="e0"), engine("b", spec_hash="e0")]
    result = plan(spec(), [GATEWAY, *old], reading("a", "b"))
    assert len(of(result, DrainEngine)) == 1
    assert of(result, CreatePod) == []


def test_pinned_replicas_win_over_load() -> None:
    assert len(of(plan(spec(1, 4, replicas=3), [GATEWAY, engine("a")], reading("a")), CreatePod)) == 2


def test_load_adds_engines_after_its_window() -> None:
    sized = spec(1, 3, autoscale={"targetQueue": 2, "scaleUpWindow": "10s"})
    busy = reading("a", queued=50)
    first = plan(sized, [GATEWAY, engine("a")], busy)
    assert of(first, CreatePod) == []
    later = plan(sized, [GATEWAY, engine("a")], busy, ScaleMemory(busier_since=NOW - 10))
    assert len(of(later, CreatePod)) == 2


def test_suspend_drains_the_serving_and_deletes_the_rest() -> None:
    pods = [GATEWAY, engine("a"), engine("b", ready=False, phase="Pending")]
    result = plan(spec(suspend=True), pods, reading("a"))
    assert [action.name for action in of(result, DrainEngine)] == ["a"]
    assert [action.name for action in of(result, DeletePod)] == ["b"]
    last = plan(spec(suspend=True), [GATEWAY], reading())
    assert [action.name for action in of(last, DeletePod)] == ["f-gateway"]


def test_a_failed_weight_update_is_told() -> None:
    result = plan(spec(), [GATEWAY, engine("a"), engine("b")], reading("a", "b", error="engine b: checksum differs"))
    (degraded,) = [each for each in result.status["conditions"] if each["type"] == "Degraded"]
    assert (degraded["reason"], degraded["message"]) == ("WeightUpdateFailed", "engine b: checksum differs")


def test_a_missing_backend_holds_its_groups_and_no_others() -> None:
    groups = [{"name": name, "nodes": nodes, "replicas": {"min": 1, "max": 1}} for name, nodes in (("a", 1), ("b", 2))]
    both = RolloutFleetSpec.model_validate({"model": {"source": "file:/m"}, "workerGroups": groups})
    engines = {"a": manifest("f-engine-", "e1"), "b": {**manifest("f-engine-", "e2"), "kind": "LeaderWorkerSet"}}
    missing = Blocked("BackendMissing", "lws is not installed")
    observed = FleetObserved(1, RolloutFleetStatus(), [GATEWAY], {}, Expected(), Reading(reading(), 0.0), missing)
    result = plan_fleet(both, replace(DESIRED, engines=engines), observed, ScaleMemory(), NOW)
    assert [action.role for action in of(result, CreatePod)] == [expectation("a")]
    assert available(result) == ("False", "BackendMissing")
    alone = plan_fleet(spec(1, 1), DESIRED, observed, ScaleMemory(), NOW)
    assert [action.role for action in of(alone, CreatePod)] == [expectation("gpu")], "nobody asked for several nodes"
    assert available(alone) == ("False", "NoEngineReady")
