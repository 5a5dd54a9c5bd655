"""How many episodes a task gets."""

from collections.abc import Callable
from math import floor

Allocator = Callable[[float | None, int], int]
"""(success rate of the task so far, None without history; group size) -> episodes of the next group, at least 2."""

SUCCESS_THRESHOLD = 0.6
"""DART's: tasks that succeed less often get the whole group."""
SMALLEST_GROUP = 2
"""A group of one has no comparison: its advantage would always be 0."""


def fixed(success_rate: float | None, group_size: int) -> int:
    """Always the group size."""
    return group_size


def dart(success_rate: float | None, group_size: int) -> int:
    """Fewer episodes where the task is mastered: N for s < 0.6, else max(2, floor(9 / s - 7)), at most N.

    The rule of DART's public code (task loader of its rollout service): 8 at s = 0.6 down to 2 at s = 1.
    """
    if success_rate is None or success_rate < SUCCESS_THRESHOLD:
        return group_size
    return min(group_size, max(SMALLEST_GROUP, floor(9 / success_rate - 7)))


ALLOCATORS: dict[str, Allocator] = {"Fixed": fixed, "DART": dart}
