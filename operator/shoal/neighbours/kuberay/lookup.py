"""What a pass over a job must know of KubeRay: the RayCluster that the trainer joins."""

from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.builders.owner import Owner
from shoal.controllers.world import World
from shoal.engine.keys import ObjectKey
from shoal.engine.visitor import NeighbourReflector, Sight
from shoal.neighbours.kuberay.cluster import cluster_name
from shoal.neighbours.kuberay.decisions import NO_CLUSTER, RayClusterView, RayView, see_cluster


class RayDesk:
    """Sees RayClusters from the cache."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reflector: NeighbourReflector[RayClusterView] | None = None

    def follow(self, reflector: NeighbourReflector[RayClusterView]) -> None:
        """Take `reflector` as the one that fills the cache of RayClusters."""
        self._reflector = reflector

    def look(self, owner: Owner, spec: RLJobSpec, refusal: str) -> RayView:
        """The cluster of a job.

        Args:
            owner: the job.
            spec: its spec.
            refusal: why the API server refused to store the RayCluster that the job owns, "" when it did not.
        """
        name = cluster_name(owner.name, spec)
        if not name:
            return NO_CLUSTER
        field = "trainer.ray.clusterRef" if spec.trainer.ray.cluster_ref else "trainer.ray.cluster"
        sight = self._reflector.sight if self._reflector is not None else Sight.ABSENT
        if sight is Sight.ABSENT:
            message = f"{field} needs KubeRay, which is not installed (no RayCluster in this cluster)"
            return RayView(True, "", False, "KubeRayAbsent", message)
        if sight is not Sight.CLEAR:
            reason = self._reflector.refusal if self._reflector is not None else ""
            message = f"{field}: {reason or 'the RayClusters there are have not been read yet'}"
            return RayView(True, "", False, f"KubeRay{sight}", message, known=False)
        if refusal:
            return RayView(True, "", False, "RayClusterRefused", f"{field}.template.spec: {refusal}")
        return see_cluster(name, owner.namespace, self._world.ray_clusters.get(ObjectKey(owner.namespace, name)))
