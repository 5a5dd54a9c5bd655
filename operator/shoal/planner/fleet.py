"""RolloutFleet: how many engines, which to create, which to drain, and what to tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shoal.api.labels import SPEC_HASH, Role
from shoal.api.services.common import Finding
from shoal.api.v1alpha1.common import resolve_count
from shoal.api.v1alpha1.rolloutfleet import (
    EngineStatusEntry,
    FleetUsage,
    RolloutFleetSpec,
    RolloutFleetStatus,
    WeightVersions,
    WorkerGroup,
)
from shoal.planner import conditions, health, sizing
from shoal.planner.actions import Action, CreatePod, DeletePod, DrainEngine, Manifest, Plan
from shoal.planner.children import Present, changed_children
from shoal.planner.conditions import Verdict
from shoal.planner.holders import Blocked, idle_maker
from shoal.planner.observed import Expected, PodView, Reading, Refused
from shoal.planner.podset import Limits, plan_podset
from shoal.planner.policies import policies_applied
from shoal.planner.pool import SETTLE_SECONDS, WARNINGS
from shoal.planner.refusals import standing
from shoal.planner.scale import reflection, scaling_limited
from shoal.planner.singleton import plan_singleton
from shoal.planner.times import soonest


@dataclass(frozen=True)
class FleetReading:
    """What the gateway reports."""

    engines: Mapping[str, EngineStatusEntry] = field(default_factory=dict)
    versions: WeightVersions = field(default_factory=WeightVersions)
    queued: int = 0
    findings: Sequence[Finding] = ()
    usage: FleetUsage = field(default_factory=FleetUsage)


@dataclass(frozen=True)
class FleetObserved:
    """Everything a pass over one fleet sees.

    Args:
        blocked: why engines over several nodes can be neither counted nor made now; those that are there stay.
    """

    generation: int
    status: RolloutFleetStatus
    pods: Sequence[PodView]
    children: Present
    expected: Expected
    gateway: Reading[FleetReading]
    blocked: Blocked | None = None
    reflected: int | None = None
    """The size that the operator wrote into `spec.replicas`."""


@dataclass(frozen=True)
class FleetDesired:
    """The objects that builders made for this fleet.

    Args:
        children: Services and Secrets, applied when their hash differs.
        gateway: the gateway's pod.
        engines: worker group name -> engine, a pod or a LeaderWorkerSet.
        selector: label selector of the engines, for the scale subresource.
        endpoint: URL of the gateway.
    """

    children: Sequence[Manifest]
    gateway: Manifest
    engines: Mapping[str, Manifest]
    selector: str
    endpoint: str


def plan_fleet(
    spec: RolloutFleetSpec, desired: FleetDesired, observed: FleetObserved, memory: sizing.ScaleMemory, now: float
) -> Plan:
    """One pass over a fleet.

    Args:
        spec: what the user asks for.
        desired: the built objects.
        observed: the cache's view and the gateway's report.
        memory: size and autoscale timers; losing them (a restart) only delays a change of size.
        now: seconds since the epoch.
    """
    actions: list[Action] = list(changed_children(desired.children, observed.children))
    gateways = [pod for pod in observed.pods if pod.role == Role.GATEWAY]
    # A suspended fleet keeps its gateway until the last engine is gone: engines are drained through it.
    serves = not spec.suspend or any(pod.role == Role.ENGINE for pod in observed.pods)
    actions += plan_singleton(Role.GATEWAY, gateways, desired.gateway, observed.expected, wanted=serves, now=now)
    counts, memory = _counts(spec, observed, memory, now)
    partial = False
    for group in spec.worker_groups:
        if not spec.suspend and _blocked(desired, observed, group.name) is not None:
            continue
        engine = desired.engines[group.name]
        group_actions, held = _plan_group(spec, group, counts[group.name], engine, observed, now)
        actions += group_actions
        partial |= held
    named = {group.name for group in spec.worker_groups}
    gone = [pod for pod in observed.pods if pod.role == Role.ENGINE and pod.group not in named and not pod.deleting]
    actions += [DrainEngine(pod.name, pod.uid, "WorkerGroupRemoved", pod.holder) for pod in gone]
    idle, idle_wake = idle_maker(observed.pods, now)
    blocked = next((why for group in desired.engines if (why := _blocked(desired, observed, group))), None)
    refused = standing(actions, observed.expected)
    status = _status(spec, desired, observed, counts, now, blocked or idle, refused)
    actions += conditions.transitions(observed.status.conditions, status.conditions, WARNINGS)
    actions += reflection(spec.replicas, observed.reflected, status.desired_replicas, status.replicas)
    # What blocks a fleet ends with an event; until then nothing can be done about its size.
    moving = partial or bool(gone) or (status.replicas != status.desired_replicas and blocked is None)
    moving |= memory.waiting
    _, policies_wake = policies_applied(desired.children, observed.children, observed.status.conditions, now)
    wait = soonest(SETTLE_SECONDS if moving else idle_wake, health.next_look(observed.pods, now), policies_wake)
    return Plan(tuple(actions), status.to_json(), wait, memory)


def expectation(group: str) -> str:
    """The expectation that a worker group's creations are counted under."""
    return f"{Role.ENGINE}/{group}"


