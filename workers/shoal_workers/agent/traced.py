"""The environment of a program of somebody else's, with what it gave kept for the trajectory."""

from collections.abc import Coroutine
from typing import Any

from shoal.api.services.leases import StepResult
from shoal_workers.agent.errors import EpisodeFaultError, ProgramError
from shoal_workers.agent.rewards import Rewards
from shoal_workers.environment.client import EnvironmentClient


class TracedEnvironment:
    """What a program sees of the environment. `fault` is why the environment failed, even if the program went on.

    An episode is one reset and the steps after it, so that no reward is paid twice: a step that is out of order and a
    reset after a step raise ProgramError, and the environment hears nothing of them.
    """

    def __init__(self, client: EnvironmentClient, task: dict[str, Any], episode: str) -> None:
        self._client = client
        self._task = task
        self._episode = episode
        self.rewards = Rewards()
        self.turns = 0
        self.last: StepResult | None = None
        self.fault: EpisodeFaultError | None = None

    async def reset(self) -> StepResult:
        """Start the episode on its task; raises ProgramError after a step, EpisodeFaultError where it fails."""
        if self.turns:
            raise ProgramError("reset: the episode has begun; a program plays one episode, from one reset")
        self.last = await self._kept(self._client.reset(self._task.get("seed"), self._task, self._episode))
        return self.last

    async def step(self, action: str | dict[str, Any]) -> StepResult:
        """Do one action; raises ProgramError before the reset and after the end, EpisodeFaultError where it fails."""
        if self.last is None:
            raise ProgramError("step: reset the environment first")
        if self.ended:
            raise ProgramError("step: the episode has ended")
        self.last = await self._kept(self._client.step(action))
        self.turns += 1
        try:
            self.rewards.add(self.last)
        except EpisodeFaultError as fault:
            self.fault = fault
            raise
        return self.last

    @property
    def ended(self) -> bool:
        """Whether the environment has ended the episode."""
        return self.last is not None and self.last.done

    async def _kept(self, call: Coroutine[Any, Any, StepResult]) -> StepResult:
        try:
            return await call
        except EpisodeFaultError as fault:
            self.fault = fault
            raise
