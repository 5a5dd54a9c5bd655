"""What the operator knows of the cluster: one cache per kind, kept by reflectors."""

from dataclasses import replace
from typing import Any

from shoal.api import labels
from shoal.api.labels import SPEC_HASH
from shoal.builders.hashing import spec_hash
from shoal.controllers.fields import last_manager, reflects_scale, scaled_from_outside
from shoal.engine.store import OWNER_UID, Store, by_label, by_owner_uid
from shoal.neighbours.registry import Neighbourhood
from shoal.planner.drift import LiveChild
from shoal.planner.observed import PodView, view
from shoal.planner.tokens import TokenView, view_token

Json = dict[str, Any]


ROOT_UID = "root"
"""Index of pods that another operator makes for us, by the UID of the Shoal resource behind them."""
REFLECTED = "reflectedReplicas"
"""Key under which a trimmed pool or fleet keeps the size that the operator itself wrote into its spec."""
SCALED = "scaledFromOutside"
"""Key under which a trimmed pool or fleet keeps whether its size came by the scale subresource."""
CHANGED_BY = "changedBy"
"""Key under which a trimmed custom resource keeps the manager that last wrote to it."""


def trim_pod(pod: Json) -> PodView:
    """A pod as plans see it (about a tenth of what the API returns)."""
    return view(pod)


def trim_child(body: Json) -> LiveChild:
    """A Service or NetworkPolicy as it is compared with the built one."""
    metadata = body["metadata"]
    kept = {key: value for key, value in metadata.items() if key != "managedFields"}
    content = {key: value for key, value in body.items() if key not in ("metadata", "status")}
    return LiveChild({**content, "metadata": kept}, metadata.get("resourceVersion", ""), last_manager(metadata))


def trim_secret(body: Json) -> TokenView:
    """A Secret with a token, or with a part of a configuration, of which the hash is enough."""
    digest = (body["metadata"].get("annotations") or {}).get(SPEC_HASH)
    if digest is None:
        return view_token(body)
    # Items of a list do not say what they are.
    content = {"apiVersion": "v1", "kind": "Secret", "type": body.get("type"), "data": body.get("data")}
    same = spec_hash(content) == digest
    return replace(view_token({"metadata": body["metadata"]}), config=digest if same else "")


def trim_resource(body: Json) -> Json:
    """A custom resource without its managed fields, which are large and decide nothing.

    One that was stored under a schema without validation may lack its spec, or have anything for a status.
    """
    metadata = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
    status = body.get("status")
    trimmed = {"spec": {}, **body, "metadata": metadata, "status": status if isinstance(status, dict) else {}}
    spec = trimmed["spec"]
    if isinstance(spec, dict) and reflects_scale(body["metadata"]):
        # Nobody's wish: to plans it is a size that is not set.
        trimmed[REFLECTED] = spec.get("replicas")
        trimmed["spec"] = {key: value for key, value in spec.items() if key != "replicas"}
    trimmed[SCALED] = scaled_from_outside(body["metadata"])
    return {**trimmed, CHANGED_BY: last_manager(body["metadata"])}


class World:
    """The caches. Pods and children are found by the UID of their owner, never by name alone.

    And in its namespace alone: whoever may read a UID could else pass off a pod of another namespace as a broker.
    """

    def __init__(self, neighbours: Neighbourhood) -> None:
        owned = {OWNER_UID: by_owner_uid}
        by_maker = {ROOT_UID: by_label(labels.OWNER_UID), **neighbours.pod_indexes}
        self._neighbours = neighbours
        self.pods: Store[PodView] = Store(trim_pod, owned | by_maker)
        self.services: Store[LiveChild] = Store(trim_child, owned)
        self.tokens: Store[TokenView] = Store(trim_secret, owned)
        self.policies: Store[LiveChild] = Store(trim_child, owned)
        self.pools: Store[Json] = Store(trim_resource, owned)
        self.fleets: Store[Json] = Store(trim_resource, owned)
        self.jobs: Store[Json] = Store(trim_resource)

    def pods_of(self, namespace: str, uid: str) -> list[PodView]:
        """Pods that the resource with this UID controls."""
        return self.pods.by_index(OWNER_UID, uid, namespace)

    def workers_of(self, namespace: str, uid: str) -> list[PodView]:
        """As `pods_of`, with one pod for each object that the resource owns in a pod's place."""
        return self.pods_of(namespace, uid) + self._neighbours.pods_of(self.pods, namespace, uid)

    def job_pods(self, namespace: str, uid: str) -> list[PodView]:
        """Pods of the job with this UID, and of the pools and fleets that it owns."""
        pods = self.pods_of(namespace, uid)
        for owned in (self.pools, self.fleets):
            for body in owned.by_index(OWNER_UID, uid, namespace):
                pods = pods + self.workers_of(namespace, body["metadata"]["uid"])
        return pods

    def children_of(self, namespace: str, uid: str) -> dict[tuple[str, str], LiveChild | str]:
        """What the resource with this UID controls by (kind, name), less pods, their makers and Workloads.

        Of a RayCluster the hash alone, because KubeRay's autoscaler writes into its spec.
        """
        present: dict[tuple[str, str], LiveChild | str] = {}
        for kind, store in (("Service", self.services), ("NetworkPolicy", self.policies)):
            for child in store.by_index(OWNER_UID, uid, namespace):
                present[(kind, child.body["metadata"]["name"])] = child
        secrets = self.tokens.by_index(OWNER_UID, uid, namespace)
        present |= {("Secret", held.name): held.config or "" for held in secrets}
        present |= self._neighbours.children_of(namespace, uid)
        for kind, resources in (("EnvironmentPool", self.pools), ("RolloutFleet", self.fleets)):
            for body in resources.by_index(OWNER_UID, uid, namespace):
                metadata = body["metadata"]
                live = LiveChild(body, metadata.get("resourceVersion", ""), body[CHANGED_BY])
                present[(kind, metadata["name"])] = live
        return present

    def tokens_of(self, namespace: str, uid: str) -> list[TokenView]:
        """The Secrets with tokens that the resource with this UID controls."""
        held = self.tokens.by_index(OWNER_UID, uid, namespace)
        return [each for each in held if each.config is None]

    def taken_by(self, namespace: str, uid: str, secret: str) -> tuple[str, ...]:
        """The tokens in one of its Secrets that its services take, newest first; none until the Secret is there."""
        return next((held.taken for held in self.tokens_of(namespace, uid) if held.name == secret), ())
