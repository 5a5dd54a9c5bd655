"""What Shoal knows of Kueue."""

from functools import cached_property
from typing import Any, ClassVar

from shoal.api.labels import QUEUE_LABEL
from shoal.api.v1alpha1.jobqueue import AdmissionStatus
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.engine.store import OWNER_UID, Store, by_owner_uid
from shoal.engine.visitor import NeighbourReflector
from shoal.kube.discovery import Kind, Need
from shoal.kube.permissions import CREATED_BY_APPLY, FOLLOW, Rule, Scope
from shoal.neighbours.kueue.decisions import WorkloadView, plan_queue, view_workload
from shoal.neighbours.kueue.lookup import NAME, QueueLookup
from shoal.neighbours.kueue.workload import placed, workload_name
from shoal.neighbours.neighbour import MANAGED, JobPass, Neighbour, Surroundings
from shoal.planner.admission import QueueDecision

GROUP = "kueue.x-k8s.io"


class Kueue(Neighbour):
    """Kueue: a job with a queue's label runs when its Workload is admitted."""

    need: ClassVar[Need] = Need(
        NAME,
        GROUP,
        ("v1beta2", "v1beta1"),
        (
            Kind("workloads", "Workload"),
            Kind("resourceflavors", "ResourceFlavor", namespaced=False),
            Kind("workloadpriorityclasses", "WorkloadPriorityClass", namespaced=False),
        ),
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(GROUP, ("workloads",), (*FOLLOW, "patch", "delete"), "Queue a job.", NAME, implied=CREATED_BY_APPLY),
        Rule(GROUP, ("workloads/status",), ("patch",), "Tell Kueue how a queued job fares.", NAME),
        Rule(
            GROUP,
            ("resourceflavors", "workloadpriorityclasses"),
            ("get",),
            "Read where and when Kueue admits.",
            NAME,
            Scope.CLUSTER,
        ),
        Rule(
            "scheduling.k8s.io",
            ("priorityclasses",),
            ("get",),
            "Queue a job at the priority of its pods.",
            NAME,
            Scope.CLUSTER,
        ),
    )

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(surroundings)
        self.store: Store[WorkloadView] = Store(view_workload, {OWNER_UID: by_owner_uid})
        self._lookup = QueueLookup(surroundings)

    @cached_property
    def reflectors(self) -> tuple[NeighbourReflector[Any], ...]:
        """The cache of Workloads."""
        around = self._surroundings
        return (
            NeighbourReflector(
                around.client,
                around.discovery,
                NAME,
                "workloads",
                self.store,
                namespace=around.namespace,
                labels=MANAGED,
            ),
        )

    async def admit(self, job: JobPass) -> QueueDecision | None:
        """Decide by the job's Workload; None for a job without a queue that has never had one."""
        workload = self._workload(job)
        if not job.labels.get(QUEUE_LABEL) and workload is None:
            return None
        (reflector,) = self.reflectors
        observed = await self._lookup.look(job, workload, reflector)
        return plan_queue(observed, suspended=job.spec.suspend, end=job.end, now=job.now)

    def placed(self, spec: RLJobSpec, admission: AdmissionStatus) -> RLJobSpec:
        """Return the spec with the admission's node selectors, tolerations, labels and counts."""
        return placed(spec, admission)

    def _workload(self, job: JobPass) -> WorkloadView | None:
        """Return the job's Workload; of several, the one that is not being deleted."""
        owner = job.owner
        found = self.store.by_index(OWNER_UID, owner.uid, owner.namespace)
        return min(found, key=lambda each: (each.deleting, each.name != workload_name(owner)), default=None)