def _counts(
    spec: RolloutFleetSpec, observed: FleetObserved, memory: sizing.ScaleMemory, now: float
) -> tuple[dict[str, int], sizing.ScaleMemory]:
    names = [group.name for group in spec.worker_groups]
    if spec.suspend:
        return dict.fromkeys(names, 0), sizing.ScaleMemory()
    low = sum(group.replicas.min for group in spec.worker_groups)
    high = sum(group.replicas.max for group in spec.worker_groups)
    if spec.replicas is not None:
        return dict(
            zip(names, sizing.engines_per_group(spec.worker_groups, spec.replicas), strict=True)
        ), sizing.ScaleMemory()
    held = _held(observed, memory)
    load = _load(observed.gateway, held)
    total, memory = sizing.settle_engines(held, low, high, load, spec.autoscale, memory, now)
    return dict(zip(names, sizing.engines_per_group(spec.worker_groups, total), strict=True)), memory


def _held(observed: FleetObserved, memory: sizing.ScaleMemory) -> int:
    """The size that was decided last: by this process, else as the status tells; what is there if none ever was."""
    if memory.size is not None:
        return memory.size
    if observed.status.observed_generation > 0:
        return observed.status.desired_replicas
    return sum(pod.role == Role.ENGINE and not pod.deleting and not pod.finished for pod in observed.pods)


def _load(gateway: Reading[FleetReading], size: int) -> sizing.FleetLoad | None:
    """What the fleet has to do; None where that cannot be known: a gateway that lists no engine may have just begun."""
    if gateway.value is None or (size > 0 and not gateway.value.engines):
        return None
    engines = list(gateway.value.engines.values())
    use = sum(engine.kv_use_percent for engine in engines) / max(1, len(engines))
    return sizing.FleetLoad(gateway.value.queued, use, sum(engine.running for engine in engines))


def _plan_group(
    spec: RolloutFleetSpec, group: WorkerGroup, count: int, manifest: Manifest, observed: FleetObserved, now: float
) -> tuple[list[Action], bool]:
    plan = plan_podset(
        [pod for pod in observed.pods if pod.role == Role.ENGINE and pod.group == group.name],
        count,
        manifest["metadata"]["annotations"][SPEC_HASH],
        limits=Limits(surge=0, unavailable=max(1, resolve_count(spec.weights.max_unavailable, count, round_up=False))),
        now=now,
        creating=observed.expected.creating(expectation(group.name)),
        deletions=observed.expected.deletions,
        busy=lambda pod: _running(observed.gateway, pod),
    )
    actions: list[Action] = []
    for removal in plan.remove:
        pod = removal.pod
        # Where the fleet is to rest and no gateway answers, no request can come and nobody could drain.
        if removal.gracious and (_answers(observed) or not spec.suspend):
            actions.append(DrainEngine(pod.name, pod.uid, removal.reason, pod.holder))
        else:
            actions.append(DeletePod(expectation(group.name), pod.name, pod.uid, removal.reason, pod.holder))
    actions += [CreatePod(expectation(group.name), manifest)] * plan.create
    return actions, plan.partial


def _answers(observed: FleetObserved) -> bool:
    """Whether the gateway answers, or has not been asked yet by an operator that has just started."""
    asked = any(pod.role == Role.GATEWAY and pod.ip for pod in observed.pods) and not observed.gateway.error
    return observed.gateway.value is not None or asked


