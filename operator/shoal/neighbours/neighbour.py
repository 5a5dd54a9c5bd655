"""What Shoal asks of its neighbours: one small interface, every part of which a neighbour may leave out.

A neighbour is another operator that Shoal works with where it is installed. All that Shoal knows of one stands in one
folder beside this file: what must be served for it to count as installed, the permissions that it takes, its caches,
its objects and its decisions. `registry.py` names the folders; planner, builders, engine and kube know none of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from shoal.api.labels import MANAGED_BY, MANAGER
from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec
from shoal.api.v1alpha1.jobqueue import AdmissionStatus
from shoal.api.v1alpha1.jobstatus import RLJobStatus
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.api.v1alpha1.rolloutfleet import WorkerGroup
from shoal.builders.images import Images
from shoal.builders.owner import Owner
from shoal.engine.clock import Clock
from shoal.engine.visitor import NeighbourReflector
from shoal.kube.client import KubeClient
from shoal.kube.discovery import Discovery, Need
from shoal.kube.permissions import Rule
from shoal.planner.admission import QueueDecision
from shoal.planner.conditions import Verdict
from shoal.planner.observed import PodView
from shoal.planner.rayview import RayView

Json = dict[str, Any]
Manifest = dict[str, Any]

MANAGED = f"{MANAGED_BY}={MANAGER}"
"""Label selection of the objects that the operator made."""


@dataclass(frozen=True)
class Surroundings:
    """What every neighbour works with.

    Args:
        client: the way to the API server.
        discovery: which neighbours are installed.
        images: image of each role.
        clock: the operator's clock.
        namespace: the one namespace that the operator works in; None for all.
    """

    client: KubeClient
    discovery: Discovery
    images: Images
    clock: Clock
    namespace: str | None = None


@dataclass(frozen=True)
class JobPass:
    """One pass over a job, as its neighbours see it.

    Args:
        owner: identity of the job.
        labels: the job's labels.
        spec: its spec.
        status: its status of an earlier pass.
        end: the verdict that ended the job; None while it goes on.
        now: seconds since the epoch.
        pods: gives the pods of the job and of the pools and fleets that it owns.
        unseen: gives how many clusters of pods other neighbours run for the job; Shoal does not see these pods.
        refusal: gives why the API server refused the job's child of a kind when it was last applied, "" when it did
            not.
    """

    owner: Owner
    labels: Mapping[str, str]
    spec: RLJobSpec
    status: RLJobStatus
    end: Verdict | None
    now: float
    pods: Callable[[], list[PodView]]
    unseen: Callable[[], int]
    refusal: Callable[[str], str]


class Neighbour:
    """One neighbour. Every hook does nothing until a neighbour overrides it."""

    need: ClassVar[Need]
    """What must be served for the neighbour to count as installed."""
    rules: ClassVar[tuple[Rule, ...]] = ()
    """Permissions that the operator needs where the neighbour is installed."""
    dependency: ClassVar[str] = ""
    """Kind of an object that a job may name although Shoal does not own it; its changes wake the jobs that use it."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings

    @cached_property
    def reflectors(self) -> tuple[NeighbourReflector[Any], ...]:
        """The caches of this neighbour's objects; made once."""
        return ()

    # --- pods

    def member(self, owner: Owner, spec: EnvironmentPoolSpec, pod: Manifest) -> Manifest | None:
        """Return the object that a pool creates in place of a member's pod; None to leave the pod as it is."""

    def engine(self, owner: Owner, group: WorkerGroup, pod: Manifest) -> Manifest | None:
        """Return the object that a fleet creates in place of an engine's pod; None to leave the pod as it is."""

    # --- jobs

    async def admit(self, job: JobPass) -> QueueDecision | None:
        """Decide whether the job may run now; None where this neighbour does not queue the job."""

    def placed(self, spec: RLJobSpec, admission: AdmissionStatus) -> RLJobSpec:
        """Return the spec with what an admission adds to the job's templates."""
        return spec

    def ray_cluster(self, job: JobPass) -> RayView | None:
        """Return the Ray cluster that the job's trainer joins; None where the job names none of this neighbour's."""

    def uses(self, body: Json, name: str) -> bool:
        """Return whether a job, which may not validate, uses the `dependency` of this name."""
        return False

    def job_children(self, owner: Owner, spec: RLJobSpec, *, resting: bool) -> list[Manifest]:
        """Return further objects that the job owns; `resting` while it is suspended or over."""
        return []

    def trainer(self, spec: RLJobSpec, ray: RayView) -> RLJobSpec:
        """Return the spec with what the trainer's pod needs beside this Ray cluster."""
        return spec

    def children_of(self, namespace: str, uid: str) -> dict[tuple[str, str], str]:
        """Return (kind, name) -> hash of the objects that a resource owns, as this neighbour's caches show them."""
        return {}

    def unseen(self, namespace: str, uid: str) -> int:
        """Return how many clusters of pods this neighbour runs for a job."""
        return 0
