"""What is wrong with a set of pods, in words a person can act on."""

from collections.abc import Iterable

from shoal.planner.conditions import Verdict
from shoal.planner.holders import Blocked
from shoal.planner.observed import PodView

MISCONFIGURED = "Misconfigured"
"""The reason where a container says that no restart will cure it: the manifest has to change."""

_REASONS = {
    "ErrImagePull": "ImagePullFailed",
    "ImagePullBackOff": "ImagePullFailed",
    "InvalidImageName": "ImagePullFailed",
    "ErrImageNeverPull": "ImagePullFailed",
    "CreateContainerConfigError": "ConfigurationMissing",
    "CreateContainerError": "CannotStart",
    "RunContainerError": "CannotStart",
    "OOMKilled": "OutOfMemory",
}


def degraded(
    pods: Iterable[PodView],
    *,
    healthy: str = "AllHealthy",
    blocked: Blocked | None = None,
    refused: str = "",
    taken: str = "",
) -> Verdict:
    """The Degraded condition: the first trouble found, with the pod's name and the message it left.

    Args:
        pods: the pods of a resource.
        healthy: the reason where there is no trouble.
        blocked: what keeps pods from being made at all; it is told first.
        refused: why the API server would not have a pod that is missing; it is asked again, more and more slowly.
        taken: which child could not be made because somebody else's object has its name; looked at again likewise.
    """
    if blocked is not None:
        return Verdict("Degraded", True, blocked.reason, blocked.message)
    if taken:
        return Verdict("Degraded", True, "NameTaken", taken)
    if refused:
        return Verdict("Degraded", True, "CreateRefused", refused)
    standing = sorted((pod for pod in pods if not pod.deleting), key=lambda pod: (pod.role, pod.name))
    for pod in standing:
        # Before what passes: a container that ends and starts again would else be in trouble only now and then.
        if pod.incurable and pod.own_fault:
            return Verdict("Degraded", True, MISCONFIGURED, f"pod {pod.name}: {pod.incurable}")
    for pod in standing:
        if pod.trouble is not None:
            reason = _REASONS.get(pod.trouble.reason, f"{pod.role.capitalize()}Failed")
            detail = pod.trouble.message or pod.trouble.reason
            return Verdict("Degraded", True, reason, f"pod {pod.name}: {detail}")
        if pod.gated:
            return Verdict(
                "Degraded", True, "SchedulingGated", f"pod {pod.name} waits for its scheduling gates to be lifted"
            )
        if pod.unschedulable:
            return Verdict("Degraded", True, "Unschedulable", f"pod {pod.name}: {pod.unschedulable}")
    return Verdict("Degraded", False, healthy, "")
