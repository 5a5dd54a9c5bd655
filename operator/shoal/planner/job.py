"""RLJob: which children exist in which phase of its life, when it is over, and what to tell."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from shoal.api.base import Condition
from shoal.api.labels import SPEC_HASH, Role
from shoal.api.services.common import Finding
from shoal.api.v1alpha1.jobstatus import (
    EvaluationStatus,
    JobPhase,
    RewardStatus,
    RLJobStatus,
    RoleAttempts,
    StalenessStatus,
    TrajectoryCounts,
)
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.planner import conditions, health
from shoal.planner.actions import Action, CreatePod, DeletePod, DeleteSelf, Manifest, Plan
from shoal.planner.admission import NO_QUEUE, QueueDecision
from shoal.planner.children import Present, changed_children
from shoal.planner.conditions import Verdict
from shoal.planner.observed import Expected, PodView, Reading, Refused
from shoal.planner.podset import Limits, plan_podset, surge_of
from shoal.planner.policies import policies_applied
from shoal.planner.pool import SETTLE_SECONDS
from shoal.planner.rayview import NO_CLUSTER, RayView
from shoal.planner.refusals import standing
from shoal.planner.singleton import plan_singleton
from shoal.planner.times import parse_timestamp, soonest, timestamp

LINGER_SECONDS = 60.0
"""The data manager outlives its job by this long, so that whoever waited for the end can still read the report."""


@dataclass(frozen=True)
class DependencyView:
    """A pool or fleet that the job uses; `conditions` is empty until its controller has looked at it.

    One that is `owned` and does not exist yet is no trouble: the same pass creates it. One that should be and is
    somebody else's (`foreign`) is left alone. `held_by` is the run whose weights a fleet has, where it is another's.
    """

    kind: str
    name: str
    exists: bool
    conditions: Sequence[Condition] = ()
    owned: bool = False
    foreign: bool = False
    held_by: str = ""

    @property
    def available(self) -> bool:
        """Whether it serves."""
        return self.exists and not self.foreign and conditions.is_true(self.conditions, "Available")

    @property
    def incurable(self) -> bool:
        """Whether it is this job's own, serves nothing, and never will as its manifest stands.

        One that the job only refers to may be mended by whoever has it.
        """
        wrong = any(each.type == "Degraded" and each.reason == health.MISCONFIGURED for each in self.conditions)
        return self.owned and not self.foreign and not self.available and wrong

    @property
    def trouble(self) -> str:
        """What is wrong with it, or ""."""
        if self.foreign:
            return f"{self.kind} {self.name} is there and not this job's: use it by `ref`, or rename the job"
        for condition in self.conditions:
            if condition.type == "Degraded" and condition.status == "True":
                return f"{self.kind} {self.name}: {condition.reason}: {condition.message}"
        if self.held_by:
            return f"{self.kind} {self.name} serves the weights of run {self.held_by}, and one run at a time"
        return "" if self.exists or self.owned else f"{self.kind} {self.name} does not exist"


@dataclass(frozen=True)
class JobReading:
    """What the data manager reports, already as the status carries it."""

    step: int = 0
    version: int = 0
    complete: bool = False
    findings: Sequence[Finding] = ()
    reward: RewardStatus = field(default_factory=RewardStatus)
    evaluation: EvaluationStatus = field(default_factory=EvaluationStatus)
    trajectories: TrajectoryCounts = field(default_factory=TrajectoryCounts)
    staleness: StalenessStatus = field(default_factory=StalenessStatus)
    trajectories_per_minute: str = ""


@dataclass(frozen=True)
class JobObserved:
    """Everything a pass over one job sees.

    Args:
        findings: what the trainer and the agents say is wrong now.
    """

    generation: int
    status: RLJobStatus
    pods: Sequence[PodView]
    children: Present
    expected: Expected
    fleet: DependencyView
    environments: Sequence[DependencyView]
    data: Reading[JobReading]
    findings: Sequence[Finding] = ()
    queue: QueueDecision = NO_QUEUE
    ray: RayView = NO_CLUSTER


@dataclass(frozen=True)
class JobDesired:
    """The objects that builders made for this job.

    Args:
        children: Services, Secrets and owned pools and fleets while the job runs.
        resting: the same while it is suspended or over (owned pools and fleets suspended).
        data, trainer, agent: the roles' pods.
        agents: how many agent pods.
    """

    children: Sequence[Manifest]
    resting: Sequence[Manifest]
    data: Manifest
    trainer: Manifest
    agent: Manifest
    agents: int


def plan_job(spec: RLJobSpec, desired: JobDesired, observed: JobObserved, now: float) -> Plan:
    """One pass over a job; `now` in seconds since the epoch."""
    over = ended(observed.status)
    verdicts = over or _end_of(spec, observed, now)
    running = not verdicts and not _rests(spec, observed)
    actions: list[Action] = list(observed.queue.actions)
    children = desired.children if running else desired.resting
    actions += list(changed_children(_own(children, observed), observed.children))
    ended_at = _ended_at(observed.status, now) if verdicts else None
    actions += _pod_actions(spec, desired, observed, running, ended_at, now)
    refused = standing(actions, observed.expected)
    status = _status(spec, desired, observed, verdicts, refused, now)
    actions += conditions.transitions(observed.status.conditions, status.conditions, frozenset({"Failed", "Degraded"}))
    ttl = spec.ttl_seconds_after_finished
    if ended_at is not None and ttl is not None and now >= ended_at + ttl:
        actions.append(DeleteSelf())
    _, policies_wake = policies_applied(desired.children, observed.children, observed.status.conditions, now)
    wait = soonest(_requeue(spec, observed, status, ended_at, now), policies_wake)
    return Plan(tuple(actions), status.to_json(), wait)


def _own(children: Sequence[Manifest], observed: JobObserved) -> list[Manifest]:
    """The children less those whose name somebody else's object has: applying would take that over."""
    foreign = {(view.kind, view.name) for view in (observed.fleet, *observed.environments) if view.foreign}
    return [child for child in children if (child["kind"], child["metadata"]["name"]) not in foreign]


