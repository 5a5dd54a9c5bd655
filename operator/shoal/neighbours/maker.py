"""Neighbours whose objects stand for pods: their controllers make a pod from each object that Shoal creates."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

from shoal.api.labels import ROLE
from shoal.engine.expectations import Expectations
from shoal.engine.store import OWNER_UID, Index, Store, by_owner_uid
from shoal.engine.visitor import NeighbourReflector
from shoal.neighbours.neighbour import Json, Neighbour, Surroundings
from shoal.planner.holders import Blocked, Held, as_pod
from shoal.planner.observed import PodView

ExpectedBy = tuple[str, str]
"""(owner's UID, role): what creations are counted under."""


class Maker(Neighbour):
    """A neighbour that makes pods."""

    kind: ClassVar[str]
    """Kind of the object that stands for a pod."""
    plural: ClassVar[str]
    project: ClassVar[str]
    """The project to install, as messages name it."""
    field: ClassVar[str]
    """The field of Shoal's spec that asks for it, as messages name it."""
    pod_indexes: ClassVar[Mapping[str, Index]] = {}
    """Indexes of the cache of pods that `_pods` uses."""

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(surroundings)
        # Of its own, because a Sandbox and its pod have one name: the pod's arrival must not settle the Sandbox's.
        self.expectations: Expectations[ExpectedBy] = Expectations()
        self.store: Store[Held] = Store(self.read, {OWNER_UID: by_owner_uid})

    @staticmethod
    def read(body: Json) -> Held:
        """Cut an object down to what decisions need."""
        raise NotImplementedError

    def _pods(self, pods: Store[PodView], namespace: str, uid: str, held: Held) -> list[PodView]:
        """Return the pods that were made from an object of the resource with this UID."""
        raise NotImplementedError

    @cached_property
    def reflectors(self) -> tuple[NeighbourReflector[Any], ...]:
        """The cache of the objects."""
        around = self._surroundings
        reflector = NeighbourReflector(
            around.client,
            around.discovery,
            self.need.name,
            self.plural,
            self.store,
            namespace=around.namespace,
            labels=ROLE,
        )
        reflector.on_change(self.expectations.observe)
        return (reflector,)

    def pods_of(self, pods: Store[PodView], namespace: str, uid: str) -> list[PodView]:
        """Return one pod for each object that the resource with this UID owns."""
        held = self.store.by_index(OWNER_UID, uid, namespace)
        return [as_pod(each, self._pods(pods, namespace, uid, each)) for each in held]

    def blocked(self) -> Blocked | None:
        """Return why nothing can be made now, or None.

        Without a complete list nobody knows how many objects there are, and to create one may be to create too many.
        """
        (reflector,) = self.reflectors
        if not self._surroundings.discovery.available(self.need.name):
            text = f"{self.field} needs {self.project}, which is not installed (no {self.kind})"
            return Blocked("BackendMissing", text)
        if reflector.complete:
            return None
        if reflector.refusal:
            return Blocked("BackendForbidden", f"{self.field}: {reflector.refusal}")
        return Blocked("BackendNotRead", f"{self.field}: the {self.plural} there are have not been read yet")
