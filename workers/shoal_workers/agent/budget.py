"""How many turns an episode may take."""

from collections.abc import Callable

from shoal.api.services.trajectories import Assignment

TurnBudget = Callable[[Assignment, int], int]
"""(assignment, the agent's own limit) -> turns of this episode, at least 1 and never more than either limit."""


def fixed(assignment: Assignment, limit: int) -> int:
    """The smaller of the task's limit and the agent's."""
    return max(1, min(assignment.max_turns, limit))


BUDGETS: dict[str, TurnBudget] = {"Fixed": fixed}
