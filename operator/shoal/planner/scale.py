"""The scale subresource: what it says while nobody sets the size, and what becomes of a size that is out of bounds.

`GET /scale`, and with it an autoscaler and a PodDisruptionBudget, needs a number in `spec.replicas`. While no user and
no autoscaler sets one, the operator keeps the size that it decided there, as a field manager of its own; what anybody
else writes there pins the size.
"""

from collections.abc import Iterable

from shoal.api.base import Condition
from shoal.planner.actions import ReflectScale
from shoal.planner.conditions import Verdict

SCALING_LIMITED = "ScalingLimited"


def reflection(pinned: int | None, reflected: int | None, desired: int, there: int) -> list[ReflectScale]:
    """The write that makes `spec.replicas` true; none while a user or an autoscaler sets it.

    Args:
        pinned: what others set there, None for nothing.
        reflected: what the operator wrote there, None for nothing.
        desired: the size that was decided.
        there: pods that exist. While they still follow, nothing is written, so that a pool that grows step by step
            costs one write and not one for each step.
    """
    if pinned is not None or reflected == desired or (reflected is not None and there != desired):
        return []
    return [ReflectScale(desired)]


def scaling_limited(pinned: int | None, most: int, bound: str, told: Iterable[Condition]) -> list[Verdict]:
    """The condition ScalingLimited, which a size that was never out of bounds does not have.

    Args:
        pinned: what `spec.replicas` asks for, None for nothing.
        most: how many are allowed.
        bound: the field that says so.
        told: conditions as stored.
    """
    if pinned is not None and pinned > most:
        return [
            Verdict(SCALING_LIMITED, True, "TooManyReplicas", f"spec.replicas asks for {pinned}, {bound} allows {most}")
        ]
    known = any(each.type == SCALING_LIMITED for each in told)
    return [Verdict(SCALING_LIMITED, False, "WithinBounds")] if known else []
