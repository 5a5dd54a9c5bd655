"""KubeRay: trainers on a RayCluster."""
