"""What a pass over an RLJob observes, builds and decides."""

from dataclasses import replace
from math import inf
from typing import Any

from shoal.api.labels import Role
from shoal.api.services.common import Finding, Report
from shoal.api.services.training import TrainerStatus
from shoal.api.services.trajectories import AgentStatus, DataStatus
from shoal.api.tolerant import part, parts, read_conditions, read_status
from shoal.api.v1alpha1.jobplanes import EnvironmentSource
from shoal.api.v1alpha1.jobstatus import (
    EvaluationStatus,
    RewardStatus,
    RLJobStatus,
    StalenessStatus,
    TrajectoryCounts,
)
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.api.v1alpha1.rolloutfleet import RolloutFleetStatus
from shoal.builders import job
from shoal.builders.carrying import carried_all
from shoal.builders.children import build_service, build_tokens
from shoal.builders.helpers import placed_helper
from shoal.builders.network import job_policies
from shoal.builders.owner import Owner
from shoal.controllers.context import Context, service_of, url_of
from shoal.controllers.scaffold import KindController, Pass
from shoal.controllers.world import REFLECTED
from shoal.engine.keys import ObjectKey
from shoal.engine.scrape import Target
from shoal.engine.store import Store, by_owner_uid
from shoal.kube.resources import RL_JOBS
from shoal.neighbours.neighbour import JobPass
from shoal.planner.actions import Plan
from shoal.planner.admission import RETRY_SECONDS
from shoal.planner.job import DependencyView, JobDesired, JobObserved, JobReading, ended, plan_job
from shoal.planner.observed import PodView
from shoal.planner.rayview import NO_CLUSTER, RayView

Json = dict[str, Any]

OPERATOR = "rl.shoal.dev/operator"
"""The `managedBy` of jobs that this operator looks after; others are another controller's (MultiKueue's, say)."""


ASKED_AGENTS = 8
"""Agents run one program with one configuration: what hinders one of some hundred, a few of them tell."""


class JobController(KindController[RLJobSpec, JobDesired, JobObserved]):
    """Reconciles RLJobs."""

    resource = RL_JOBS
    spec = RLJobSpec
    role = Role.DATA
    message = DataStatus

    @property
    def store(self) -> Store[Json]:
        """The cache of jobs."""
        return self._context.world.jobs

    def owner(self, key: ObjectKey, uid: str) -> Owner:
        """Return the identity of a job."""
        return job.job_owner(key.name, key.namespace, uid)

    def ours(self, body: Json) -> bool:
        """Return whether the job is left to this operator by `managedBy`."""
        return bool(part(body, "spec").get("managedBy", OPERATOR) == OPERATOR)

    async def observe(self, at: Pass[RLJobSpec]) -> JobObserved:
        """Return what the caches, the neighbours and the data manager say."""
        context, world, owner = self._context, self._context.world, at.owner
        job_pass = self._pass(at)
        queue = await context.neighbours.admit(job_pass)
        spec = context.neighbours.placed(at.spec, queue)
        return JobObserved(
            generation=at.generation,
            status=job_pass.status,
            pods=at.pods,
            children=world.children_of(owner.namespace, owner.uid),
            expected=context.effects.expected(owner, (Role.DATA, Role.TRAINER, Role.AGENT)),
            fleet=self._fleet(owner, spec),
            environments=[self._pool(owner, source) for source in spec.environments],
            data=self.read(owner.uid, DataStatus, read_data, stale=inf),
            findings=self._findings(owner.uid, at.pods),
            queue=queue,
            ray=context.neighbours.ray_cluster(replace(job_pass, spec=spec)),
        )

    def targets(self, pods: list[PodView]) -> dict[str, Target]:
        """Return whom to ask how the job fares: the data manager, the trainer and some agents, by role and name."""
        agents = sorted((pod for pod in pods if pod.role == Role.AGENT), key=lambda pod: pod.name)[:ASKED_AGENTS]
        asked: dict[str, tuple[PodView | None, type[Report]]] = {
            Role.TRAINER: (service_of(pods, Role.TRAINER), TrainerStatus),
            **{f"{Role.AGENT}/{pod.name}": (service_of([pod], Role.AGENT), AgentStatus) for pod in agents},
        }
        more = {key: Target(url_of(pod), model) for key, (pod, model) in asked.items() if pod is not None}
        return {**super().targets(pods), **more}

    def _findings(self, uid: str, pods: list[PodView]) -> list[Finding]:
        seen = [self._context.scraper.get(uid, key) for key in self.targets(pods) if key != Role.DATA]
        values = [each.value for each in seen if each is not None and not each.error]
        return [found for value in values if isinstance(value, TrainerStatus | AgentStatus) for found in value.findings]

    def build(self, at: Pass[RLJobSpec], observed: JobObserved) -> JobDesired:
        """Return every object of the job, placed as its queue admits it."""
        return build(at.owner, self._placed(at, observed), self._context, observed.ray)

    def plan(self, at: Pass[RLJobSpec], desired: JobDesired, observed: JobObserved) -> Plan:
        """Decide; look again soon where the queue waits for something of which no event tells."""
        plan = plan_job(self._placed(at, observed), desired, observed, self._context.now)
        return replace(plan, requeue_after=RETRY_SECONDS) if observed.queue.retry else plan

    def _placed(self, at: Pass[RLJobSpec], observed: JobObserved) -> RLJobSpec:
        return self._context.neighbours.placed(at.spec, observed.queue)

    def _pass(self, at: Pass[RLJobSpec]) -> JobPass:
        context, world, owner = self._context, self._context.world, at.owner
        status = read_status(RLJobStatus, context.status.current(at.body))
        over = ended(status)
        return JobPass(
            owner=owner,
            labels=at.body["metadata"].get("labels") or {},
            spec=at.spec,
            status=status,
            end=over[0] if over else None,
            now=context.now,
            pods=lambda: world.job_pods(owner.namespace, owner.uid),
            unseen=lambda: context.neighbours.unseen(owner.namespace, owner.uid),
            refusal=lambda kind: context.effects.refusal(owner, kind),
        )

    def _pool(self, owner: Owner, source: EnvironmentSource) -> DependencyView:
        key = ObjectKey(owner.namespace, job.pool_name(owner.name, source))
        return dependency("EnvironmentPool", self._context.world.pools, key, owner.uid, owned=source.ref is None)

    def _fleet(self, owner: Owner, spec: RLJobSpec) -> DependencyView:
        key = ObjectKey(owner.namespace, job.fleet_name(owner.name, spec))
        fleets = self._context.world.fleets
        view = dependency("RolloutFleet", fleets, key, owner.uid, owned=spec.fleet.ref is None)
        status = read_status(RolloutFleetStatus, part(fleets.get(key), "status"))
        run = status.weight_version.run
        return replace(view, held_by=run if run != job.run_of(owner) else "")


