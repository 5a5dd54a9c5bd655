"""What Shoal knows of KubeRay."""

from functools import cached_property
from typing import Any, ClassVar

from shoal.api.tolerant import part
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.builders.owner import Owner
from shoal.engine.keys import ObjectKey
from shoal.engine.store import OWNER_UID, Store, by_owner_uid
from shoal.engine.visitor import NeighbourReflector, Sight
from shoal.kube.discovery import Kind, Need
from shoal.kube.permissions import CREATED_BY_APPLY, FOLLOW, Rule
from shoal.neighbours.kuberay.cluster import GROUP, KIND, build_ray_cluster, cluster_name, with_token
from shoal.neighbours.kuberay.decisions import RayClusterView, see_cluster, view_ray_cluster
from shoal.neighbours.neighbour import JobPass, Json, Manifest, Neighbour, Surroundings
from shoal.planner.rayview import RayView

NAME = "kuberay"


class KubeRay(Neighbour):
    """KubeRay: a job's trainer joins a RayCluster that the job owns or names."""

    need: ClassVar[Need] = Need(NAME, GROUP, ("v1",), (Kind("rayclusters", KIND),))
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(GROUP, ("rayclusters",), (*FOLLOW, "patch"), "Train on a RayCluster.", NAME, implied=CREATED_BY_APPLY),
    )
    dependency: ClassVar[str] = KIND

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(surroundings)
        self.store: Store[RayClusterView] = Store(view_ray_cluster, {OWNER_UID: by_owner_uid})

    @cached_property
    def reflectors(self) -> tuple[NeighbourReflector[Any], ...]:
        """The cache of RayClusters; not by label, because a job may train on one that somebody else made."""
        around = self._surroundings
        return (
            NeighbourReflector(
                around.client, around.discovery, NAME, "rayclusters", self.store, namespace=around.namespace
            ),
        )

    def ray_cluster(self, job: JobPass) -> RayView | None:
        """Return the cluster that the job names or owns, as far as it can be seen."""
        name = cluster_name(job.owner.name, job.spec)
        if not name:
            return None
        (reflector,) = self.reflectors
        field = "trainer.ray.clusterRef" if job.spec.trainer.ray.cluster_ref else "trainer.ray.cluster"
        sight = reflector.sight
        if sight is Sight.ABSENT:
            message = f"{field} needs KubeRay, which is not installed (no RayCluster in this cluster)"
            return RayView(True, "", False, "KubeRayAbsent", message)
        if sight is not Sight.CLEAR:
            message = f"{field}: {reflector.refusal or 'the RayClusters there are have not been read yet'}"
            return RayView(True, "", False, f"KubeRay{sight}", message, known=False)
        refusal = job.refusal(KIND)
        if refusal:
            return RayView(True, "", False, "RayClusterRefused", f"{field}.template.spec: {refusal}")
        namespace = job.owner.namespace
        return see_cluster(name, namespace, self.store.get(ObjectKey(namespace, name)))

    def uses(self, body: Json, name: str) -> bool:
        """Return whether the job names, or owns, the RayCluster of this name."""
        reference = part(body, "spec", "trainer", "ray", "clusterRef")
        return name == (reference.get("name") or f"{body['metadata']['name']}-ray")

    def job_children(self, owner: Owner, spec: RLJobSpec, *, resting: bool) -> list[Manifest]:
        """Return the RayCluster that the job owns, suspended while the job rests."""
        return build_ray_cluster(owner, spec, self._surroundings.images, resting=resting)

    def trainer(self, spec: RLJobSpec, ray: RayView) -> RLJobSpec:
        """Return the spec with the token that the cluster asks of drivers."""
        template = with_token(spec.trainer.template, ray.token_secret)
        return spec.model_copy(update={"trainer": spec.trainer.model_copy(update={"template": template})})

    def children_of(self, namespace: str, uid: str) -> dict[tuple[str, str], str]:
        """Return the RayClusters that a job owns."""
        return {(KIND, each.name): each.spec_hash for each in self.store.by_index(OWNER_UID, uid, namespace)}

    def unseen(self, namespace: str, uid: str) -> int:
        """Return how many of the job's RayClusters have, or are about to have, pods."""
        return sum(cluster.pods for cluster in self.store.by_index(OWNER_UID, uid, namespace))