def _rests(spec: RLJobSpec, observed: JobObserved) -> bool:
    """Whether the job has no pods now: the user has suspended it, or its queue has not admitted it."""
    return spec.suspend or not observed.queue.runs


def ended(status: RLJobStatus) -> list[Verdict]:
    """The verdict of an earlier pass; an ended job never starts again."""
    for condition in status.conditions:
        if condition.type in ("Complete", "Failed") and condition.status == "True":
            return [Verdict(condition.type, True, condition.reason, condition.message)]
    return []


def _end_of(spec: RLJobSpec, observed: JobObserved, now: float) -> list[Verdict]:
    """Complete, or the first reason to fail; empty while the job goes on."""
    reading = observed.data.value
    if reading is not None and reading.complete:
        return [Verdict("Complete", True, "Finished", f"step {reading.step}, weight version {reading.version}")]
    fatal = next((finding for finding in _findings(observed) if finding.fatal), None)
    if fatal is not None:
        return [Verdict("Failed", True, fatal.reason, fatal.message)]
    resting = _rests(spec, observed)
    started = parse_timestamp(observed.status.start_time) if observed.status.start_time else now
    if spec.active_deadline_seconds is not None and now >= started + spec.active_deadline_seconds and not resting:
        return [Verdict("Failed", True, "DeadlineExceeded", f"active for more than {spec.active_deadline_seconds} s")]
    for pod in observed.pods:
        if pod.incurable and pod.own_fault and not pod.deleting:
            return [Verdict("Failed", True, "Misconfigured", f"pod {pod.name}: {pod.incurable}")]
    for dependency in (observed.fleet, *observed.environments):
        if dependency.incurable:
            return [Verdict("Failed", True, health.MISCONFIGURED, dependency.trouble)]
    attempts = _attempts(observed)
    for role, limit in (
        ("trainer", spec.backoff_limit.trainer),
        ("data", spec.backoff_limit.data),
        ("agents", spec.backoff_limit.agents),
    ):
        count = getattr(attempts, role)
        if count > limit:
            pods = [pod for pod in observed.pods if pod.role in (role, role.removesuffix("s"))]
            words = next((pod.last_words for pod in pods if pod.last_words), "")
            last = health.degraded(pods, now=now)
            return [
                Verdict("Failed", True, "BackoffLimitExceeded", f"{role} failed {count} times; {words or last.message}")
            ]
    return []


def _attempts(observed: JobObserved) -> RoleAttempts:
    """Failures per role so far: restarts of containers, and pods that failed as a whole.

    Each failure of a pod is looked at once, and stays counted when another pod takes its place. One that a disruption,
    a deletion or the pod's node has brought about is seen and not counted.
    """
    old = observed.status.attempts
    roles = {Role.TRAINER: old.trainer, Role.DATA: old.data, Role.AGENT: old.agents}
    counted: dict[str, int] = {}
    for pod in observed.pods:
        ends = pod.restarts + int(pod.phase == "Failed")
        if pod.role in roles and ends:
            counted[pod.uid] = ends
            if pod.own_fault and not pod.disrupted and not pod.deleting:
                roles[pod.role] += max(0, ends - old.counted.get(pod.uid, 0))
    return RoleAttempts(trainer=roles[Role.TRAINER], data=roles[Role.DATA], agents=roles[Role.AGENT], counted=counted)


