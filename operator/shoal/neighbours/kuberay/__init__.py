"""KubeRay: trainers on a RayCluster."""

from shoal.neighbours.kuberay.neighbour import KubeRay

__all__ = ["KubeRay"]
