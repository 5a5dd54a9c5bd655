"""What a pass over a job must know of Kueue: the job's Workload, and the flavors and priority classes it names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal.api.labels import PRIORITY_LABEL, QUEUE_LABEL, Role
from shoal.api.v1alpha1.jobqueue import AdmissionStatus
from shoal.api.v1alpha1.jobstatus import JobPhase, RLJobStatus
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.builders.images import Images
from shoal.builders.owner import Owner
from shoal.controllers.world import World
from shoal.engine.clock import Clock
from shoal.engine.store import OWNER_UID
from shoal.engine.visitor import NeighbourReflector, Sight
from shoal.kube.client import KubeClient
from shoal.kube.discovery import Neighbour, Neighbours
from shoal.kube.errors import ApiError, NotFoundError
from shoal.kube.resources import PRIORITY_CLASSES, Resource
from shoal.neighbours.kueue import workload as kueue
from shoal.neighbours.kueue.decisions import ABSENT, QueueObserved, WorkloadView
from shoal.planner.observed import PodView

Json = dict[str, Any]

REMEMBER_SECONDS = 30.0
"""Flavors and classes hardly ever change; asking for them on every pass would make a request of each event."""
RETRY_SECONDS = 5.0
"""When to look again for one that is missing: no event tells that it has come."""


class MissingError(Exception):
    """Something that the job's Workload names does not exist or cannot be read; the text says what."""


@dataclass(frozen=True)
class _Read:
    until: float
    body: Json


class QueueDesk:
    """Reads Kueue's side of jobs. The Workloads are cached; the few cluster-wide objects are asked for by name."""

    def __init__(self, client: KubeClient, neighbours: Neighbours, world: World, images: Images, clock: Clock) -> None:
        self._client = client
        self._neighbours = neighbours
        self._world = world
        self._images = images
        self._clock = clock
        self._reflector: NeighbourReflector[WorkloadView] | None = None
        self._known: dict[tuple[str, str], _Read] = {}

    def follow(self, reflector: NeighbourReflector[WorkloadView]) -> None:
        """Take `reflector` as the one that fills the cache of Workloads."""
        self._reflector = reflector

    async def look(self, owner: Owner, body: Json, spec: RLJobSpec, status: RLJobStatus, refusal: str) -> QueueObserved:
        """Everything that `plan_queue` needs; cheap for a job without a queue.

        `refusal` is why the API server refused the Workload when it was last applied, "" when it did not.
        """
        labels = body["metadata"].get("labels") or {}
        workload = self._workload(owner)
        queue = labels.get(QUEUE_LABEL, "")
        if not queue:
            return QueueObserved(workload=workload)
        pods = self._pods(owner)
        clusters = self._world.ray_clusters.by_index(OWNER_UID, owner.uid, owner.namespace)
        rays = sum(cluster.pods for cluster in clusters)
        seen = QueueObserved(
            queue=queue,
            trouble=self._trouble(),
            workload=workload,
            kept=status.admission,
            refusal=refusal,
            pods=len(pods) + rays,
            idle=rays == 0 and all(pod.role == Role.DATA for pod in pods),
            running=status.phase is JobPhase.RUNNING,
        )
        resource = self._neighbours.resource(Neighbour.KUEUE, "workloads")
        if seen.trouble is not None or resource is None:
            return seen
        return await self._fill(seen, owner, spec, resource, labels.get(PRIORITY_LABEL, ""))

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

    def _trouble(self) -> tuple[str, str] | None:
        sight = self._reflector.sight if self._reflector is not None else Sight.ABSENT
        if sight is Sight.CLEAR:
            return None
        if sight is Sight.ABSENT:
            return ABSENT, "the job names a queue, and Kueue is not installed (no Workload in this cluster)"
        if self._reflector is not None and sight is Sight.FORBIDDEN:
            return "KueueForbidden", f"Workloads cannot be read: {self._reflector.refusal}"
        return "KueueNotRead", "the Workloads there are have not been read yet"

    def _workload(self, owner: Owner) -> WorkloadView | None:
        """The job's Workload; of several (an older operator's name, say) the one that is not on its way out."""
        found = self._world.workloads.by_index(OWNER_UID, owner.uid, owner.namespace)
        return min(found, key=lambda each: (each.deleting, each.name != kueue.workload_name(owner)), default=None)

    def _pods(self, owner: Owner) -> list[PodView]:
        """Pods of the job and of the pools and fleets that it owns."""
        world, here = self._world, owner.namespace
        pods = world.pods_of(here, owner.uid)
        for pool in world.pools.by_index(OWNER_UID, owner.uid, here):
            pods += world.members_of(here, pool["metadata"]["uid"])
        for fleet in world.fleets.by_index(OWNER_UID, owner.uid, here):
            pods += world.engines_of(here, fleet["metadata"]["uid"])
        return pods

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
        resource = self._neighbours.resource(Neighbour.KUEUE, "resourceflavors")
        if resource is None:
            raise MissingError("ResourceFlavors are not served")
        flavors = {name: (await self._get(resource, name)).get("spec") or {} for name in sorted(names)}
        return kueue.assigned(workload.name, admission, checks, counts, flavors)

    async def _priority(self, workload_class: str, pod_class: str | None) -> kueue.Priority | None:
        """The class of the label, else that of the job's pods: what Kueue does for its own kinds."""
        resource = self._neighbours.resource(Neighbour.KUEUE, "workloadpriorityclasses")
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
