"""EnvironmentPool: how many members, which to create, which to retire, and what to tell."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from shoal.api.labels import SPEC_HASH, Role
from shoal.api.services.common import Finding
from shoal.api.v1alpha1.common import seconds
from shoal.api.v1alpha1.environmentpool import (
    EnvironmentPoolSpec,
    EnvironmentPoolStatus,
    LeaseLatency,
    PoolUsage,
    SlotCounts,
    VariantStatus,
)
from shoal.planner import conditions, health, sizing
from shoal.planner.actions import Action, CreatePod, DeletePod, Manifest, Plan, RetireMember
from shoal.planner.children import Present, changed_children
from shoal.planner.conditions import Verdict
from shoal.planner.holders import Blocked, idle_maker
from shoal.planner.observed import Expected, PodView, Reading, Refused
from shoal.planner.podset import Limits, PodSetPlan, plan_podset, surge_of
from shoal.planner.policies import policies_applied
from shoal.planner.refusals import standing
from shoal.planner.scale import SCALING_LIMITED, reflection, scaling_limited
from shoal.planner.singleton import plan_singleton
from shoal.planner.times import soonest

SETTLE_SECONDS = 1.0
"""Look again this soon while a pass was partial or pods are changing; a lost event must not stall a fill."""

WARNINGS = frozenset({"Degraded", SCALING_LIMITED})
"""Condition types whose truth is bad news."""

LARGEST_BATCH = 1000
"""Members created in one pass; a pool that is shrunk or suspended while it fills must not wait for thousands more."""


@dataclass(frozen=True)
class MemberSlots:
    """One member's slots, as the broker reports them."""

    leased: int = 0
    free: int = 0
    quarantined: int = 0
    total: int = 0


@dataclass(frozen=True)
class PoolReading:
    """What the broker reports. Latencies in seconds."""

    members: Mapping[str, MemberSlots] = field(default_factory=dict)
    queued: Mapping[str, int] = field(default_factory=dict)
    p50: float = 0.0
    p99: float = 0.0
    usage: PoolUsage = field(default_factory=PoolUsage)
    findings: Sequence[Finding] = ()


@dataclass(frozen=True)
class PoolObserved:
    """Everything a pass over one pool sees.

    Args:
        blocked: why members of the wanted backend can be neither counted nor made now; those that are there stay.
    """

    generation: int
    status: EnvironmentPoolStatus
    pods: Sequence[PodView]
    children: Present
    expected: Expected
    broker: Reading[PoolReading]
    blocked: Blocked | None = None
    reflected: int | None = None
    """The size that the operator wrote into `spec.replicas`."""
    scaled: bool = False
    """Whether `spec.replicas` came by the scale subresource. An autoscaler is held to `scale.max`; a manifest, whose
    author sees both, may pin above it."""
    allowance: int | None = None
    """Members that may be created now; None for as many as `refillRate` allows in a second."""


@dataclass(frozen=True)
class PoolDesired:
    """The objects that builders made for this pool.

    Args:
        children: Services and Secrets, applied when their hash differs.
        broker: the broker's pod.
        members: variant name -> member, a pod or a Sandbox; the pool without variants has the one variant
            `default`.
        selector: label selector of the members, for the scale subresource.
        endpoint: URL of the broker.
    """

    children: Sequence[Manifest]
    broker: Manifest
    members: Mapping[str, Manifest]
    selector: str
    endpoint: str


