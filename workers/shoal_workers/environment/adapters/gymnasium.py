"""Gymnasium environments: discrete, box and composite spaces, shown and driven as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from pydantic import Field

from shoal.api.services.roles.environment import EnvironmentSource
from shoal_workers.environment.actions import numbers, text_of
from shoal_workers.environment.adapter import (
    Backend,
    EnvironmentAdapter,
    InvalidActionError,
    Observation,
    Step,
)
from shoal_workers.environment.adapters.acting import ActionSettings
from shoal_workers.environment.adapters.entrypoints import is_factory, load, load_library
from shoal_workers.environment.adapters.fields import ObservationSettings, Renderer
from shoal_workers.environment.adapters.settings import CONFIG_PATH, ENTRYPOINT_PATH, Settings, parse
from shoal_workers.service.config import ConfigurationError


class RewardSettings(Settings):
    """What is made of the environment's reward r: scale * r + step."""

    scale: float = 1.0
    step: float = 0.0


class GymnasiumSettings(ActionSettings):
    """`environment.config` of protocol Gymnasium."""

    id: str | None = Field(None, description="Environment id; default: the entry point.")
    kwargs: dict[str, Any] = Field(default_factory=dict)
    max_episode_steps: int | None = Field(None, ge=1)
    observation: ObservationSettings = Field(default_factory=ObservationSettings)
    reward: RewardSettings = Field(default_factory=RewardSettings)


Make = Callable[[Mapping[str, Any]], Any]


class GymnasiumAdapter(EnvironmentAdapter):
    """One Gymnasium environment.

    A task may carry `options` (for reset) and `kwargs` (merged over the configured ones; the environment is then made
    anew); all its fields are there for templates as `task`.
    """

    def __init__(self, settings: GymnasiumSettings, make: Make) -> None:
        self._settings = settings
        self._make = make
        self._kwargs: dict[str, Any] = dict(settings.kwargs)
        self._environment = make(self._kwargs)
        self._renderer = Renderer(settings.observation)
        self._named = settings.named(self._numbered())
        self._turn = 0
        self._task: Mapping[str, Any] = {}
        self._last = Observation("")

    def reset(self, seed: int | None, task: Mapping[str, Any]) -> Observation:
        """Start an episode."""
        self._use({**self._settings.kwargs, **(task.get("kwargs") or {})})
        self._turn, self._task = 0, task
        value, info = self._environment.reset(seed=seed, options=task.get("options"))
        self._last = self._observe(value, info)
        return self._last

    def step(self, action: Mapping[str, Any]) -> Step:
        """Do one action: `{"text": ...}`, or `{"value": ...}` in the action space's own form."""
        try:
            value = self._action(action)
        except InvalidActionError as error:
            if self._settings.invalid_action is None:
                raise
            return self._settings.invalid_action.apply(str(error), self._last)
        self._turn += 1
        observed, reward, terminated, truncated, info = self._environment.step(value)
        self._last = self._observe(observed, info)
        scaled = self._settings.reward.scale * float(reward) + self._settings.reward.step
        return Step(self._last, scaled, bool(terminated), bool(truncated))

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()

    def _observe(self, value: Any, info: Mapping[str, Any]) -> Observation:
        text, data = self._renderer.render(self._environment, value, turn=self._turn, task=self._task, info=info)
        return Observation(text, data, {"info": info} if info else {})

    def _use(self, kwargs: dict[str, Any]) -> None:
        if kwargs != self._kwargs:
            environment = self._make(kwargs)
            self._environment.close()
            self._environment, self._kwargs = environment, kwargs

    def _numbered(self) -> dict[str, Any] | None:
        space = self._environment.action_space
        if type(space).__name__ != "Discrete":
            return None
        return {str(number): number for number in range(int(space.start), int(space.start + space.n))}

    def _action(self, action: Mapping[str, Any]) -> Any:
        space = self._environment.action_space
        if "value" in action:
            value = action["value"]
        elif self._named is not None:
            value = self._named.parse(text_of(action))
        else:
            value = numbers(text_of(action), int(np.prod(space.shape or (1,))))
        if isinstance(value, list):
            value = np.asarray(value, dtype=space.dtype).reshape(space.shape)
        if not space.contains(value):
            raise InvalidActionError(f"{action!r} is not in the action space {space}")
        return value


def backend(source: EnvironmentSource) -> Backend:
    """The configured adapter; raises ConfigurationError naming the wrong field."""
    settings = parse(GymnasiumSettings, source.config)
    identifier = settings.id or source.entrypoint
    if not identifier:
        raise ConfigurationError(ENTRYPOINT_PATH, "an environment id such as FrozenLake-v1 or module:factory is needed")
    settings.named()
    load_library("gymnasium", "Gymnasium")
    factory = load(identifier) if is_factory(identifier) else None
    make: Make = partial(_make, identifier, factory, settings.max_episode_steps)
    return Backend(name=identifier, create=partial(_create, settings, make))


def _make(identifier: str, factory: Callable[..., Any] | None, limit: int | None, kwargs: Mapping[str, Any]) -> Any:
    import gymnasium

    if factory is None:
        return gymnasium.make(identifier, max_episode_steps=limit, **kwargs)
    environment = factory(**kwargs)
    return environment if limit is None else gymnasium.wrappers.TimeLimit(environment, limit)


def _create(settings: GymnasiumSettings, make: Make) -> EnvironmentAdapter:
    import gymnasium

    try:
        return GymnasiumAdapter(settings, make)
    except (gymnasium.error.UnregisteredEnv, ModuleNotFoundError) as error:
        raise ConfigurationError(ENTRYPOINT_PATH, str(error)) from None
    except TypeError as error:
        raise ConfigurationError(f"{CONFIG_PATH}.kwargs", str(error)) from None