def _pod_actions(
    spec: RLJobSpec, desired: JobDesired, observed: JobObserved, running: bool, ended_at: float | None, now: float
) -> list[Action]:
    def of(role: str) -> list[PodView]:
        return [pod for pod in observed.pods if pod.role == role]

    lingering = ended_at is not None and now < ended_at + LINGER_SECONDS
    actions = plan_singleton(
        Role.DATA, of(Role.DATA), desired.data, observed.expected, wanted=running or lingering, now=now
    )
    # They begin once the data manager answers. After that they outlive its silence: it may begin anew, and an operator
    # that has just started has not asked it yet.
    answers = observed.data.value is not None
    trainers, agents = of(Role.TRAINER), of(Role.AGENT)
    trains = running and bool(answers or trainers) and observed.fleet.exists
    trains = trains and observed.ray.allows(running=bool(trainers))
    if observed.ray.known or not trains:
        actions += plan_singleton(
            Role.TRAINER, trainers, desired.trainer, observed.expected, wanted=trains, now=now, keep_finished=True
        )
    works = running and bool(answers or agents) and observed.fleet.exists
    works = works and all(pool.exists for pool in observed.environments)
    # A queue admits a number of pods: while it does, a template change may not add to them.
    limits = Limits(0, 1) if observed.queue.managed else Limits(surge_of(desired.agents), 0)
    return actions + _agent_actions(desired, agents, desired.agents if works else 0, observed.expected, limits, now)


def _agent_actions(
    desired: JobDesired, pods: list[PodView], count: int, expected: Expected, limits: Limits, now: float
) -> list[Action]:
    plan = plan_podset(
        pods,
        count,
        desired.agent["metadata"]["annotations"][SPEC_HASH],
        limits=limits,
        now=now,
        creating=expected.creating(Role.AGENT),
        deletions=expected.deletions,
    )
    actions: list[Action] = [
        DeletePod(Role.AGENT, removal.pod.name, removal.pod.uid, removal.reason) for removal in plan.remove
    ]
    return actions + [CreatePod(Role.AGENT, desired.agent)] * plan.create


def _ended_at(status: RLJobStatus, now: float) -> float:
    return parse_timestamp(status.completion_time) if status.completion_time else now


def _status(
    spec: RLJobSpec,
    desired: JobDesired,
    observed: JobObserved,
    end: list[Verdict],
    refused: Refused | None,
    now: float,
) -> RLJobStatus:
    old = observed.status
    reading = observed.data.value
    policies, _ = policies_applied(desired.children, observed.children, old.conditions, now)
    verdicts = [*_verdicts(spec, observed, end, refused, now), *policies]
    status = RLJobStatus(
        observed_generation=observed.generation,
        phase=_phase(spec, observed, end),
        step=reading.step if reading else old.step,
        steps=spec.trainer.steps,
        weight_version=reading.version if reading else old.weight_version,
        reward=reading.reward if reading else old.reward,
        evaluation=reading.evaluation if reading else old.evaluation,
        trajectories=reading.trajectories if reading else old.trajectories,
        staleness=reading.staleness if reading else old.staleness,
        trajectories_per_minute=reading.trajectories_per_minute if reading else old.trajectories_per_minute,
        attempts=_attempts(observed),
        admission=observed.queue.admission,
        start_time=None if _rests(spec, observed) and not end else old.start_time or timestamp(now),
        completion_time=timestamp(_ended_at(old, now)) if end else None,
    )
    return status.model_copy(
        update={"conditions": conditions.merge(old.conditions, verdicts, observed.generation, now)}
    )


def _phase(spec: RLJobSpec, observed: JobObserved, end: list[Verdict]) -> JobPhase:
    if end:
        return JobPhase.COMPLETE if end[0].type == "Complete" else JobPhase.FAILED
    if _rests(spec, observed):
        return JobPhase.SUSPENDED
    roles_ready = {pod.role for pod in observed.pods if pod.ready and not pod.deleting}
    planes = observed.fleet.available and all(pool.available for pool in observed.environments)
    if planes and {Role.DATA, Role.AGENT, Role.TRAINER} <= roles_ready:
        return JobPhase.RUNNING
    return JobPhase.STARTING if observed.pods else JobPhase.PENDING


def _verdicts(
    spec: RLJobSpec, observed: JobObserved, end: list[Verdict], refused: Refused | None, now: float
) -> list[Verdict]:
    suspended = _rests(spec, observed) and not end
    trainer = [pod for pod in observed.pods if pod.role == Role.TRAINER and not pod.deleting]
    ready = any(pod.ready for pod in trainer)
    verdicts = [
        _suspended(spec, observed, suspended),
        _environments_ready(observed),
        _dependency_ready("FleetReady", observed.fleet),
        _trainer_ready(observed, ready=ready),
        _degraded(spec, observed, end, refused, now),
        *_admitted(observed),
    ]
    if end:
        done = end[0].type == "Complete"
        verdicts += [
            Verdict("Progressing", False, end[0].reason, end[0].message),
            Verdict("Complete", done, end[0].reason, end[0].message if done else ""),
            Verdict("Failed", not done, end[0].reason, "" if done else end[0].message),
        ]
    else:
        moving = _phase(spec, observed, end) == JobPhase.RUNNING
        queued = suspended and not spec.suspend
        reason = "Queued" if queued else "Suspended" if suspended else "Training" if moving else "Waiting"
        verdicts.append(Verdict("Progressing", moving, reason, "" if moving else _waiting_for(observed)))
        verdicts += [Verdict("Complete", False, "NotFinished"), Verdict("Failed", False, "NotFailed")]
    return verdicts


