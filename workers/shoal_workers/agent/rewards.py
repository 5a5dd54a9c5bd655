"""The reward of an episode: the sum of what its steps gave, or a grader's fault where that is no number."""

import math
from dataclasses import dataclass

from shoal.api.services.leases import StepResult
from shoal.api.services.trajectories import EpisodeOutcome
from shoal_workers.agent.errors import EpisodeFaultError


@dataclass
class Rewards:
    """`total` so far; `given` says whether any step had a reward, which is not the same as a total of 0."""

    total: float = 0.0
    given: bool = False

    def add(self, result: StepResult) -> None:
        """Count one step. Raises EpisodeFaultError of the grader for NaN, an infinity or an overflow, and where the
        environment ends the episode without ever having given a reward.
        """
        if result.reward is not None:
            self.given = True
            self.total += result.reward
        if not math.isfinite(self.total):
            raise EpisodeFaultError(EpisodeOutcome.GRADER_ERROR, f"reward: {self.total} is no finite number")
        if result.done and not self.given and result.invalid_action is None:
            raise EpisodeFaultError(EpisodeOutcome.GRADER_ERROR, "reward: the episode ended and no step gave one")
