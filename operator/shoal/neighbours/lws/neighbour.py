"""What Shoal knows of LeaderWorkerSet."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from shoal.api import labels
from shoal.api.v1alpha1.rolloutfleet import WorkerGroup
from shoal.builders.owner import Owner
from shoal.engine.store import Index, Store
from shoal.kube.discovery import Kind, Need
from shoal.kube.permissions import FOLLOW, Rule
from shoal.neighbours.lws.manifest import GROUP, LEADER_WORKER_SET, group_of
from shoal.neighbours.maker import Maker
from shoal.neighbours.neighbour import Json, Manifest
from shoal.planner.holders import Held, read_holder
from shoal.planner.observed import PodView

NAME = "leaderworkerset"
SET_NAME = "leaderworkerset.sigs.k8s.io/name"
"""Label that LeaderWorkerSet puts on the pods of a set."""
SET = "set"
"""Index of a LeaderWorkerSet's pods, which StatefulSets own: by the fleet's UID and the set's name, used only once."""


def _by_set(body: Json) -> list[str]:
    found = body["metadata"].get("labels") or {}
    return [f"{found[labels.OWNER_UID]}/{found[SET_NAME]}"] if SET_NAME in found and labels.OWNER_UID in found else []


class LeaderWorkerSets(Maker):
    """LeaderWorkerSet: a worker group with `nodes` above 1 creates one set for each engine."""

    need: ClassVar[Need] = Need(NAME, GROUP, ("v1",), (Kind("leaderworkersets", LEADER_WORKER_SET),))
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(GROUP, ("leaderworkersets",), (*FOLLOW, "create", "delete"), "Spread an engine over several nodes.", NAME),
    )
    kind: ClassVar[str] = LEADER_WORKER_SET
    plural: ClassVar[str] = "leaderworkersets"
    project: ClassVar[str] = "kubernetes-sigs/lws"
    field: ClassVar[str] = "spec.workerGroups[].nodes above 1"
    pod_indexes: ClassVar[Mapping[str, Index]] = {SET: _by_set}

    def engine(self, owner: Owner, group: WorkerGroup, pod: Manifest) -> Manifest | None:
        """Return the set whose leader is the built engine, where an engine takes several nodes."""
        return group_of(owner, pod, group.nodes) if group.nodes > 1 else None

    @staticmethod
    def read(body: Json) -> Held:
        """Cut a set down; its leader is number 0, and a pod that has ended is replaced."""
        held = read_holder(LEADER_WORKER_SET, body)
        return replace(held, leader=f"{held.name}-0", remade=True)

    def _pods(self, pods: Store[PodView], namespace: str, uid: str, held: Held) -> list[PodView]:
        return pods.by_index(SET, f"{uid}/{held.name}", namespace)