def _trainer_ready(observed: JobObserved, *, ready: bool) -> Verdict:
    if ready:
        return Verdict("TrainerReady", True, "Training")
    if observed.ray.reason:
        return Verdict("TrainerReady", False, observed.ray.reason, observed.ray.message)
    return Verdict("TrainerReady", False, "NotReady", "no trainer pod is ready")


def _suspended(spec: RLJobSpec, observed: JobObserved, suspended: bool) -> Verdict:
    if not suspended:
        return Verdict("Suspended", False, "NotSuspended")
    admitted = observed.queue.verdict
    if spec.suspend or admitted is None:
        return Verdict("Suspended", True, "SuspendedByUser")
    return Verdict("Suspended", True, admitted.reason, admitted.message)


def _admitted(observed: JobObserved) -> list[Verdict]:
    """What the queue says; a job that has left its queue says so once it was in one."""
    if observed.queue.verdict is not None:
        return [observed.queue.verdict]
    known = any(condition.type == "Admitted" for condition in observed.status.conditions)
    return [Verdict("Admitted", None, "NoQueue", "the job is in no queue")] if known else []


def _environments_ready(observed: JobObserved) -> Verdict:
    for pool in observed.environments:
        if not pool.available:
            return _dependency_ready("EnvironmentsReady", pool)
    return Verdict("EnvironmentsReady", True, "Available", f"{len(observed.environments)} pools serve")


def _dependency_ready(type_: str, dependency: DependencyView) -> Verdict:
    if dependency.available:
        return Verdict(type_, True, "Available", f"{dependency.kind} {dependency.name} serves")
    reason = "NotAvailable" if dependency.exists else "NotFound"
    return Verdict(
        type_, False, reason, dependency.trouble or f"{dependency.kind} {dependency.name} does not serve yet"
    )


def _findings(observed: JobObserved) -> list[Finding]:
    """What the job's services say is wrong now."""
    own = observed.data.value.findings if observed.data.value is not None else ()
    return [*own, *observed.findings]


def _degraded(
    spec: RLJobSpec, observed: JobObserved, end: list[Verdict], refused: Refused | None, now: float
) -> Verdict:
    if end:
        return Verdict("Degraded", False, "Ended")
    rests = _rests(spec, observed)
    silent = None if rests else health.unreachable(observed.pods, Role.DATA, observed.data, now)
    runs = _phase(spec, observed, end) == JobPhase.RUNNING
    own = health.degraded(
        observed.pods,
        now=now,
        refused=refused,
        findings=[silent] if silent is not None else _findings(observed),
        waiting="" if runs or rests else _waiting_for(observed),
    )
    if own.status:
        return own
    for dependency in (observed.fleet, *observed.environments):
        if dependency.trouble:
            return Verdict("Degraded", True, "DependencyDegraded", dependency.trouble)
    return own


def _waiting_for(observed: JobObserved) -> str:
    missing = [f"{view.kind} {view.name}" for view in (observed.fleet, *observed.environments) if not view.available]
    ready = {pod.role for pod in observed.pods if pod.ready and not pod.deleting}
    missing += [role for role in (Role.DATA, Role.TRAINER, Role.AGENT) if role not in ready]
    return f"waiting for {', '.join(missing)}" if missing else ""


def _requeue(
    spec: RLJobSpec, observed: JobObserved, status: RLJobStatus, ended_at: float | None, now: float
) -> float | None:
    """Seconds until the next deadline of this job; events and readings wake it before."""
    deadlines = []
    if ended_at is not None:
        deadlines.append(ended_at + LINGER_SECONDS)
        if spec.ttl_seconds_after_finished is not None:
            deadlines.append(ended_at + spec.ttl_seconds_after_finished)
    elif spec.active_deadline_seconds is not None and status.start_time is not None:
        deadlines.append(parse_timestamp(status.start_time) + spec.active_deadline_seconds)
    elif status.phase in (JobPhase.PENDING, JobPhase.STARTING):
        deadlines.append(now + SETTLE_SECONDS)
    later = [deadline - now for deadline in deadlines if deadline > now]
    look = health.next_look(observed.pods, now)
    later += [look] if look is not None else []
    return max(0.1, min(later)) if later else None
