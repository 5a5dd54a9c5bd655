"""The environment of a program of somebody else's, with what it gave kept for the trajectory."""

from collections.abc import Coroutine
from typing import Any

from shoal.api.services.leases import StepResult
from shoal_workers.agent.harness import EpisodeFaultError
from shoal_workers.environment.client import EnvironmentClient


class TracedEnvironment:
    """What a program sees of the environment. `fault` is why the environment failed, even if the program went on."""

    def __init__(self, client: EnvironmentClient, task: dict[str, Any], episode: str) -> None:
        self._client = client
        self._task = task
        self._episode = episode
        self.reward = 0.0
        self.turns = 0
        self.last: StepResult | None = None
        self.fault: EpisodeFaultError | None = None

    async def reset(self) -> StepResult:
        """Start the episode on its task; raises EpisodeFaultError."""
        self.last = await self._kept(self._client.reset(self._task.get("seed"), self._task, self._episode))
        return self.last

    async def step(self, action: str | dict[str, Any]) -> StepResult:
        """Do one action; raises EpisodeFaultError."""
        self.last = await self._kept(self._client.step(action))
        self.reward += self.last.reward or 0.0
        self.turns += 1
        return self.last

    async def _kept(self, call: Coroutine[Any, Any, StepResult]) -> StepResult:
        try:
            return await call
        except EpisodeFaultError as fault:
            self.fault = fault
            raise
