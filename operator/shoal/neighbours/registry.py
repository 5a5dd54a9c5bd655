"""All neighbours, one line each, and their hooks folded into one."""

from collections.abc import Iterable, Mapping
from typing import Any

from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.api.v1alpha1.rolloutfleet import WorkerGroup
from shoal.builders.owner import Owner
from shoal.engine.expectations import Expectations
from shoal.engine.store import Index, Store
from shoal.engine.visitor import NeighbourReflector
from shoal.kube.discovery import Need
from shoal.kube.permissions import RULES, Rule
from shoal.kube.resources import Resource
from shoal.neighbours.kuberay import KubeRay
from shoal.neighbours.kueue import Kueue
from shoal.neighbours.lws import LeaderWorkerSets
from shoal.neighbours.maker import ExpectedBy, Maker
from shoal.neighbours.neighbour import JobPass, Manifest, Neighbour, Surroundings
from shoal.neighbours.prometheus import PrometheusOperator
from shoal.neighbours.sandbox import AgentSandbox
from shoal.planner.admission import NO_QUEUE, QueueDecision
from shoal.planner.holders import Blocked
from shoal.planner.observed import PodView
from shoal.planner.rayview import NO_CLUSTER, RayView

NEIGHBOURS: tuple[type[Neighbour], ...] = (
    Kueue,
    KubeRay,
    AgentSandbox,
    LeaderWorkerSets,
    PrometheusOperator,
)

NEEDS: tuple[Need, ...] = tuple(each.need for each in NEIGHBOURS)
"""What discovery looks for."""
ALL_RULES: tuple[Rule, ...] = (*RULES, *(rule for each in NEIGHBOURS for rule in each.rules))
"""Every permission that the operator needs, with all neighbours installed."""


def rules_for(neighbours: Iterable[str] = ()) -> list[Rule]:
    """Return the rules that are needed beside the neighbours of these names."""
    present = set(neighbours)
    return [rule for rule in ALL_RULES if not rule.when or rule.when in present]


class Neighbourhood:
    """All neighbours of one operator."""

    def __init__(self, surroundings: Surroundings, neighbours: Iterable[type[Neighbour]] = NEIGHBOURS) -> None:
        self._discovery = surroundings.discovery
        self.all: list[Neighbour] = [neighbour(surroundings) for neighbour in neighbours]
        self._makers = {each.kind: each for each in self.all if isinstance(each, Maker)}

    @property
    def reflectors(self) -> list[NeighbourReflector[Any]]:
        """The caches of all neighbours."""
        return [reflector for each in self.all for reflector in each.reflectors]

    @property
    def installed(self) -> list[str]:
        """Names of the neighbours that are installed."""
        return [each.need.name for each in self.all if self._discovery.available(each.need.name)]

    def resource(self, kind: str) -> Resource | None:
        """Return the API of a neighbour's kind in the version that the server speaks; None while it is not served."""
        return self._discovery.by_kind(kind)

    # --- pods that neighbours make

    @property
    def pod_indexes(self) -> Mapping[str, Index]:
        """Indexes of the cache of pods by which neighbours find the pods that they make."""
        return {name: index for maker in self._makers.values() for name, index in maker.pod_indexes.items()}

    def member(self, owner: Owner, spec: EnvironmentPoolSpec, pod: Manifest) -> Manifest:
        """Return what the pool creates for a member: its pod, or a neighbour's object in its place."""
        made = (each.member(owner, spec, pod) for each in self.all)
        return next((manifest for manifest in made if manifest is not None), pod)

    def engine(self, owner: Owner, group: WorkerGroup, pod: Manifest) -> Manifest:
        """Return what the fleet creates for an engine: its pod, or a neighbour's object in its place."""
        made = (each.engine(owner, group, pod) for each in self.all)
        return next((manifest for manifest in made if manifest is not None), pod)

    def pods_of(self, pods: Store[PodView], namespace: str, uid: str) -> list[PodView]:
        """Return one pod for each object in a pod's place that the resource with this UID owns."""
        return [view for maker in self._makers.values() for view in maker.pods_of(pods, namespace, uid)]

    def blocked(self, manifests: Iterable[Manifest]) -> Blocked | None:
        """Return why objects like these can be neither counted nor made now, or None."""
        kinds = {manifest["kind"] for manifest in manifests}
        return next((why for kind, maker in self._makers.items() if kind in kinds and (why := maker.blocked())), None)

    def expectations(self) -> list[Expectations[ExpectedBy]]:
        """Return what was asked for of every kind and its cache does not show yet."""
        return [maker.expectations for maker in self._makers.values()]

    def expectations_of(self, kind: str) -> Expectations[ExpectedBy]:
        """Return the same of one kind."""
        return self._makers[kind].expectations

    # --- jobs

    async def admit(self, job: JobPass) -> QueueDecision:
        """Decide whether the job may run now; the first neighbour that queues the job decides."""
        for each in self.all:
            decision = await each.admit(job)
            if decision is not None:
                return decision
        return NO_QUEUE

    def placed(self, spec: RLJobSpec, decision: QueueDecision) -> RLJobSpec:
        """Return the spec with what the job's admission adds to its templates."""
        if decision.admission is not None:
            for each in self.all:
                spec = each.placed(spec, decision.admission)
        return spec

    def ray_cluster(self, job: JobPass) -> RayView:
        """Return the Ray cluster that the job's trainer joins."""
        views = (each.ray_cluster(job) for each in self.all)
        return next((view for view in views if view is not None), NO_CLUSTER)

    def job_children(self, owner: Owner, spec: RLJobSpec, *, resting: bool) -> list[Manifest]:
        """Return the objects that neighbours have the job own."""
        return [child for each in self.all for child in each.job_children(owner, spec, resting=resting)]

    def trainer(self, spec: RLJobSpec, ray: RayView) -> RLJobSpec:
        """Return the spec with what the trainer's pod needs beside this Ray cluster."""
        for each in self.all:
            spec = each.trainer(spec, ray)
        return spec

    def children_of(self, namespace: str, uid: str) -> dict[tuple[str, str], str]:
        """Return (kind, name) -> hash of the neighbours' objects that a resource owns."""
        found: dict[tuple[str, str], str] = {}
        for each in self.all:
            found |= each.children_of(namespace, uid)
        return found

    def unseen(self, namespace: str, uid: str) -> int:
        """Return how many clusters of pods neighbours run for a job."""
        return sum(each.unseen(namespace, uid) for each in self.all)