def _blocked(desired: FleetDesired, observed: FleetObserved, group: str) -> Blocked | None:
    return observed.blocked if desired.engines[group]["kind"] != "Pod" else None


def _running(gateway: Reading[FleetReading], pod: PodView) -> int:
    entry = gateway.value.engines.get(pod.name) if gateway.value else None
    return entry.running + entry.waiting if entry else 0


def _status(
    spec: RolloutFleetSpec,
    desired: FleetDesired,
    observed: FleetObserved,
    counts: Mapping[str, int],
    now: float,
    blocked: Blocked | None,
    refused: Refused | None,
) -> RolloutFleetStatus:
    engines = [pod for pod in observed.pods if pod.role == Role.ENGINE and not pod.deleting]
    hashes = {manifest["metadata"]["annotations"][SPEC_HASH] for manifest in desired.engines.values()}
    reading = observed.gateway.value or FleetReading()
    status = RolloutFleetStatus(
        observed_generation=observed.generation,
        replicas=len(engines),
        ready_replicas=sum(1 for pod in engines if pod.ready),
        updated_replicas=sum(1 for pod in engines if pod.spec_hash in hashes),
        desired_replicas=sum(counts.values()),
        selector=desired.selector,
        engines=sorted((_entry(pod, reading) for pod in engines), key=lambda entry: entry.name),
        weight_version=reading.versions,
        queued=reading.queued,
        endpoint=desired.endpoint,
        usage=_usage(reading.usage, observed.status.usage),
    )
    policies, _ = policies_applied(desired.children, observed.children, observed.status.conditions, now)
    verdicts = [*_verdicts(spec, observed, status, blocked, refused, now), *policies, *_limited(spec, observed)]
    return status.model_copy(
        update={"conditions": conditions.merge(observed.status.conditions, verdicts, observed.generation, now)}
    )


def _limited(spec: RolloutFleetSpec, observed: FleetObserved) -> list[Verdict]:
    most = sum(group.replicas.max for group in spec.worker_groups)
    return scaling_limited(spec.replicas, most, "the sum of workerGroups[].replicas.max", observed.status.conditions)


def _usage(read: FleetUsage, told: FleetUsage) -> FleetUsage:
    """What was told stays while no request runs, or the clock alone would have the status written again and again."""
    return told if read.busy_seconds in (0, told.busy_seconds) else read


def _entry(pod: PodView, reading: FleetReading) -> EngineStatusEntry:
    return reading.engines.get(pod.name) or EngineStatusEntry(name=pod.name)


def _verdicts(
    spec: RolloutFleetSpec,
    observed: FleetObserved,
    status: RolloutFleetStatus,
    blocked: Blocked | None,
    refused: Refused | None,
    now: float,
) -> list[Verdict]:
    serving = [entry for entry in status.engines if entry.phase in ("Ready", "Updating")]
    if spec.suspend:
        available = Verdict("Available", False, "Suspended", "spec.suspend is true")
    elif observed.gateway.value is None:
        available = Verdict(
            "Available", False, "GatewayNotReady", observed.gateway.error or "the gateway has not answered yet"
        )
    elif not serving and blocked is not None:
        available = Verdict("Available", False, blocked.reason, blocked.message)
    elif not serving and status.desired_replicas > 0:
        available = Verdict("Available", False, "NoEngineReady", f"0 of {status.desired_replicas} engines serve")
    else:
        available = Verdict("Available", True, "Serving", f"{len(serving)} of {status.desired_replicas} engines serve")
    moving = status.ready_replicas != status.desired_replicas or status.updated_replicas != status.replicas
    moving |= status.replicas != status.desired_replicas
    message = f"{status.ready_replicas} ready, {status.updated_replicas} current, {status.desired_replicas} desired"
    progressing = Verdict("Progressing", moving, "Changing" if moving else "Settled", message)
    silent = health.unreachable(observed.pods, Role.GATEWAY, observed.gateway, now)
    told = observed.gateway.value.findings if observed.gateway.value is not None else ()
    degraded = health.degraded(
        observed.pods,
        now=now,
        blocked=blocked,
        refused=refused,
        findings=[silent] if silent is not None and not spec.suspend else told,
        waiting="" if available.status or spec.suspend else available.message,
    )
    return [available, progressing, degraded]
