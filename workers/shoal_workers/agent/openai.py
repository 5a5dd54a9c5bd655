"""The OpenAI harness: any agent program, traced by its base URL alone.

The program gets a base URL of the gateway that belongs to this episode, and the environment. It calls the model with
whatever client it likes; the gateway records the tokens of its calls, and the trajectory is read from there.
"""

import asyncio
import importlib
import inspect
from dataclasses import dataclass
from typing import Any

from shoal.api.services.leases import StepResult
from shoal.api.services.models import SessionRecord
from shoal.api.services.roles.agent import AgentConfig
from shoal.api.services.trajectories import EpisodeOutcome, Segment
from shoal_workers.agent.harness import Episode, EpisodeEnd, EpisodeFaultError
from shoal_workers.environment.client import EnvironmentClient
from shoal_workers.service import ConfigurationError, ProblemError


@dataclass(frozen=True)
class Endpoint:
    """What an OpenAI client is made of."""

    base_url: str
    api_key: str
    model: str = "policy"


class TracedEnvironment:
    """The environment, with what it gave kept for the trajectory."""

    def __init__(self, client: EnvironmentClient, task: dict[str, Any], episode: str) -> None:
        self._client = client
        self._task = task
        self._episode = episode
        self.reward = 0.0
        self.turns = 0
        self.last: StepResult | None = None

    async def reset(self) -> StepResult:
        """Start the episode on its task."""
        self.last = await self._client.reset(self._task.get("seed"), self._task, self._episode)
        return self.last

    async def step(self, action: str | dict[str, Any]) -> StepResult:
        """Do one action."""
        self.last = await self._client.step(action)
        self.reward += self.last.reward or 0.0
        self.turns += 1
        return self.last


class OpenAIHarness:
    """Plays episodes by a function `solve(task, environment, endpoint)`, plain or async, named in the manifest."""

    def __init__(self, config: AgentConfig) -> None:
        """Raises ConfigurationError for a function that is not there."""
        self._config = config
        self._solve = _load(config.harness.module or "")

    async def play(self, episode: Episode) -> EpisodeEnd:
        """Run the function, then read the session's record."""
        client, session = episode.model.client, episode.model.session
        endpoint = Endpoint(f"{client.base_url}/sessions/{session}/v1", client.token or "none")
        task = episode.assignment.task
        environment = TracedEnvironment(episode.environment, task, episode.assignment.id)
        try:
            done = self._solve(task, environment, endpoint)
            if inspect.isawaitable(done):
                await done
        except (EpisodeFaultError, ProblemError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise EpisodeFaultError(EpisodeOutcome.AGENT_ERROR, f"{type(error).__name__}: {error}") from error
        record = await client.get(f"/sessions/{session}", SessionRecord)
        await client.delete(f"/sessions/{session}")
        return EpisodeEnd(_outcome(environment), environment.reward, environment.turns, segments_of(record))


def segments_of(record: SessionRecord) -> list[Segment]:
    """The session's record as a trajectory's segments."""
    return [
        Segment(
            token_ids=segment.token_ids,
            loss_mask=segment.loss_mask,
            logprobs=segment.logprobs,
            versions=segment.versions,
        )
        for segment in record.segments
        if any(segment.loss_mask)
    ]


def _outcome(environment: TracedEnvironment) -> EpisodeOutcome:
    last = environment.last
    return EpisodeOutcome.OK if last is not None and last.done and not last.truncated else EpisodeOutcome.TRUNCATED


def _load(name: str) -> Any:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError("harness.module", f"{name!r}: {error}") from error
    if not callable(found):
        raise ConfigurationError("harness.module", f"{name!r} is not a function")
    return found
