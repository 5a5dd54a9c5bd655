"""What a pass over a job must know of Kueue: the job's Workload, and the flavors and priority classes it names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal.api.labels import PRIORITY_LABEL, QUEUE_LABEL, Role
from shoal.api.v1alpha1.jobqueue import AdmissionStatus
from shoal.api.v1alpha1.jobstatus import JobPhase
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.builders.owner import Owner
from shoal.engine.visitor import NeighbourReflector, Sight
from shoal.kube.errors import ApiError, NotFoundError
from shoal.kube.resources import PRIORITY_CLASSES, Resource
from shoal.neighbours.kueue import workload as kueue
from shoal.neighbours.kueue.decisions import ABSENT, QueueObserved, WorkloadView
from shoal.neighbours.neighbour import JobPass, Surroundings

Json = dict[str, Any]

NAME = "kueue"

REMEMBER_SECONDS = 30.0
"""Flavors and classes hardly ever change; asking for them on every pass would make a request of each event."""


class MissingError(Exception):
    """Something that the job's Workload names does not exist or cannot be read; the text says what."""


@dataclass(frozen=True)
class _Read:
    until: float
    body: Json


class QueueLookup:
    """Reads what a decision about a job's queue takes. The few cluster-wide objects are asked for by name."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._client = surroundings.client
        self._discovery = surroundings.discovery
        self._images = surroundings.images
        self._clock = surroundings.clock
        self._known: dict[tuple[str, str], _Read] = {}

    async def look(
        self, job: JobPass, workload: WorkloadView | None, reflector: NeighbourReflector[Any]
    ) -> QueueObserved:
        """Return everything that `plan_queue` needs; cheap for a job without a queue."""
        queue = job.labels.get(QUEUE_LABEL, "")
        if not queue:
            return QueueObserved(workload=workload)
        pods, unseen = job.pods(), job.unseen()
        seen = QueueObserved(
            queue=queue,
            trouble=_trouble(reflector),
            workload=workload,
            kept=job.status.admission,
            refusal=job.refusal("Workload"),
            pods=len(pods) + unseen,
            idle=unseen == 0 and all(pod.role == Role.DATA for pod in pods),
            running=job.status.phase is JobPhase.RUNNING,
        )
        resource = self._discovery.resource(NAME, "workloads")
        if seen.trouble is not None or resource is None:
            return seen
        return await self._fill(seen, job.owner, job.spec, resource, job.labels.get(PRIORITY_LABEL, ""))

    # --- inside

    async def _fill(
        self, seen: QueueObserved, owner: Owner, spec: RLJobSpec, resource: Resource, priority: str
    ) -> QueueObserved:
        pod_sets = kueue.pod_sets_of(owner, spec, self._images)
        update: dict[str, Any] = {}
        try:
            update["desired"] = kueue.build_workload(
                owner,
                resource.api_version,
                seen.queue,
                pod_sets,
                priority=await self._priority(priority, spec.priority_class_name),
                active=not spec.suspend,
            )
        except kueue.TooManyPodSetsError as error:
            update["impossible"] = ("TooManyPodSets", str(error))
        except MissingError as error:
            update["unready"] = ("PriorityClassUnknown", str(error))
        workload = seen.workload
        if workload is not None and workload.admission is not None:
            try:
                counts = {each.name: each.count for each in pod_sets}
                update["admission"] = await self._admission(workload, workload.admission, counts, seen.kept)
            except MissingError as error:
                update["unplaced"] = str(error)
        return QueueObserved(**{**vars(seen), **update})

    async def _admission(
        self, workload: WorkloadView, admission: Json, counts: Mapping[str, int], kept: AdmissionStatus | None
    ) -> AdmissionStatus:
        """The kept one while the Workload still carries it: a flavor edited meanwhile must not move pods that run."""
        checks = list(workload.checks)
        if kept is not None and kept.fingerprint == kueue.fingerprint(admission, checks):
            return kept
        names = {
            name for each in admission.get("podSetAssignments") or () for name in (each.get("flavors") or {}).values()
        }
        resource = self._discovery.resource(NAME, "resourceflavors")
        if resource is None:
            raise MissingError("ResourceFlavors are not served")
        flavors = {name: (await self._get(resource, name)).get("spec") or {} for name in sorted(names)}
        return kueue.assigned(workload.name, admission, checks, counts, flavors)

    async def _priority(self, workload_class: str, pod_class: str | None) -> kueue.Priority | None:
        """The class of the label, else that of the job's pods: what Kueue does for its own kinds."""
        resource = self._discovery.resource(NAME, "workloadpriorityclasses")
        if workload_class and resource is not None:
            body = await self._get(resource, workload_class)
            return kueue.Priority(resource.kind, workload_class, int(body.get("value", 0)))
        if pod_class:
            body = await self._get(PRIORITY_CLASSES, pod_class)
            return kueue.Priority(PRIORITY_CLASSES.kind, pod_class, int(body.get("value", 0)))
        return None

    async def _get(self, resource: Resource, name: str) -> Json:
        now = self._clock.now()
        known = self._known.get((resource.kind, name))
        if known is not None and known.until > now:
            return known.body
        try:
            body = await self._client.get(resource, name)
        except NotFoundError:
            raise MissingError(f"{resource.kind} {name} does not exist") from None
        except ApiError as error:
            raise MissingError(f"{resource.kind} {name} cannot be read: {error}") from error
        self._known[(resource.kind, name)] = _Read(now + REMEMBER_SECONDS, body)
        return body


def _trouble(reflector: NeighbourReflector[Any]) -> tuple[str, str] | None:
    """Why Kueue cannot be asked now, as (reason, message); None when it can."""
    sight = reflector.sight
    if sight is Sight.CLEAR:
        return None
    if sight is Sight.ABSENT:
        return ABSENT, "the job names a queue, and Kueue is not installed (no Workload in this cluster)"
    if sight is Sight.FORBIDDEN:
        return "KueueForbidden", f"Workloads cannot be read: {reflector.refusal}"
    return "KueueNotRead", "the Workloads there are have not been read yet"