def plan_pool(
    spec: EnvironmentPoolSpec,
    desired: PoolDesired,
    observed: PoolObserved,
    memory: dict[str, sizing.ScaleMemory],
    now: float,
) -> Plan:
    """One pass over a pool.

    Args:
        spec: what the user asks for.
        desired: the built objects.
        observed: the cache's view and the broker's report.
        memory: sizes and scale-down timers by variant; losing them (a restart) only delays shrinking.
        now: seconds since the epoch.
    """
    actions: list[Action] = list(changed_children(desired.children, observed.children))
    broker_pods = [pod for pod in observed.pods if pod.role == Role.BROKER]
    # A suspended pool keeps its broker until the last member is gone: members are retired through it.
    serves = not spec.suspend or any(pod.role == Role.ENVIRONMENT for pod in observed.pods)
    actions += plan_singleton(Role.BROKER, broker_pods, desired.broker, observed.expected, wanted=serves, now=now)
    counts, memory, wake = _counts(spec, list(desired.members), observed, memory, now)
    changes, partial = _change_members(spec, desired, observed, counts, now)
    actions += changes
    gone = [
        pod
        for pod in observed.pods
        if pod.role == Role.ENVIRONMENT and pod.group not in desired.members and not pod.deleting
    ]
    actions += [RetireMember(pod.name, pod.uid, "VariantRemoved", pod.holder) for pod in gone]
    idle, idle_wake = idle_maker(observed.pods, now)
    refused = standing(actions, observed.expected)
    status = _status(spec, desired, observed, counts, now, observed.blocked or idle, refused)
    actions += conditions.transitions(observed.status.conditions, status.conditions, WARNINGS)
    actions += reflection(spec.replicas, observed.reflected, status.desired_replicas, status.replicas)
    # What blocks a pool ends with an event; until then nothing can be done about its size.
    moving = partial or gone or (status.replicas != status.desired_replicas and observed.blocked is None)
    wait = soonest(SETTLE_SECONDS if moving else wake, _next_age(spec, observed.pods, now), idle_wake)
    _, policies_wake = policies_applied(desired.children, observed.children, observed.status.conditions, now)
    wait = soonest(wait, health.next_look(observed.pods, now), policies_wake)
    return Plan(tuple(actions), status.to_json(), wait, memory)


def _change_members(
    spec: EnvironmentPoolSpec, desired: PoolDesired, observed: PoolObserved, counts: Mapping[str, int], now: float
) -> tuple[list[Action], bool]:
    """Creations and removals of all variants, and whether limits held something back."""
    if observed.blocked is not None and not spec.suspend:
        return [], False
    # Where the pool is to rest and no broker answers, nobody can lease and nobody could retire.
    asked = any(pod.role == Role.BROKER and pod.ip for pod in observed.pods) and not observed.broker.error
    answers = observed.broker.value is not None or asked or not spec.suspend
    actions: list[Action] = []
    partial = False
    left = min(LARGEST_BATCH, spec.scale.refill_rate if observed.allowance is None else observed.allowance)
    most = dict(zip(desired.members, _most(spec, observed, list(desired.members)), strict=True))
    for variant, manifest in desired.members.items():
        pods = _members_of(observed.pods, variant)
        limits = _limits(spec, counts[variant], most[variant], left)
        plan = _plan_members(spec, pods, counts[variant], manifest, variant, observed, limits, now)
        left -= plan.create
        actions += _member_actions(plan, manifest, variant, answers=answers)
        partial |= plan.partial
    return actions, partial


def expectation(variant: str) -> str:
    """The expectation that a variant's creations are counted under."""
    return f"{Role.ENVIRONMENT}/{variant}"


def created_members(plan: Plan) -> int:
    """How many members the plan creates."""
    return sum(1 for action in plan.actions if isinstance(action, CreatePod) and action.role != Role.BROKER)


def _members_of(pods: Sequence[PodView], variant: str) -> list[PodView]:
    return [pod for pod in pods if pod.role == Role.ENVIRONMENT and pod.group == variant]


def _counts(
    spec: EnvironmentPoolSpec,
    variants: list[str],
    observed: PoolObserved,
    memory: dict[str, sizing.ScaleMemory],
    now: float,
) -> tuple[dict[str, int], dict[str, sizing.ScaleMemory], float | None]:
    """Members per variant, timers, and when the next timer fires."""
    if spec.suspend:
        return dict.fromkeys(variants, 0), {}, None
    weights = _weights(spec, variants)
    if spec.replicas is not None:
        size = min(spec.replicas, _bound(spec, observed))
        return dict(zip(variants, sizing.split_by_weight(size, weights), strict=True)), {}, None
    floors = sizing.split_by_weight(spec.scale.min, weights)
    ceilings = sizing.split_by_weight(spec.scale.max, weights)
    counts, kept, wake = {}, {}, None
    for variant, low, high in zip(variants, floors, ceilings, strict=True):
        scale = spec.scale.model_copy(update={"min": low, "max": max(low, high)})
        pods = [pod for pod in _members_of(observed.pods, variant) if not pod.deleting and not pod.finished]
        known = memory.get(variant, sizing.ScaleMemory())
        there = len(pods) + observed.expected.creating(expectation(variant))
        held = _told(observed.status, variant, there) if known.size is None else known.size
        # Where demand fell while members were still missing, what is there is held, and no more made.
        current = max(low, min(max(low, high), held, there))
        wanted = sizing.demanded_members(_demand(observed.broker, variant, pods), scale, spec.slots_per_member)
        if observed.broker.value is None:
            # Without the broker's report nobody knows what is leased: never shrink blindly.
            wanted = max(wanted, min(scale.max, held))
        counts[variant], kept[variant], wait = sizing.settle_members(wanted, current, scale, known, now)
        wake = soonest(wake, wait)
    return counts, kept, wake


