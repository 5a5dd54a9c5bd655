"""How many turns an episode may take."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import ceil

from pydantic import Field

from shoal.api.services.trajectories import Assignment
from shoal_workers.strategies import NamedStrategy, Registry


class TurnBudget(NamedStrategy, ABC):
    """Turns of an episode. Invariants, checked by tests: at least 1, and never more than `maxTurns`."""

    def turns(self, assignment: Assignment, limit: int) -> int:
        """Turns of this episode; `limit` is the agent's own. An evaluation always gets them all."""
        most = max(1, min(assignment.max_turns, limit))
        return most if assignment.kind == "evaluate" else max(1, min(most, self.wanted(assignment, most)))

    @abstractmethod
    def wanted(self, assignment: Assignment, most: int) -> int:
        """Turns that the strategy allows, `most` being the limit."""


BUDGETS: Registry[TurnBudget] = Registry("shoal.agent.turnbudget", "agents.turnBudget", TurnBudget)


class FixedBudget(TurnBudget):
    """`maxTurns`."""

    def wanted(self, assignment: Assignment, most: int) -> int:
        """All of them."""
        return most


class PercentileBudget(TurnBudget):
    """The turns within which a share of the task's newest successes came to their end.

    Source: the turn-control study of coding agents: a cap at the 75th percentile saves 24 to 68 % of the cost at a
    minimal loss of solved tasks. Below `fewest` successes nothing is cut.
    """

    percentile: float = Field(75.0, gt=0, le=100)
    fewest: int = Field(4, ge=1)

    def wanted(self, assignment: Assignment, most: int) -> int:
        """The percentile, by nearest rank."""
        lengths = sorted(assignment.success_turns)
        if len(lengths) < self.fewest:
            return most
        return lengths[ceil(self.percentile / 100 * len(lengths)) - 1]


class LongestSuccessBudget(TurnBudget):
    """The turns of the task's longest recent success, and some slack.

    Source: Li et al., DART (arXiv 2509.23866), dynamic trajectory length: a task that was solved in few turns is not
    explored for many. A task without a success gets `maxTurns`.
    """

    slack: float = Field(1.2, ge=1)

    def wanted(self, assignment: Assignment, most: int) -> int:
        """`slack` times the longest success, rounded up."""
        return ceil(self.slack * max(assignment.success_turns, default=most))
