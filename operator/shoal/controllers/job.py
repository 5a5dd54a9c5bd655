"""RLJob: observe, plan, apply, report."""

from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from shoal.api.labels import Role
from shoal.api.services.trajectories import DataStatus
from shoal.api.tolerant import part, parts, read_conditions, read_status
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
from shoal.builders.children import build_service, build_tokens
from shoal.builders.network import job_policies
from shoal.builders.owner import Owner
from shoal.controllers.context import Context, service_of, url_of
from shoal.controllers.effects import Subject
from shoal.engine.keys import ObjectKey
from shoal.engine.manager import Result
from shoal.engine.scrape import Target
from shoal.engine.store import Store, by_owner_uid
from shoal.kube.resources import RL_JOBS
from shoal.neighbours.neighbour import JobPass
from shoal.planner.admission import RETRY_SECONDS, QueueDecision
from shoal.planner.job import DependencyView, JobDesired, JobObserved, JobReading, ended, plan_job
from shoal.planner.observed import PodView, Reading
from shoal.planner.rayview import NO_CLUSTER, RayView

Json = dict[str, Any]

OPERATOR = "rl.shoal.dev/operator"
"""The `managedBy` of jobs that this operator looks after; others are another controller's (MultiKueue's, say)."""


class JobController:
    """Reconciles RLJobs."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def reconcile(self, key: ObjectKey) -> Result:
        """One pass over the job of this key; a job that is gone needs none, its children are garbage collected."""
        context = self._context
        body = context.world.jobs.get(key)
        if (
            body is None
            or "deletionTimestamp" in body["metadata"]
            or part(body, "spec").get("managedBy", OPERATOR) != OPERATOR
        ):
            return Result()
        owner = job.job_owner(key.name, key.namespace, body["metadata"]["uid"])
        pods = context.world.pods_of(owner.namespace, owner.uid)
        subject = Subject(owner, RL_JOBS)
        try:
            spec = RLJobSpec.model_validate(body["spec"])
        except ValidationError as error:
            await context.reject(subject, body, error)
            return Result()
        data = service_of(pods, Role.DATA)
        context.scraper.set_targets(owner.uid, {Role.DATA: Target(url_of(data), DataStatus)} if data else {})
        at_work = self._pass(owner, body, spec)
        queue = await context.neighbours.admit(at_work)
        spec = context.neighbours.placed(spec, queue)
        ray = context.neighbours.ray_cluster(replace(at_work, spec=spec))
        observed = self._observe(owner, body, pods, spec, queue, ray)
        plan = plan_job(spec, build(owner, spec, context, observed.ray), observed, context.now)
        if queue.retry:
            plan = replace(plan, requeue_after=RETRY_SECONDS)
        return await context.carry_out(subject, body, plan)

    def _pass(self, owner: Owner, body: Json, spec: RLJobSpec) -> JobPass:
        context, world = self._context, self._context.world
        status = read_status(RLJobStatus, context.status.current(body))
        over = ended(status)
        return JobPass(
            owner=owner,
            labels=body["metadata"].get("labels") or {},
            spec=spec,
            status=status,
            end=over[0] if over else None,
            now=context.now,
            pods=lambda: world.job_pods(owner.namespace, owner.uid),
            unseen=lambda: context.neighbours.unseen(owner.namespace, owner.uid),
            refusal=lambda kind: context.effects.refusal(owner, kind),
        )

    def _observe(
        self, owner: Owner, body: Json, pods: list[PodView], spec: RLJobSpec, queue: QueueDecision, ray: RayView
    ) -> JobObserved:
        context = self._context
        world = context.world

        def at(name: str) -> ObjectKey:
            return ObjectKey(owner.namespace, name)

        return JobObserved(
            generation=body["metadata"].get("generation", 0),
            status=read_status(RLJobStatus, context.status.current(body)),
            pods=pods,
            children=world.children_of(owner.namespace, owner.uid),
            expected=context.effects.expected(owner, (Role.DATA, Role.TRAINER, Role.AGENT)),
            fleet=self._fleet(owner, at(job.fleet_name(owner.name, spec)), owned=spec.fleet.ref is None),
            environments=[
                dependency(
                    "EnvironmentPool",
                    world.pools,
                    at(job.pool_name(owner.name, source)),
                    owner.uid,
                    owned=source.ref is None,
                )
                for source in spec.environments
            ],
            data=self._reading(owner.uid),
            queue=queue,
            ray=ray,
        )

    def _fleet(self, owner: Owner, key: ObjectKey, *, owned: bool) -> DependencyView:
        fleets = self._context.world.fleets
        view = dependency("RolloutFleet", fleets, key, owner.uid, owned=owned)
        status = read_status(RolloutFleetStatus, part(fleets.get(key), "status"))
        run = status.weight_version.run
        return replace(view, held_by=run if run != job.run_of(owner) else "")

    def _reading(self, uid: str) -> Reading[JobReading]:
        seen = self._context.scraper.get(uid, Role.DATA)
        if seen is None or not isinstance(seen.value, DataStatus):
            return Reading(error=seen.error if seen else "")
        return Reading(read_data(seen.value), seen.age(self._context.clock.now()), seen.error)


def build(owner: Owner, spec: RLJobSpec, context: Context, ray: RayView = NO_CLUSTER) -> JobDesired:
    """Every object of a job; `ray` is its RayCluster, if it has one."""
    ray_settings = spec.trainer.ray.model_dump(exclude_none=True)
    own = [
        *build_tokens(owner, Role.AGENT),
        build_service(owner, Role.DATA),
        *job_policies(owner, context.network, foreign_ray=bool(ray_settings)),
    ]

    def children(*, resting: bool) -> list[Json]:
        owned = job.build_owned(owner, spec, resting=resting)
        return [*own, *owned, *context.neighbours.job_children(owner, spec, resting=resting)]

    trains = context.neighbours.trainer(spec, ray)
    return JobDesired(
        children=children(resting=False),
        resting=children(resting=True),
        data=job.build_data(owner, spec, context.images),
        trainer=job.build_trainer(owner, trains, context.images, ray.address),
        agent=job.build_agent(owner, spec, context.images),
        agents=spec.agents.replicas,
    )


def dependency(kind: str, store: Store[Json], key: ObjectKey, owner: str, *, owned: bool) -> DependencyView:
    """A pool or fleet as the job of UID `owner` sees it; conditions of an older spec do not count."""
    body = store.get(key)
    if body is None:
        return DependencyView(kind, key.name, exists=False, owned=owned)
    status = body.get("status") or {}
    current = status.get("observedGeneration") == body["metadata"].get("generation")
    found = read_conditions(status) if current else []
    foreign = owned and owner not in by_owner_uid(body)
    return DependencyView(kind, key.name, True, found, owned, foreign)


def read_data(status: DataStatus) -> JobReading:
    """The data manager's report as the job's status carries it."""
    evaluation = status.evaluation
    return JobReading(
        step=status.step,
        version=status.version,
        complete=status.complete,
        halted=status.halted,
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
