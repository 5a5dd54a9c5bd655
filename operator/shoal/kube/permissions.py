"""Every permission that the operator itself needs, once; the chart, the start-up check and the audit test read it.

A new call to the API server takes a new rule here, or in the neighbour's folder that makes the call
(`shoal.neighbours.registry.ALL_RULES` joins both). No rule has a wildcard.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shoal.kube.resources import SHOAL_GROUP


class Scope(StrEnum):
    """Where a rule must hold."""

    WATCHED = "watched"
    """In the namespaces that the operator works in: all, or the one it was given."""
    CLUSTER = "cluster"
    """For objects that are in no namespace, so only a ClusterRole can allow it."""
    OWN = "own"
    """In the namespace of the operator's own pod."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A permission.

    Args:
        group: API group; "" for the core group.
        resources: plurals, with a subresource as `plural/subresource`.
        verbs: what the operator asks for; each of them is seen in an audit log.
        why: what it is needed for, in one line.
        when: name of the neighbour that it is for; "" for what is needed always.
        scope: where it must hold.
        implied: verbs that the API server demands beside the one asked for, and that no audit log shows.
    """

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str
    when: str = ""
    scope: Scope = Scope.WATCHED
    implied: tuple[str, ...] = ()

    @property
    def granted(self) -> tuple[str, ...]:
        """All verbs that a role must name."""
        return tuple(dict.fromkeys((*self.verbs, *self.implied)))


FOLLOW = ("list", "watch")
CREATED_BY_APPLY = ("create",)
"""Server-side apply asks to patch; when the object is not there yet, the API server demands `create` as well."""

_KINDS = ("environmentpools", "rolloutfleets", "rljobs")

RULES: tuple[Rule, ...] = (
    Rule(SHOAL_GROUP, _KINDS, FOLLOW, "Follow pools, fleets and jobs."),
    Rule(SHOAL_GROUP, tuple(f"{kind}/status" for kind in _KINDS), ("patch",), "Report what was observed."),
    Rule(
        SHOAL_GROUP,
        ("environmentpools", "rolloutfleets"),
        ("patch",),
        "Make the pools and the fleet that a job describes.",
        implied=CREATED_BY_APPLY,
    ),
    Rule(SHOAL_GROUP, ("rljobs",), ("delete",), "Remove a finished job whose time to live is over."),
    Rule(
        SHOAL_GROUP,
        tuple(f"{kind}/finalizers" for kind in _KINDS),
        (),
        "Own pods that block their owner's deletion, where OwnerReferencesPermissionEnforcement is on (OpenShift).",
        implied=("update",),
    ),
    Rule("", ("pods",), (*FOLLOW, "create", "delete"), "Start, follow and replace the pods of every plane."),
    Rule("", ("services",), (*FOLLOW, "patch"), "Give brokers, gateways and data managers a name.",
         implied=CREATED_BY_APPLY),
    Rule("networking.k8s.io", ("networkpolicies",), (*FOLLOW, "patch"), "Let in who has to call a role alone.",
         implied=CREATED_BY_APPLY),
    Rule("", ("secrets",), (*FOLLOW, "create", "patch"),
         "Keep the tokens between services, and large configurations; Kubernetes cannot allow it for these alone."),
    Rule("", ("events",), ("create", "patch"), "Say what happened, and how often."),
    Rule("", ("events",), ("list",), "Read why a pod does not start: a volume, a network, a quota."),
    Rule("coordination.k8s.io", ("leases",), ("get", "create", "update"), "Elect one of several operators.",
         scope=Scope.OWN),
)  # fmt: skip