def build(owner: Owner, spec: RLJobSpec, context: Context, ray: RayView = NO_CLUSTER) -> JobDesired:
    """Every object of a job; `ray` is its RayCluster, if it has one."""
    ray_settings = spec.trainer.ray.model_dump(exclude_none=True)
    trains = context.neighbours.trainer(spec, ray)
    data = placed_helper(
        job.build_data(owner, spec, context.images), Role.DATA, [spec.agents.template, spec.trainer.template]
    )
    trainer = job.build_trainer(owner, trains, context.images, ray.address)
    agent = job.build_agent(owner, spec, context.images)
    pods, configs = carried_all(owner, "", {Role.DATA: data, Role.TRAINER: trainer, Role.AGENT: agent})
    own = [
        *build_tokens(owner, Role.AGENT),
        *configs,
        build_service(owner, Role.DATA),
        *job_policies(owner, context.network, foreign_ray=bool(ray_settings)),
    ]

    def children(*, resting: bool) -> list[Json]:
        owned = job.build_owned(owner, spec, resting=resting)
        return [*own, *owned, *context.neighbours.job_children(owner, spec, resting=resting)]

    return JobDesired(
        children=children(resting=False),
        resting=children(resting=True),
        data=pods[Role.DATA],
        trainer=pods[Role.TRAINER],
        agent=pods[Role.AGENT],
        agents=spec.agents.replicas,
    )


def dependency(kind: str, store: Store[Json], key: ObjectKey, owner: str, *, owned: bool) -> DependencyView:
    """A pool or fleet as the job of UID `owner` sees it; conditions of an older spec do not count."""
    body = store.get(key)
    if body is None:
        return DependencyView(kind, key.name, exists=False, owned=owned)
    status = body.get("status") or {}
    current = _is_current(body, status)
    found = read_conditions(status) if current else []
    foreign = owned and owner not in by_owner_uid(body)
    return DependencyView(kind, key.name, True, found, owned, foreign)


def _is_current(body: Json, status: Json) -> bool:
    """Whether the status is about this spec, or about one that differs by the size that the operator then wrote."""
    behind = body["metadata"].get("generation", 0) - (status.get("observedGeneration") or 0)
    return behind == 0 or (behind == 1 and bool(body.get(REFLECTED, -1) == status.get("desiredReplicas")))


def read_data(status: DataStatus) -> JobReading:
    """The data manager's report as the job's status carries it."""
    evaluation = status.evaluation
    return JobReading(
        step=status.step,
        version=status.version,
        complete=status.complete,
        findings=findings_of(status),
        reward=RewardStatus(
            last=_text(status.reward.last), best=_text(status.reward.best), window=_text(status.reward.window)
        ),
        evaluation=EvaluationStatus(
            initial=_text(evaluation.initial),
            latest=_text(evaluation.latest),
            final=_text(evaluation.final),
            version=evaluation.version,
        ),
        trajectories=TrajectoryCounts(
            recorded=sum(status.outcomes.values()) - _faults(status),
            trained=status.trained,
            dropped=sum(status.dropped.values()),
            faults=_faults(status),
        ),
        staleness=StalenessStatus(p50=status.staleness.p50, max=status.staleness.max),
        trajectories_per_minute=f"{status.trajectories_per_minute:.0f}",
    )


def findings_of(status: DataStatus) -> list[Finding]:
    """What the data manager finds wrong; one that stopped says so among it."""
    halted = [Finding(reason="TooManyFaults", message=status.halted, fatal=True)] if status.halted else []
    return [*status.findings, *(halted if not any(found.fatal for found in status.findings) else [])]


def _faults(status: DataStatus) -> int:
    return sum(
        count for outcome, count in status.outcomes.items() if outcome.endswith("_error") or outcome == "cancelled"
    )


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def uses(kind: str, body: Json, name: str) -> bool:
    """Return whether the job, which may not validate, uses this fleet or pool."""
    owner, spec = body["metadata"]["name"], part(body, "spec")
    if kind == "RolloutFleet":
        return name == (part(spec, "fleet", "ref").get("name") or f"{owner}-fleet")
    sources = parts(spec, "environments")
    return name in (part(source, "ref").get("name") or f"{owner}-{source.get('name')}" for source in sources)
