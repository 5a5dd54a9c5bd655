"""The OpenAI harness: any agent program, traced by its base URL alone.

The program gets a base URL of the gateway that belongs to this episode, and the environment. It calls the model with
whatever client it likes; the gateway samples as the job says, whatever the program asks for, and records the tokens of
its calls. The trajectory is read from there.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from shoal.api.services.models import SamplingParameters, SessionSettings
from shoal.api.services.roles.agent import AgentConfig
from shoal.api.services.trajectories import EpisodeOutcome
from shoal.api.services.tree import trainable
from shoal_workers.agent.blocking import BlockingEnvironment
from shoal_workers.agent.errors import ProgramError
from shoal_workers.agent.harness import Episode, EpisodeEnd, EpisodeFaultError
from shoal_workers.agent.limits import Limit, limit_of
from shoal_workers.agent.session import opened
from shoal_workers.agent.traced import TracedEnvironment
from shoal_workers.environment.threads import SlotThread
from shoal_workers.service import ConfigurationError, ProblemError


@dataclass(frozen=True)
class Endpoint:
    """What an OpenAI client is made of, and the harness's `config`, which is the program's own."""

    base_url: str
    api_key: str
    model: str = "policy"
    config: Mapping[str, Any] = field(default_factory=dict)


class OpenAIHarness:
    """Plays episodes by a function `solve(task, environment, endpoint)`, named in the manifest.

    An `async def` gets the environment as it is, with methods to await. A plain function runs on a thread of its own,
    so that it may block, and its environment's methods wait for their answers. When its episode is cancelled they raise
    asyncio.CancelledError, which it must let pass: nothing else can end a thread.
    """

    def __init__(self, config: AgentConfig) -> None:
        """Raises ConfigurationError for a function that is not there."""
        self._config = config
        self._solve = _load(config.harness.module or "")

    async def play(self, episode: Episode) -> EpisodeEnd:
        """Run the function in a session of its own, then read the session's record."""
        model, assignment = episode.model, episode.assignment
        environment = TracedEnvironment(episode.environment, assignment.task, assignment.id)
        async with opened(model.client, model.session, self._settings(episode)) as session:
            endpoint = Endpoint(session.base_url, model.client.token or "none", config=self._config.harness.config)
            overflow = await self._solved(assignment.task, environment, endpoint)
            record = await session.record()
        segments = trainable(record.segments)
        if not segments and overflow:
            raise EpisodeFaultError(EpisodeOutcome.UNFIT_TASK, f"the first prompt is too long: {overflow}")
        if not segments:
            # Nothing that the policy did led to the reward.
            cause = "its model calls sampled no token" if record.calls else "the program made no model call"
            raise EpisodeFaultError(EpisodeOutcome.AGENT_ERROR, cause)
        return EpisodeEnd(_outcome(environment), environment.rewards.total, environment.turns, segments)

    def _settings(self, episode: Episode) -> SessionSettings:
        model = episode.model
        sampling = SamplingParameters(
            max_tokens=self._config.max_tokens_per_turn, temperature=model.temperature, top_p=model.top_p
        )
        return SessionSettings(sampling=sampling, min_version=model.min_version, run=model.run)

    async def _solved(self, task: dict[str, Any], environment: TracedEnvironment, endpoint: Endpoint) -> str:
        """Run the function to its end; what it said of a context that overflowed, or "".

        The environment's own failure comes first: a program may hide or rename it.
        """
        try:
            if _is_async(self._solve):
                await self._solve(task, environment, endpoint)
            else:
                await self._on_a_thread(task, environment, endpoint)
        except (Exception, SystemExit) as error:
            if environment.fault is None and isinstance(error, ProgramError) and environment.ended:
                return ""
            if environment.fault is None and limit_of(error) is Limit.CONTEXT:
                return str(error)
            fault = environment.fault or _fault_of(error)
            if fault is error:
                raise
            raise fault from error
        if environment.fault is not None:
            raise environment.fault
        return ""

    async def _on_a_thread(self, task: dict[str, Any], environment: TracedEnvironment, endpoint: Endpoint) -> None:
        # A daemon thread for each episode: an executor's would be too few for `concurrency` programs that wait, and one
        # of a program that hangs would keep the process from ending.
        thread, view = SlotThread("solve"), BlockingEnvironment(environment)
        try:
            done, _ = await thread.submit(partial(copy_context().run, self._solve, task, view, endpoint))
        finally:
            view.close()
            thread.end()
        if inspect.isawaitable(done):
            if inspect.iscoroutine(done):
                done.close()
            raise TypeError("solve is a plain function, but its result must be awaited; make it an async function")


def _fault_of(error: BaseException) -> BaseException:
    """What a program failed with, as the episode's fault: its own defect, unless a service failed under it."""
    if isinstance(error, EpisodeFaultError | ProblemError):
        return error
    if limit_of(error) is Limit.BUSY:
        return EpisodeFaultError(EpisodeOutcome.CANCELLED, f"the model's service is busy: {error}")
    return EpisodeFaultError(EpisodeOutcome.AGENT_ERROR, f"{type(error).__name__}: {error}")


def _outcome(environment: TracedEnvironment) -> EpisodeOutcome:
    last = environment.last
    return EpisodeOutcome.OK if last is not None and last.done and not last.truncated else EpisodeOutcome.TRUNCATED


def _is_async(solve: Callable[..., Any]) -> bool:
    """Whether it is an async function, an object that is called like one, or a wrapper of one."""
    inner: Any = inspect.unwrap(solve)
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(type(inner).__call__)


def _load(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError("harness.module", f"{name!r}: {error}") from error
    if not callable(found):
        raise ConfigurationError("harness.module", f"{name!r} is not a function")
    solve: Callable[..., Any] = found
    return solve
