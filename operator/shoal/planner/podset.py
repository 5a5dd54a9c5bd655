"""Which pods of a set to create and which to let go: the arithmetic that every role shares.

Models: Agones' `computeReconciliationAction` (bounded batches, partial passes) and the ReplicaSet controller's
    expectations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

from shoal.planner.observed import PodView

Busy = Callable[[PodView], int]
"""How much work a pod carries right now (leased slots, running requests); 0 for idle."""


@dataclass(frozen=True)
class Limits:
    """How fast and how far a set may move.

    Args:
        surge: pods above `desired` while a template change replaces old ones.
        unavailable: ready pods that may be missing while it does.
        max_pending: pods that may be starting at once.
        max_creates: pods created in one pass; a partial pass is continued at once.
        max_removals: pods let go in one pass.
    """

    surge: int = 0
    unavailable: int = 1
    max_pending: int = 1000
    max_creates: int = 64
    max_removals: int = 64


@dataclass(frozen=True)
class Removal:
    """A pod to let go. `gracious` means: by retire or drain, because it may carry work."""

    pod: PodView
    reason: str
    gracious: bool


@dataclass(frozen=True)
class PodSetPlan:
    """The decision for one set.

    Args:
        create: pods to create now.
        remove: pods to let go now.
        partial: whether limits held something back, so that another pass is due.
    """

    create: int
    remove: tuple[Removal, ...]
    partial: bool


def idle(pod: PodView) -> int:
    """The `Busy` of pods that never carry work worth waiting for."""
    return 0


def plan_podset(
    pods: Sequence[PodView],
    desired: int,
    current_hash: str,
    *,
    limits: Limits,
    now: float,
    creating: int = 0,
    deletions: frozenset[str] = frozenset(),
    busy: Busy = idle,
    replace: Callable[[PodView], str] = lambda pod: "",
) -> PodSetPlan:
    """Creations and removals that bring `pods` to `desired` pods of the current template.

    Args:
        pods: the cache's view of the set.
        desired: how many there should be.
        current_hash: hash of the current template; a pod of another is replaced within surge and unavailable.
        limits: bounds of this pass.
        now: seconds since the epoch.
        creating: creations asked for that the cache does not show yet.
        deletions: UIDs whose deletion was asked for and is not visible yet.
        busy: work that a pod carries; idle pods are let go first.
        replace: a reason to replace this pod although its template is current (its age, its slots in quarantine), or
            "".

    A pod that is being deleted still counts against `desired + surge` until it is gone, so that the set never exceeds
    its bound at any instant; one that is disrupted, or that nobody ends on its node, does not. Pods that are gated or
    unschedulable are held: deleting and re-creating them only makes churn.
    """
    leaving = [pod for pod in pods if (pod.deleting or pod.uid in deletions) and pod.holds_place(now)]
    alive = [pod for pod in pods if not pod.deleting and pod.uid not in deletions]
    dead = [pod for pod in alive if pod.finished or pod.lost(now)]
    live = [pod for pod in alive if not pod.finished and not pod.lost(now)]
    stale = {pod.uid: reason for pod in live if (reason := _stale_reason(pod, current_hash, replace))}
    removals = [Removal(pod, "Finished" if pod.finished else "Lost", gracious=False) for pod in dead]
    removals += _surplus(live, stale, desired, creating, busy)
    chosen = {removal.pod.uid for removal in removals}
    removals += _outdated([pod for pod in live if pod.uid not in chosen], stale, desired, limits, busy)
    fresh = sum(1 for pod in live if pod.uid not in stale) + creating
    occupied = len(live) + len(leaving) + len(dead) + creating
    room = desired + (limits.surge if stale else 0) - occupied
    wanted = max(0, min(desired - fresh, room))
    pending = creating + sum(1 for pod in live if not pod.ready)
    create = max(0, min(wanted, limits.max_creates, limits.max_pending - pending))
    kept = tuple(removals[: limits.max_removals])
    return PodSetPlan(create, kept, partial=create < wanted or len(kept) < len(removals))


def surge_of(desired: int) -> int:
    """A quarter of the set, at least one: Kubernetes' own default for a Deployment."""
    return max(1, ceil(desired / 4))


def _stale_reason(pod: PodView, current_hash: str, replace: Callable[[PodView], str]) -> str:
    if pod.spec_hash != current_hash:
        return "TemplateChanged"
    # A pod that a queue or the scheduler holds has not run yet: a new one would only wait in its place.
    return "" if pod.gated or pod.unschedulable else replace(pod)


def _victim_order(stale: dict[str, str], busy: Busy) -> Callable[[PodView], tuple[bool, bool, int, float]]:
    """Outdated first, then those that do not serve yet, then the idlest, then the newest."""
    return lambda pod: (pod.uid not in stale, pod.ready, busy(pod), -pod.created_at)


def _surplus(live: list[PodView], stale: dict[str, str], desired: int, creating: int, busy: Busy) -> list[Removal]:
    """Pods above `desired`; while a replacement runs, surge pods are not surplus until the fresh ones serve."""
    fresh_ready = sum(1 for pod in live if pod.uid not in stale and pod.ready)
    fresh = sum(1 for pod in live if pod.uid not in stale)
    excess = max(0, fresh - desired)
    if fresh_ready >= desired:
        excess = len(live) - desired
    elif not stale:
        excess = len(live) + creating - desired
    order = sorted(live, key=_victim_order(stale, busy))
    return [Removal(pod, stale.get(pod.uid, "ScaleDown"), gracious=pod.ready) for pod in order[: max(0, excess)]]


def _outdated(live: list[PodView], stale: dict[str, str], desired: int, limits: Limits, busy: Busy) -> list[Removal]:
    """Outdated pods that may go now: all that do not serve, and of the serving ones as many as the bound allows."""
    old = sorted((pod for pod in live if pod.uid in stale), key=_victim_order(stale, busy))
    ready = sum(1 for pod in live if pod.ready)
    spare = max(0, ready - max(0, desired - limits.unavailable))
    removals = []
    for pod in old:
        if pod.ready and spare == 0:
            continue
        spare -= int(pod.ready)
        removals.append(Removal(pod, stale[pod.uid], gracious=pod.ready))
    return removals
