"""What is wrong with a resource, in words a person can act on.

AllHealthy is said only of a resource that can do its work: nothing that it needs is missing, refused, in trouble, on a
node that answers no more, or out of reach.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shoal.api.labels import Role
from shoal.api.services.common import Finding
from shoal.planner.conditions import Verdict
from shoal.planner.holders import Blocked
from shoal.planner.observed import PodView, Reading, Refused, next_loss
from shoal.planner.times import soonest

STUCK_SECONDS = 60.0
"""A pod that was ready, or that a scheduler should have looked at, gets this long before it is told: a restart of a
container or of a scheduler takes seconds."""
START_SECONDS = 600.0
"""A pod whose containers do not start, without anybody saying why, may be pulling a large image: a Deployment's own
limit of progress."""

MISSING = "ConfigurationMissing"
MISCONFIGURED = "Misconfigured"
"""The reason where a container says that no restart will cure it: the manifest has to change."""

_REASONS = {
    "ErrImagePull": "ImagePullFailed",
    "ImagePullBackOff": "ImagePullFailed",
    "InvalidImageName": "ImagePullFailed",
    "ErrImageNeverPull": "ImagePullFailed",
    "CreateContainerConfigError": MISSING,
    "CreateContainerError": "CannotStart",
    "RunContainerError": "CannotStart",
    "OOMKilled": "OutOfMemory",
}


def degraded(
    pods: Iterable[PodView],
    *,
    now: float,
    blocked: Blocked | None = None,
    refused: Refused | None = None,
    findings: Sequence[Finding] = (),
    waiting: str = "",
) -> Verdict:
    """The Degraded condition: the first trouble found, with the pod's name and the message it left.

    Args:
        pods: the pods of a resource.
        now: seconds since the epoch.
        blocked: what keeps pods from being made at all; it is told first.
        refused: why the API server would not have something that is missing; it is asked again, more and more slowly.
        findings: what the resource's services say is wrong.
        waiting: what the resource waits for before it can do its work, where nothing is wrong; "" if it can.
    """
    if blocked is not None:
        return Verdict("Degraded", True, blocked.reason, blocked.message)
    if refused is not None:
        return Verdict("Degraded", True, refused.reason, refused.message)
    ordered = sorted(pods, key=lambda pod: (pod.role, pod.name))
    for check in _CHECKS:
        for pod in ordered:
            found = check(pod, now)
            if found is not None:
                return Verdict("Degraded", True, found[0], f"pod {pod.name}{found[1]}")
    if findings:
        worst = min(findings, key=lambda finding: not finding.fatal)
        return Verdict("Degraded", True, worst.reason, worst.message)
    return Verdict("Degraded", False, "NotReady", waiting) if waiting else Verdict("Degraded", False, "AllHealthy")


def unreachable(pods: Iterable[PodView], role: str, reading: Reading[Any], now: float) -> Finding | None:
    """A service whose pod has been ready for a while and that the operator cannot ask."""
    if reading.value is not None and reading.age <= STUCK_SECONDS:
        return None
    for pod in pods:
        if pod.role == role and pod.ready and not pod.deleting and now - pod.since > STUCK_SECONDS:
            why = reading.error or "no answer"
            where = pod.ip or "no address"
            text = f"pod {pod.name} is ready, and the operator cannot reach it at {where}: {why}"
            return Finding(reason="ServiceUnreachable", message=text)
    return None


def next_look(pods: Sequence[PodView], now: float) -> float | None:
    """Seconds until time alone may change what is wrong with these pods."""
    starting = [pod for pod in pods if not pod.ready and not pod.deleting and not pod.finished]
    ends = [max(pod.since, pod.created_at) + STUCK_SECONDS for pod in starting]
    ends += [pod.created_at + START_SECONDS for pod in starting if not pod.started]
    # One look just after the limit: at the limit itself nothing is over yet.
    times = [end - now + 0.1 for end in ends if end >= now]
    return soonest(min(times, default=None), next_loss(pods, now))


Found = tuple[str, str] | None
"""Reason, and what follows the pod's name in the message."""


def _incurable(pod: PodView, now: float) -> Found:
    """Before what passes: a container that ends and starts again would else be in trouble only now and then."""
    if pod.incurable and pod.own_fault and not pod.deleting:
        return MISCONFIGURED, f": {pod.incurable}"
    return None


def _misconfigured(pod: PodView, now: float) -> Found:
    """What the user has left out comes first: it is theirs to add, and other troubles often follow from it."""
    if pod.trouble is not None and not pod.deleting and _REASONS.get(pod.trouble.reason) == MISSING:
        return MISSING, f": {pod.trouble.message or pod.trouble.reason}"
    if pod.obstacle is not None and not pod.deleting and not pod.ready and pod.obstacle.reason == MISSING:
        return MISSING, f": {pod.obstacle.message}"
    return None


def _ended(pod: PodView, now: float) -> Found:
    if pod.trouble is None or pod.deleting or pod.disrupted:
        return None
    detail = pod.trouble.message or pod.trouble.reason
    return _REASONS.get(pod.trouble.reason, f"{pod.role.capitalize()}Failed"), f": {detail}"


def _obstructed(pod: PodView, now: float) -> Found:
    if pod.obstacle is None or pod.deleting or pod.ready:
        return None
    return pod.obstacle.reason, f": {pod.obstacle.message}"


def _lost(pod: PodView, now: float) -> Found:
    """A pod that may still write, or be taken for its successor: nobody but a person knows whether its node is off."""
    if not pod.deleting or not pod.lost(now) or pod.role not in (Role.DATA, Role.TRAINER):
        return None
    return "NodeLost", (
        f" should have ended on node {pod.node or 'unknown'} and has not: it may still write to the job's volume, so "
        "no other is started. Once the node is off, taint it node.kubernetes.io/out-of-service, or delete the pod with "
        "--force"
    )


def _gated(pod: PodView, now: float) -> Found:
    if not pod.gated or pod.deleting:
        return None
    return "SchedulingGated", " waits for its scheduling gates to be lifted"


def _unschedulable(pod: PodView, now: float) -> Found:
    return ("Unschedulable", f": {pod.unschedulable}") if pod.unschedulable and not pod.deleting else None


def _overlooked(pod: PodView, now: float) -> Found:
    waits = pod.made and not pod.node and pod.phase == "Pending" and not pod.gated and not pod.deleting
    if not waits or now - pod.created_at <= STUCK_SECONDS:
        return None
    return "NotScheduled", f" has no node after {STUCK_SECONDS:.0f} s, and no scheduler says why: does it run?"


def _unready(pod: PodView, now: float) -> Found:
    if pod.ready or not pod.started or pod.deleting or pod.finished or now - pod.since <= STUCK_SECONDS:
        return None
    where = f" on node {pod.node}" if pod.node else ""
    return "PodNotReady", f"{where} runs and has not been ready for more than {STUCK_SECONDS:.0f} s"


def _slow(pod: PodView, now: float) -> Found:
    begins = not pod.ready and not pod.started and pod.node and not pod.deleting and not pod.finished
    if not begins or now - pod.created_at <= START_SECONDS:
        return None
    return "StartsSlowly", f" has not started after {START_SECONDS:.0f} s ({pod.waiting or pod.phase})"


_CHECKS: tuple[Callable[[PodView, float], Found], ...] = (
    _incurable,
    _misconfigured,
    _ended,
    _obstructed,
    _lost,
    _gated,
    _unschedulable,
    _overlooked,
    _unready,
    _slow,
)
