"""What hinders the operator itself, and how it is told of on the objects that suffer from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from shoal.api.base import Condition
from shoal.api.tolerant import parts, read_conditions
from shoal.kube.resources import Resource
from shoal.planner import conditions
from shoal.planner.conditions import Verdict

Json = dict[str, Any]

DEFINITION_MISSING = "DefinitionMissing"
DEFINITION_OUTDATED = "DefinitionOutdated"
PERMISSION_MISSING = "PermissionMissing"
REFUSED = "Refused"
CREATE_REFUSED = "CreateRefused"
REASONS = frozenset({DEFINITION_MISSING, DEFINITION_OUTDATED, PERMISSION_MISSING, REFUSED})
ENDED = frozenset({"Complete", "Failed"})
"""Conditions of a job that nothing can hinder any more."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that the cluster does not give the operator.

    Args:
        reason: CamelCase word of the Degraded condition.
        message: what is missing and how to mend it.
        kinds: plurals of the kinds that it hinders.
        holds: of these, the kinds that nothing can be done for until it is mended.
    """

    reason: str
    message: str
    kinds: frozenset[str]
    holds: frozenset[str] = frozenset()


class TroubleOverlay:
    """Puts `Degraded` with the trouble's reason over what a plan says.

    A plan that has a trouble of its own is left alone, unless nothing plans for this kind any more.
    """

    def __init__(self, wall: Any) -> None:
        self.troubles: tuple[Trouble, ...] = ()
        self._wall = wall

    def without(self, status: Json) -> Json:
        """The status as the plan left it: it must not see, and end, a condition that is not its own."""
        stored = parts(status, "conditions")
        if not any(_ours(each) for each in stored):
            return status
        return {**status, "conditions": [each for each in stored if not _ours(each)]}

    def over(self, resource: Resource, body: Json, before: Json, status: Json) -> Json:
        """The status with the first trouble that hinders this kind."""
        trouble = self._worst(resource.plural)
        planned = read_conditions(status)
        if trouble is None or any(_ended(each) for each in planned):
            return status
        if any(_graver(each) for each in planned) and resource.plural not in trouble.holds:
            return status
        # The transition time is that of the stored condition, which the plan did not see.
        old = [each for each in planned if each.type != "Degraded"]
        old += [each for each in read_conditions(before) if each.type == "Degraded"]
        verdict = Verdict("Degraded", True, trouble.reason, trouble.message)
        generation = body["metadata"].get("generation", 0)
        merged = conditions.merge(old, [verdict], generation, self._wall().timestamp())
        return {**status, "conditions": [each.to_json() for each in merged]}

    def _worst(self, plural: str) -> Trouble | None:
        hindering = [each for each in self.troubles if plural in each.kinds]
        return min(hindering, key=lambda each: plural not in each.holds, default=None)


def _ours(condition: Json) -> bool:
    return condition.get("type") == "Degraded" and condition.get("reason") in REASONS


def _graver(condition: Condition) -> bool:
    """A trouble of the plan's own; that creations are refused is what a missing permission brings about."""
    return condition.type == "Degraded" and condition.status == "True" and condition.reason != CREATE_REFUSED


def _ended(condition: Condition) -> bool:
    return condition.type in ENDED and condition.status == "True"


def held(troubles: Iterable[Trouble]) -> frozenset[str]:
    """The kinds that nothing can be done for."""
    return frozenset().union(*(trouble.holds for trouble in troubles))
