"""What every controller works with."""

import logging
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from shoal.api.addresses import http_url
from shoal.api.labels import PORTS, Role
from shoal.api.tolerant import read_conditions
from shoal.builders.images import Images
from shoal.builders.network import NetworkSettings
from shoal.builders.owner import Owner
from shoal.controllers.effects import Effects, Subject
from shoal.controllers.podevents import PodEvents
from shoal.controllers.status import StatusWriter
from shoal.controllers.world import World
from shoal.engine.clock import Clock
from shoal.engine.manager import Result
from shoal.engine.scrape import Scraper
from shoal.kube.errors import InvalidError
from shoal.neighbours.registry import Neighbourhood
from shoal.planner import conditions
from shoal.planner.actions import Plan
from shoal.planner.conditions import Verdict
from shoal.planner.observed import PodView
from shoal.planner.times import soonest
from shoal.planner.tokens import TokenPolicy, plan_tokens

log = logging.getLogger(__name__)
Json = dict[str, Any]


SERVICES = (Role.BROKER, Role.GATEWAY, Role.DATA)
SILENT_SECONDS = 5.0


@dataclass(frozen=True)
class Context:
    """The operator's parts, as controllers use them."""

    world: World
    effects: Effects
    scraper: Scraper[str]
    status: StatusWriter
    clock: Clock
    images: Images
    network: NetworkSettings
    tokens: TokenPolicy
    neighbours: Neighbourhood
    events: PodEvents

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self.clock.wall().timestamp()

    def explained(self, owner: Owner, pods: list[PodView]) -> list[PodView]:
        """The owner's pods, with what events say of those that do not start."""
        return self.events.explained(owner.uid, owner.namespace, pods, self.now)

    async def carry_out(self, subject: Subject, body: Json, plan: Plan) -> Result:
        """Report and do what a plan decided, renew tokens that are due, and say when to look again."""
        uid = subject.owner.uid
        held = self.world.tokens_of(subject.owner.namespace, uid)
        renewals, renewed_in = plan_tokens(held, self.tokens, self.now)
        await self.status.write(subject.resource, body, plan.status)
        refused = await self.effects.perform(subject, [*renewals, *plan.actions])
        again = soonest(plan.requeue_after, renewed_in, self.effects.refusals.retry_in(uid), self.events.due_in(uid))
        return Result(self._requeue(uid, again), refused)

    def _requeue(self, uid: str, seconds: float | None) -> float | None:
        """When to look again: as planned, when a status may be written that was put off, and soon while a service does
        not answer, since no event will tell.
        """
        due = self.status.due_in(uid)
        if due is not None:
            seconds = due if seconds is None else min(seconds, due)
        silent = any(seen is not None and seen.error for seen in (self.scraper.get(uid, role) for role in SERVICES))
        if silent:
            return SILENT_SECONDS if seconds is None else min(seconds, SILENT_SECONDS)
        return seconds

    async def reject(self, subject: Subject, body: Json, error: ValidationError) -> None:
        """Tell on the object itself that its spec cannot be read (it was stored under another schema)."""
        first = error.errors()[0]
        path = ".".join(str(part) for part in ("spec", *first["loc"]))
        verdict = Verdict("Degraded", True, "InvalidSpec", f"{path}: {first['msg']}")
        stored = self.status.current(body)
        old = read_conditions(stored)
        merged = conditions.merge(old, [verdict], body["metadata"].get("generation", 0), self.now)
        status = {**stored, "conditions": [condition.to_json() for condition in merged]}
        await self.effects.perform(subject, conditions.transitions(old, merged, frozenset({"Degraded"})))
        try:
            await self.status.write(subject.resource, body, status)
        except InvalidError as refused:
            # API servers before 1.33 validate the whole object again, so nothing can be written on it; the event tells.
            log.warning("%s %s: %s", subject.resource, subject.owner.name, refused)


def service_of(pods: list[PodView], role: str) -> PodView | None:
    """The pod of a singleton role that can be asked: running, with an address, not being deleted."""
    for pod in pods:
        if pod.role == role and pod.ip and not pod.deleting and not pod.finished:
            return pod
    return None


def url_of(pod: PodView) -> str:
    """Where a pod's service answers."""
    return http_url(pod.ip, PORTS[pod.role])