def _told(status: EnvironmentPoolStatus, variant: str, there: int) -> int:
    """The size that was told last, of the variant or of a pool that has no others; what is there if none ever was."""
    if status.observed_generation == 0:
        return there
    return next((each.desired for each in status.variants if each.name == variant), status.desired_replicas)


def _weights(spec: EnvironmentPoolSpec, variants: list[str]) -> list[int]:
    by_name = {variant.name: variant.weight for variant in spec.variants}
    return [by_name.get(variant, 1) for variant in variants]


def _demand(broker: Reading[PoolReading], variant: str, pods: Sequence[PodView]) -> sizing.Demand:
    if broker.value is None:
        return sizing.Demand()
    leased = sum(broker.value.members[pod.name].leased for pod in pods if pod.name in broker.value.members)
    return sizing.Demand(leased, broker.value.queued.get(variant, 0))


def _plan_members(
    spec: EnvironmentPoolSpec,
    pods: list[PodView],
    count: int,
    manifest: Manifest,
    variant: str,
    observed: PoolObserved,
    limits: Limits,
    now: float,
) -> PodSetPlan:
    return plan_podset(
        pods,
        count,
        manifest["metadata"]["annotations"][SPEC_HASH],
        limits=limits,
        now=now,
        creating=observed.expected.creating(expectation(variant)),
        deletions=observed.expected.deletions,
        busy=lambda pod: _slots(observed.broker, pod).leased,
        replace=_replacement_reason(spec, observed.broker, now),
    )


def _bound(spec: EnvironmentPoolSpec, observed: PoolObserved) -> int:
    return spec.scale.max if observed.scaled else max(spec.scale.max, spec.replicas or 0)


def _most(spec: EnvironmentPoolSpec, observed: PoolObserved, variants: list[str]) -> list[int]:
    """Members per variant that are never exceeded, not by surge either."""
    return sizing.split_by_weight(_bound(spec, observed), _weights(spec, variants))


def _limits(spec: EnvironmentPoolSpec, count: int, most: int, allowance: int) -> Limits:
    """Replacement by surge where there is room for it; in a full pool a member goes before its successor comes."""
    surge = min(surge_of(count), max(0, most - count))
    unavailable = 0 if surge else 1
    return Limits(surge, unavailable, max_pending=spec.scale.max_pending, max_creates=allowance)


def _slots(broker: Reading[PoolReading], pod: PodView) -> MemberSlots:
    return MemberSlots() if broker.value is None else broker.value.members.get(pod.name, MemberSlots())


def _replacement_reason(
    spec: EnvironmentPoolSpec, broker: Reading[PoolReading], now: float
) -> Callable[[PodView], str]:
    """Why a member of the current template is replaced all the same: its age, or all its slots in quarantine."""

    def reason(pod: PodView) -> str:
        if spec.lifecycle.max_age is not None and now - pod.created_at > seconds(spec.lifecycle.max_age):
            return "MaxAge"
        slots = _slots(broker, pod)
        return "Quarantined" if slots.total > 0 and slots.quarantined == slots.total else ""

    return reason


def _next_age(spec: EnvironmentPoolSpec, pods: Sequence[PodView], now: float) -> float | None:
    """Seconds until the next member reaches its greatest age."""
    if spec.lifecycle.max_age is None:
        return None
    limit = seconds(spec.lifecycle.max_age)
    waits = [pod.created_at + limit - now for pod in pods if pod.role == Role.ENVIRONMENT and not pod.deleting]
    return max(SETTLE_SECONDS, min(waits)) if waits else None


def _member_actions(plan: PodSetPlan, manifest: Manifest, variant: str, *, answers: bool) -> list[Action]:
    actions: list[Action] = []
    for removal in plan.remove:
        pod = removal.pod
        if removal.gracious and answers:
            actions.append(RetireMember(pod.name, pod.uid, removal.reason, pod.holder))
        else:
            actions.append(DeletePod(expectation(variant), pod.name, pod.uid, removal.reason, pod.holder))
    actions += [CreatePod(expectation(variant), manifest)] * plan.create
    return actions


