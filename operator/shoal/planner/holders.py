"""Pods that another operator makes: a Sandbox that stands for a member, a LeaderWorkerSet that stands for an engine.

Plans see one `PodView` for each such object, so that counting, choosing victims and replacing need to know nothing of
it: the object gives identity, template and deletion, its pods give readiness and trouble.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.api.labels import ROLE, SPEC_HASH, VARIANT, WORKER_GROUP
from shoal.planner.observed import Holder, PodView, Trouble, deletion_time
from shoal.planner.times import parse_timestamp

IDLE_SECONDS = 60.0
"""A definition without its controller is a common way to install half of an operator. A busy one answers in seconds."""


@dataclass(frozen=True, slots=True)
class Held:
    """A holder, cut down to what decisions need. Times are seconds since the epoch.

    Args:
        leader: name of the pod that does the work.
        remade: whether the other operator replaces a pod that has ended by itself.
    """

    kind: str
    name: str
    uid: str
    role: str
    group: str
    spec_hash: str
    deleting: bool
    created_at: float
    grace_until: float | None = None
    trouble: Trouble | None = None
    leader: str = ""
    remade: bool = False


@dataclass(frozen=True)
class Blocked:
    """Why pods of this kind can neither be counted nor made now: a CamelCase reason and what a person can do."""

    reason: str
    message: str


def read_holder(kind: str, body: dict[str, Any]) -> Held:
    """Cut an object of this kind down; its pod has its name, and the other operator leaves a pod that has ended."""
    metadata = body["metadata"]
    labels = metadata.get("labels") or {}
    return Held(
        kind=kind,
        name=metadata["name"],
        uid=metadata["uid"],
        role=labels.get(ROLE, ""),
        group=labels.get(VARIANT) or labels.get(WORKER_GROUP) or "",
        spec_hash=(metadata.get("annotations") or {}).get(SPEC_HASH, ""),
        deleting="deletionTimestamp" in metadata,
        created_at=parse_timestamp(metadata["creationTimestamp"]),
        grace_until=deletion_time(metadata),
        leader=metadata["name"],
    )


def as_pod(held: Held, pods: Sequence[PodView]) -> PodView:
    """The holder as plans count it.

    Args:
        held: the holder.
        pods: its pods; none yet is as good as a pending one.
    """
    name = held.leader
    lead = next((pod for pod in pods if pod.name == name), None)
    living = [pod for pod in pods if not pod.deleting]
    ends = [pod.grace_until for pod in pods if pod.grace_until is not None]
    over = lead is not None and lead.finished and not held.remade
    return PodView(
        name=name,
        uid=held.uid,
        role=held.role,
        spec_hash=held.spec_hash,
        phase=lead.phase if lead is not None and (over or not lead.finished) else "Pending",
        ready=lead is not None and lead.ready and not lead.deleting and not lead.finished,
        deleting=held.deleting,
        created_at=held.created_at,
        ip=lead.ip if lead is not None else "",
        restarts=sum(pod.restarts for pod in living),
        disrupted=lead.disrupted if lead is not None else "",
        # Its controller waits for a pod that no node ends, so the holder waits as well.
        grace_until=min(ends, default=held.grace_until),
        node=lead.node if lead is not None else "",
        started=lead is not None and lead.started,
        since=lead.since if lead is not None else held.created_at,
        waiting=next((pod.waiting for pod in living if pod.waiting), ""),
        gated=any(pod.gated for pod in living),
        unschedulable=next((pod.unschedulable for pod in living if pod.unschedulable), ""),
        trouble=next((pod.trouble for pod in living if pod.trouble is not None), held.trouble),
        group=held.group,
        holder=Holder(held.kind, held.name),
        made=bool(pods),
    )


def idle_maker(pods: Iterable[PodView], now: float) -> tuple[Blocked | None, float | None]:
    """What to tell when nobody makes pods from holders, and in how many seconds to look again, if at all."""
    waiting = [pod for pod in pods if pod.holder is not None and not pod.made and not pod.deleting]
    oldest = min(waiting, key=lambda pod: pod.created_at, default=None)
    if oldest is None or oldest.holder is None:
        return None, None
    left = oldest.created_at + IDLE_SECONDS - now
    if left > 0:
        return None, left
    kind, name = oldest.holder.kind, oldest.holder.name
    message = f"{kind} {name} has no pod after {IDLE_SECONDS:.0f} s: does its controller run?"
    return Blocked("BackendIdle", message), None
