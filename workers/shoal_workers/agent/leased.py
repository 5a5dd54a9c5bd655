"""The leased environment: whatever it fails with is an environment's or a grader's error, never the engine's."""

from collections.abc import Mapping
from typing import Any

from shoal.api.services.leases import StepResult
from shoal.api.services.trajectories import EpisodeOutcome
from shoal_workers.agent.harness import EpisodeFaultError
from shoal_workers.environment.client import EnvironmentClient
from shoal_workers.service import ProblemError


class LeasedEnvironment(EnvironmentClient):
    """An environment client whose problems (a dead member, a lost lease, an exception inside) are episode faults."""

    async def reset(
        self, seed: int | None = None, task: Mapping[str, Any] | None = None, episode_id: str | None = None
    ) -> StepResult:
        """Start an episode; raises EpisodeFaultError."""
        try:
            return await super().reset(seed, task, episode_id)
        except ProblemError as error:
            raise _fault(error) from error

    async def step(self, action: str | Mapping[str, Any]) -> StepResult:
        """Do one action; raises EpisodeFaultError."""
        try:
            return await super().step(action)
        except ProblemError as error:
            raise _fault(error) from error


def _fault(error: ProblemError) -> EpisodeFaultError:
    graded = error.name == "grader-error"
    outcome = EpisodeOutcome.GRADER_ERROR if graded else EpisodeOutcome.ENVIRONMENT_ERROR
    return EpisodeFaultError(outcome, str(error))
