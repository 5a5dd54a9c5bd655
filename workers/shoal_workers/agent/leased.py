"""The leased environment: whatever it fails with is an environment's or a grader's error, never the engine's."""

import time
from collections.abc import Coroutine, Mapping
from typing import Any

from shoal.api.services.leases import StepResult
from shoal.api.services.trajectories import EpisodeOutcome
from shoal_workers.agent.errors import EpisodeFaultError
from shoal_workers.environment.client import EnvironmentClient
from shoal_workers.service import ProblemError


class LeasedEnvironment(EnvironmentClient):
    """An environment client whose problems (a dead member, a lost lease, an exception inside) are episode faults.

    `seconds` counts the time spent waiting for its answers.
    """

    seconds = 0.0

    async def reset(
        self, seed: int | None = None, task: Mapping[str, Any] | None = None, episode_id: str | None = None
    ) -> StepResult:
        """Start an episode; raises EpisodeFaultError."""
        return await self._timed(super().reset(seed, task, episode_id))

    async def step(self, action: str | Mapping[str, Any]) -> StepResult:
        """Do one action; raises EpisodeFaultError."""
        return await self._timed(super().step(action))

    async def _timed(self, call: Coroutine[Any, Any, StepResult]) -> StepResult:
        began = time.monotonic()
        try:
            return await call
        except ProblemError as error:
            raise _fault(error) from error
        finally:
            self.seconds += time.monotonic() - began


_OUTCOMES = {
    "grader-error": EpisodeOutcome.GRADER_ERROR,
    # The caller did what the protocol does not allow; the environment is as good as before.
    "episode-over": EpisodeOutcome.AGENT_ERROR,
    "no-episode": EpisodeOutcome.AGENT_ERROR,
    "invalid-request": EpisodeOutcome.AGENT_ERROR,
}
"""Whose fault a problem is, where it is not the environment's."""


def _fault(error: ProblemError) -> EpisodeFaultError:
    return EpisodeFaultError(_OUTCOMES.get(error.name, EpisodeOutcome.ENVIRONMENT_ERROR), str(error))
