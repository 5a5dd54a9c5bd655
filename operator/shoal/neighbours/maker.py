"""The kinds of other operators that pods are made from: whether they can be used now, and what is expected of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal.engine.expectations import Expectations
from shoal.engine.visitor import NeighbourReflector
from shoal.kube.discovery import Neighbour, Neighbours
from shoal.kube.resources import Resource
from shoal.planner.holders import LEADER_WORKER_SET, SANDBOX, Blocked

ExpectedBy = tuple[str, str]
"""(owner's UID, role): what creations are counted under."""


@dataclass(frozen=True)
class _Kind:
    neighbour: Neighbour
    plural: str
    project: str
    field: str


_KINDS: Mapping[str, _Kind] = {
    SANDBOX: _Kind(Neighbour.AGENT_SANDBOX, "sandboxes", "kubernetes-sigs/agent-sandbox", "spec.backend AgentSandbox"),
    LEADER_WORKER_SET: _Kind(
        Neighbour.LEADER_WORKER_SET, "leaderworkersets", "kubernetes-sigs/lws", "spec.workerGroups[].nodes above 1"
    ),
}


class Holders:
    """Sandboxes and LeaderWorkerSets, as the cluster offers them."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours
        # Of their own, because a Sandbox and its pod have one name: the pod's arrival must not settle the Sandbox's.
        self._expectations: dict[str, Expectations[ExpectedBy]] = {kind: Expectations() for kind in _KINDS}
        self._reflectors: dict[str, NeighbourReflector[Any]] = {}

    def follow(self, kind: str, reflector: NeighbourReflector[Any]) -> None:
        """Take `reflector` as the one that fills the cache of this kind."""
        self._reflectors[kind] = reflector
        reflector.on_change(self._expectations[kind].observe)

    def expectations(self) -> list[Expectations[ExpectedBy]]:
        """What was asked for of every kind and its cache does not show yet."""
        return list(self._expectations.values())

    def expectations_of(self, kind: str) -> Expectations[ExpectedBy]:
        """As `expectations`, of one kind."""
        return self._expectations[kind]

    def resource(self, kind: str) -> Resource | None:
        """The kind in the version that the server speaks; None while it is not served."""
        known = _KINDS[kind]
        return self._neighbours.resource(known.neighbour, known.plural)

    def blocked(self, kind: str) -> Blocked | None:
        """Why nothing can be made of this kind now, or None.

        Without a complete list nobody knows how many there are, and whoever creates then creates too many.
        """
        known, reflector = _KINDS[kind], self._reflectors.get(kind)
        if not self._neighbours.available(known.neighbour):
            return Blocked("BackendMissing", f"{known.field} needs {known.project}, which is not installed (no {kind})")
        if reflector is None or reflector.complete:
            return None
        if reflector.refusal:
            return Blocked("BackendForbidden", f"{known.field}: {reflector.refusal}")
        return Blocked("BackendNotRead", f"{known.field}: the {known.plural} there are have not been read yet")


PLURALS: Mapping[str, tuple[Neighbour, str]] = {kind: (known.neighbour, known.plural) for kind, known in _KINDS.items()}
"""Kind -> the neighbour that serves it, and the word in paths."""