def _status(
    spec: EnvironmentPoolSpec,
    desired: PoolDesired,
    observed: PoolObserved,
    counts: Mapping[str, int],
    now: float,
    blocked: Blocked | None,
    refused: Refused | None,
) -> EnvironmentPoolStatus:
    variants = [_variant_status(spec, observed, name, counts[name]) for name in desired.members]
    members = [pod for pod in observed.pods if pod.role == Role.ENVIRONMENT and not pod.deleting]
    hashes = {manifest["metadata"]["annotations"][SPEC_HASH] for manifest in desired.members.values()}
    reading = observed.broker.value or PoolReading()
    status = EnvironmentPoolStatus(
        observed_generation=observed.generation,
        replicas=len(members),
        ready_replicas=sum(1 for pod in members if pod.ready),
        updated_replicas=sum(1 for pod in members if pod.spec_hash in hashes),
        desired_replicas=sum(counts.values()),
        selector=desired.selector,
        slots=_add([variant.slots for variant in variants]),
        queued=sum(reading.queued.values()),
        variants=variants if spec.variants else [],
        endpoint=desired.endpoint,
        latency=LeaseLatency(p50=f"{reading.p50:.3f}", p99=f"{reading.p99:.3f}"),
        usage=_usage(reading.usage, observed.status.usage),
    )
    policies, _ = policies_applied(desired.children, observed.children, observed.status.conditions, now)
    verdicts = [*_verdicts(spec, observed, status, blocked, refused, now), *policies, *_limited(spec, observed)]
    return status.model_copy(
        update={"conditions": conditions.merge(observed.status.conditions, verdicts, observed.generation, now)}
    )


def _limited(spec: EnvironmentPoolSpec, observed: PoolObserved) -> list[Verdict]:
    return scaling_limited(spec.replicas, _bound(spec, observed), "spec.scale.max", observed.status.conditions)


def _usage(read: PoolUsage, told: PoolUsage) -> PoolUsage:
    """What was told stays while no episode runs, or the clock alone would have the status written again and again."""
    return told if read.occupied_seconds in (0, told.occupied_seconds) else read


def _variant_status(spec: EnvironmentPoolSpec, observed: PoolObserved, name: str, count: int) -> VariantStatus:
    pods = [pod for pod in _members_of(observed.pods, name) if not pod.deleting]
    slots = [_slots(observed.broker, pod) for pod in pods]
    known = sum(slot.total for slot in slots)
    return VariantStatus(
        name=name,
        desired=count,
        members=len(pods),
        ready=sum(1 for pod in pods if pod.ready),
        slots=SlotCounts(
            total=known,
            leased=sum(slot.leased for slot in slots),
            free=sum(slot.free for slot in slots),
            provisioning=max(0, count * spec.slots_per_member - known),
            quarantined=sum(slot.quarantined for slot in slots),
        ),
    )


def _add(counts: Sequence[SlotCounts]) -> SlotCounts:
    return SlotCounts(**{field: sum(getattr(count, field) for count in counts) for field in SlotCounts.model_fields})


def _verdicts(
    spec: EnvironmentPoolSpec,
    observed: PoolObserved,
    status: EnvironmentPoolStatus,
    blocked: Blocked | None,
    refused: Refused | None,
    now: float,
) -> list[Verdict]:
    if spec.suspend:
        available = Verdict("Available", False, "Suspended", "spec.suspend is true")
    elif observed.broker.value is None:
        available = Verdict(
            "Available", False, "BrokerNotReady", observed.broker.error or "the broker has not answered yet"
        )
    elif status.ready_replicas == 0 and blocked is not None:
        available = Verdict("Available", False, blocked.reason, blocked.message)
    elif status.ready_replicas == 0 and status.desired_replicas > 0:
        available = Verdict("Available", False, "NoMemberReady", f"0 of {status.desired_replicas} members are ready")
    else:
        available = Verdict(
            "Available", True, "Serving", f"{status.ready_replicas} of {status.desired_replicas} members are ready"
        )
    moving = status.replicas != status.desired_replicas or status.updated_replicas != status.replicas
    moving |= status.ready_replicas != status.replicas
    message = f"{status.ready_replicas} ready, {status.updated_replicas} current, {status.desired_replicas} desired"
    progressing = Verdict("Progressing", moving, "Changing" if moving else "Settled", message)
    silent = health.unreachable(observed.pods, Role.BROKER, observed.broker, now)
    told = observed.broker.value.findings if observed.broker.value is not None else ()
    return [
        available,
        progressing,
        health.degraded(
            observed.pods,
            now=now,
            blocked=blocked,
            refused=refused,
            findings=[silent] if silent is not None and not spec.suspend else told,
            waiting="" if available.status or spec.suspend else available.message,
        ),
    ]
