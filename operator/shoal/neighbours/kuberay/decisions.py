"""The RayCluster that a job trains on: whether it can be reached, and why not."""

from dataclasses import dataclass
from typing import Any

from shoal.api.labels import SPEC_HASH
from shoal.planner.rayview import RayView

CLIENT_PORT = "10001"
"""Ray's own default for drivers that run outside of the cluster."""


@dataclass(frozen=True)
class RayClusterView:
    """A RayCluster, cut down to what decides.

    Args:
        head: name of the head's Service, "" until KubeRay has made it.
        port: where the head listens for drivers from outside.
        ready: whether the head serves.
        pods: whether it has, or is about to have, pods.
        reason: KubeRay's own words where it is in trouble.
        token_secret: the Secret with the token that drivers need, "" where they need none.
        unsupported: what the cluster asks of drivers that Shoal's cannot do, "" for nothing.
    """

    name: str
    uid: str
    spec_hash: str
    deleting: bool
    suspended: bool = False
    head: str = ""
    port: str = CLIENT_PORT
    ready: bool = False
    pods: bool = False
    reason: str = ""
    token_secret: str = ""
    unsupported: str = ""


def view_ray_cluster(body: dict[str, Any]) -> RayClusterView:
    """The view of a RayCluster as the API server returns it."""
    metadata, status = body["metadata"], body.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    state = status.get("state", "")

    def true(type_: str) -> bool:
        return bool(conditions.get(type_, {}).get("status") == "True")

    spec = body.get("spec") or {}
    failure = conditions.get("ReplicaFailure", {})
    at_rest = state == "suspended" or true("RayClusterSuspended")
    return RayClusterView(
        name=metadata["name"],
        uid=metadata["uid"],
        spec_hash=(metadata.get("annotations") or {}).get(SPEC_HASH, ""),
        deleting="deletionTimestamp" in metadata,
        suspended=bool(spec.get("suspend")),
        head=(status.get("head") or {}).get("serviceName", ""),
        port=(status.get("endpoints") or {}).get("client", CLIENT_PORT),
        ready=true("HeadPodReady") or state == "ready",
        pods=bool(status) and not at_rest,
        reason=failure.get("message", "") if failure.get("status") == "True" else status.get("reason", ""),
        token_secret=_token_secret(metadata["name"], spec.get("authOptions") or {}),
        unsupported=_unsupported(spec),
    )


def _token_secret(name: str, options: dict[str, Any]) -> str:
    """By KubeRay's rule: a Secret of the cluster's name, unless one is named."""
    return (options.get("secretName") or name) if options.get("mode") == "token" else ""


def _unsupported(spec: dict[str, Any]) -> str:
    if (spec.get("authOptions") or {}).get("enableK8sTokenAuth"):
        return "authOptions.enableK8sTokenAuth needs a service-account token, which a trainer's pod does not have"
    if (spec.get("tlsOptions") or {}).get("enabled"):
        return "tlsOptions.enabled needs a client certificate, which a trainer's pod does not have"
    return ""


def see_cluster(name: str, namespace: str, cluster: RayClusterView | None) -> RayView:
    """What becomes of a cluster, None while there is none, for the job in this namespace that names it."""
    if cluster is None or cluster.deleting:
        return RayView(True, "", False, "RayClusterMissing", f"RayCluster {name} does not exist")
    if cluster.suspended:
        return RayView(True, "", False, "RayClusterSuspended", f"RayCluster {name} is suspended")
    if cluster.unsupported:
        return RayView(True, "", False, "RayClusterUnsupported", f"RayCluster {name}: {cluster.unsupported}")
    if not cluster.head:
        message = cluster.reason or "KubeRay has not made its head Service yet"
        return RayView(True, "", False, "RayClusterNotReady", f"RayCluster {name}: {message}")
    address = f"ray://{cluster.head}.{namespace}.svc:{cluster.port}"
    if not cluster.ready:
        message = cluster.reason or "its head is not ready"
        told = f"RayCluster {name}: {message}"
        return RayView(True, address, False, "RayClusterNotReady", told, token_secret=cluster.token_secret)
    return RayView(True, address, token_secret=cluster.token_secret)
