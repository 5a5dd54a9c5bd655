"""A role that must exist at most once: broker, gateway, data manager, trainer.

Its pod has a fixed name, so that the API server itself refuses a second one; a replacement is created only after the
old pod is gone. That is what StatefulSet promises, and what a single writer of a database needs. A broker and a gateway
are no such writers: members and engines hold the truth, so one on a node that answers no more is given up.
"""

from collections.abc import Sequence

from shoal.api.labels import LAID_UNDER, SPEC_HASH, Role
from shoal.planner.actions import Action, CreatePod, DeletePod, Manifest
from shoal.planner.observed import Expected, PodView

STATELESS = frozenset({Role.BROKER, Role.GATEWAY})
"""Roles that may run twice for a while: what they know, they read from members and engines again."""


def plan_singleton(
    role: str,
    pods: Sequence[PodView],
    manifest: Manifest,
    expected: Expected,
    *,
    wanted: bool,
    now: float,
    keep_finished: bool = False,
) -> list[Action]:
    """At most one action: create the pod, or let an outdated, finished or unwanted one go.

    Args:
        role: the pod's role, under which its creation is expected.
        pods: pods of this role and owner.
        manifest: the pod as it should be.
        expected: effects that the cache does not show yet.
        wanted: whether the role should run at all.
        now: seconds since the epoch.
        keep_finished: leave a pod that has succeeded in place (a trainer that is done).
    """
    current = manifest["metadata"]["annotations"][SPEC_HASH]
    if not pods:
        return [CreatePod(role, manifest)] if wanted and expected.creating(role) == 0 else []
    actions: list[Action] = []
    for pod in pods:
        if pod.deleting:
            given_up = role in STATELESS or pod.finished
            if given_up and pod.lost(now) and pod.uid not in expected.deletions:
                actions.append(DeletePod(role, pod.name, pod.uid, "Lost", force=True))
            continue
        if pod.uid in expected.deletions:
            continue
        if not wanted:
            actions.append(DeletePod(role, pod.name, pod.uid, "NotWanted"))
        elif pod.spec_hash != current:
            actions.append(DeletePod(role, pod.name, pod.uid, "TemplateChanged"))
        elif pod.unschedulable and pod.laid_under != manifest["metadata"]["annotations"].get(LAID_UNDER, ""):
            # It has not run yet, and with the placement that it takes over now a node may have it.
            actions.append(DeletePod(role, pod.name, pod.uid, "PlacementChanged"))
        elif pod.finished and not (keep_finished and pod.phase == "Succeeded"):
            actions.append(DeletePod(role, pod.name, pod.uid, "Finished"))
    return actions
