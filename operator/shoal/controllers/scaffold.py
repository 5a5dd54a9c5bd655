"""One pass over a resource of any kind: observe, build, plan, carry out, report.

A kind fills the steps; what they have in common stands here once: a resource that is gone, a spec that does not
validate, the service that answers for the resource, and the line that says what a pass decided.
"""

import json
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from shoal.builders.owner import Owner
from shoal.controllers.context import Context, service_of, url_of
from shoal.controllers.effects import Subject
from shoal.engine.keys import ObjectKey
from shoal.engine.manager import Result
from shoal.engine.scrape import Target
from shoal.engine.store import Store
from shoal.kube.resources import Resource
from shoal.planner.actions import Event, Plan
from shoal.planner.observed import PodView, Reading

log = logging.getLogger(__name__)
Json = dict[str, Any]

SpecT = TypeVar("SpecT", bound=BaseModel)
DesiredT = TypeVar("DesiredT")
ObservedT = TypeVar("ObservedT")
MessageT = TypeVar("MessageT", bound=BaseModel)
ReadingT = TypeVar("ReadingT")

STALE_SECONDS = 15.0
"""A service that has not answered for this long is reported as not ready, and its last report decides nothing more."""


@dataclass(frozen=True)
class Pass(Generic[SpecT]):
    """What one pass is about.

    Args:
        owner: identity of the resource.
        body: the resource as the cache shows it.
        spec: its spec.
        pods: the pods that it controls, or that neighbours make for it.
    """

    owner: Owner
    body: Json
    spec: SpecT
    pods: list[PodView]

    @property
    def generation(self) -> int:
        """The generation of the spec."""
        return int(self.body["metadata"].get("generation", 0))


class KindController(ABC, Generic[SpecT, DesiredT, ObservedT]):
    """Reconciles the resources of one kind."""

    resource: ClassVar[Resource]
    spec: type[SpecT]
    role: ClassVar[str]
    """Role of the pod whose service answers for the resource."""
    message: ClassVar[type[BaseModel]]
    """What that service reports."""

    def __init__(self, context: Context) -> None:
        self._context = context

    # --- what a kind fills in

    @property
    @abstractmethod
    def store(self) -> Store[Json]:
        """The cache of the kind's resources."""

    @abstractmethod
    def owner(self, key: ObjectKey, uid: str) -> Owner:
        """Return the identity of a resource."""

    @abstractmethod
    async def observe(self, at: Pass[SpecT]) -> ObservedT:
        """Return what the caches and the service say; the only step that may wait."""

    @abstractmethod
    def build(self, at: Pass[SpecT], observed: ObservedT) -> DesiredT:
        """Return every object that the resource wants."""

    @abstractmethod
    def plan(self, at: Pass[SpecT], desired: DesiredT, observed: ObservedT) -> Plan:
        """Return what to do and what to report."""

    def ours(self, body: Json) -> bool:
        """Return whether this operator looks after the resource."""
        return True

    def targets(self, pods: list[PodView]) -> dict[str, Target]:
        """Return whose status to read, by the name under which it is kept."""
        service = service_of(pods, self.role)
        return {self.role: Target(url_of(service), self.message)} if service else {}

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a resource that is gone."""

    # --- the pass

    async def reconcile(self, key: ObjectKey) -> Result:
        """Make one pass; a resource that is gone needs none, because its children are garbage collected."""
        body = self.store.get(key)
        if body is None or "deletionTimestamp" in body["metadata"] or not self.ours(body):
            return Result()
        context = self._context
        owner = self.owner(key, body["metadata"]["uid"])
        pods = context.explained(owner, context.world.workers_of(owner.namespace, owner.uid))
        service = service_of(pods, self.role)
        tokens = context.world.taken_by(owner.namespace, owner.uid, owner.secret)
        subject = Subject(owner, self.resource, service.ip if service else "", tokens)
        try:
            spec = self.spec.model_validate(body["spec"])
        except ValidationError as error:
            await context.reject(subject, body, error)
            return Result()
        context.scraper.set_targets(owner.uid, self.targets(pods))
        at = Pass(owner, body, spec, pods)
        observed = await self.observe(at)
        plan = self.plan(at, self.build(at, observed), observed)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("decided %s", json.dumps(decided(owner, plan), sort_keys=True))
        return await context.carry_out(subject, body, plan)

    def read(
        self, uid: str, message: type[MessageT], read: Callable[[MessageT], ReadingT], *, stale: float = STALE_SECONDS
    ) -> Reading[ReadingT]:
        """Return the service's report as plans see it.

        Args:
            uid: of the resource.
            message: the type of the report.
            read: cuts a report down to what decides.
            stale: seconds after which a report decides nothing more.
        """
        seen = self._context.scraper.get(uid, self.role)
        if seen is None or not isinstance(seen.value, message):
            return Reading(error=seen.error if seen else "")
        age = seen.age(self._context.clock.now())
        return Reading(read(seen.value) if age < stale else None, age, seen.error)


def decided(owner: Owner, plan: Plan) -> Json:
    """Return what a pass decided, for one structured log line: each kind of action with its number, and the events."""
    actions = Counter(type(action).__name__ for action in plan.actions if not isinstance(action, Event))
    events = [f"{action.reason}: {action.message}" for action in plan.actions if isinstance(action, Event)]
    sizes = {name: value for name, value in plan.status.items() if name in _SIZES}
    again = None if plan.requeue_after is None else round(plan.requeue_after, 3)
    return {
        "kind": owner.kind,
        "namespace": owner.namespace,
        "name": owner.name,
        "actions": dict(actions),
        "events": events,
        "status": sizes,
        "againInSeconds": again,
    }


_SIZES = ("desiredReplicas", "replicas", "readyReplicas", "phase", "step")
"""Fields of the status that say what a pass aims at and what is there."""
