"""What the operator knows of the cluster: one cache per kind, kept by reflectors."""

from dataclasses import dataclass
from typing import Any

from shoal.api import labels
from shoal.api.labels import SPEC_HASH
from shoal.engine.store import OWNER_UID, Store, by_label, by_owner_uid
from shoal.neighbours.registry import Neighbourhood
from shoal.planner.observed import PodView, view
from shoal.planner.tokens import TokenView, view_token

Json = dict[str, Any]


ROOT_UID = "root"
"""Index of pods that another operator makes for us, by the UID of the Shoal resource behind them."""


@dataclass(frozen=True, slots=True)
class Child:
    """A Service or NetworkPolicy, cut down to what decides whether it is written again."""

    kind: str
    name: str
    spec_hash: str


def trim_pod(pod: Json) -> PodView:
    """A pod as plans see it (about a tenth of what the API returns)."""
    return view(pod)


def trim_child(kind: str) -> Any:
    """The trim function of a kind of child (its list items carry no kind of their own)."""

    def trim(body: Json) -> Child:
        metadata = body["metadata"]
        digest = (metadata.get("annotations") or {}).get(SPEC_HASH, "")
        return Child(kind, metadata["name"], digest)

    return trim


def trim_resource(body: Json) -> Json:
    """A custom resource without its managed fields, which are large and decide nothing.

    One that was stored under a schema without validation may lack its spec, or have anything for a status.
    """
    metadata = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
    status = body.get("status")
    return {"spec": {}, **body, "metadata": metadata, "status": status if isinstance(status, dict) else {}}


class World:
    """The caches. Pods and children are found by the UID of their owner, never by name alone.

    And in its namespace alone: whoever may read a UID could else pass off a pod of another namespace as a broker.
    """

    def __init__(self, neighbours: Neighbourhood) -> None:
        owned = {OWNER_UID: by_owner_uid}
        by_maker = {ROOT_UID: by_label(labels.OWNER_UID), **neighbours.pod_indexes}
        self._neighbours = neighbours
        self.pods: Store[PodView] = Store(trim_pod, owned | by_maker)
        self.services: Store[Child] = Store(trim_child("Service"), owned)
        self.tokens: Store[TokenView] = Store(view_token, owned)
        self.policies: Store[Child] = Store(trim_child("NetworkPolicy"), owned)
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

    def children_of(self, namespace: str, uid: str) -> dict[tuple[str, str], str]:
        """(kind, name) -> hash of what the resource with this UID controls, less pods, their makers and Workloads."""
        stores = (self.services, self.policies)
        children = [child for store in stores for child in store.by_index(OWNER_UID, uid, namespace)]
        present = {(child.kind, child.name): child.spec_hash for child in children}
        present |= {("Secret", held.name): "" for held in self.tokens_of(namespace, uid)}
        present |= self._neighbours.children_of(namespace, uid)
        for kind, resources in (("EnvironmentPool", self.pools), ("RolloutFleet", self.fleets)):
            for body in resources.by_index(OWNER_UID, uid, namespace):
                digest = (body["metadata"].get("annotations") or {}).get(SPEC_HASH, "")
                present[(kind, body["metadata"]["name"])] = digest
        return present

    def tokens_of(self, namespace: str, uid: str) -> list[TokenView]:
        """The Secrets with tokens that the resource with this UID controls."""
        return self.tokens.by_index(OWNER_UID, uid, namespace)

    def taken_by(self, namespace: str, uid: str, secret: str) -> tuple[str, ...]:
        """The tokens in one of its Secrets that its services take, newest first; none until the Secret is there."""
        return next((held.taken for held in self.tokens_of(namespace, uid) if held.name == secret), ())
