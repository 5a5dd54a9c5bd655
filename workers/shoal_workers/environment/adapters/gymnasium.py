"""Gymnasium environments: discrete, box and composite spaces, shown and driven as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from shoal.api.services.roles.environment import EnvironmentSource
from shoal.api.services.roles.environmentconfig import GymnasiumSettings
from shoal_workers.environment.actions import text_of
from shoal_workers.environment.adapter import (
    Backend,
    EnvironmentAdapter,
    InvalidActionError,
    Observation,
    Step,
)
from shoal_workers.environment.adapters import gymapi, spaces
from shoal_workers.environment.adapters.acting import counted, named
from shoal_workers.environment.adapters.entrypoints import is_factory, load, load_library
from shoal_workers.environment.adapters.fields import Renderer
from shoal_workers.environment.adapters.settings import CONFIG_PATH, ENTRYPOINT_PATH, check_templates, parse
from shoal_workers.service.config import ConfigurationError

Make = Callable[[Mapping[str, Any]], Any]


class GymnasiumAdapter(EnvironmentAdapter):
    """One Gymnasium environment.

    A task may carry `options` (for reset) and `kwargs` (merged over the configured ones; the environment is then made
    anew); all its fields are there for templates as `task`. Where no template says how the first observation reads
    and no model could guess what an action is, the first observation says it.
    """

    def __init__(self, settings: GymnasiumSettings, make: Make, limit: int | None) -> None:
        self._settings = settings
        self._make = make
        self._limit = limit
        self._kwargs: dict[str, Any] = dict(settings.kwargs)
        self._environment = make(self._kwargs)
        self._renderer = Renderer(settings.observation)
        self._named = named(settings, self._numbered())
        self._turn = 0
        self._task: Mapping[str, Any] = {}
        self._last = Observation("")

    def reset(self, seed: int | None, task: Mapping[str, Any]) -> Observation:
        """Start an episode."""
        self._use({**self._settings.kwargs, **(task.get("kwargs") or {})})
        self._turn, self._task = 0, task
        value, info = gymapi.reset(self._environment, seed, task.get("options"))
        self._last = self._observe(value, info)
        if self._tells:
            telling = spaces.describe(self._environment.action_space)
            self._last = replace(self._last, text=f"{self._last.text}\n{telling[0].upper()}{telling[1:]}.".lstrip())
        return self._last

    def step(self, action: Mapping[str, Any]) -> Step:
        """Do one action: `{"text": ...}`, or `{"value": ...}` in the action space's own form."""
        try:
            value = self._action(action)
        except InvalidActionError as error:
            if self._settings.invalid_action is None:
                raise
            return counted(self._settings.invalid_action, str(error), self._last)
        self._turn += 1
        observed, reward, terminated, truncated, info = gymapi.step(self._environment, value)
        self._last = self._observe(observed, info)
        truncated = truncated or (self._limit is not None and self._turn >= self._limit and not terminated)
        return Step(self._last, self._reward(reward), terminated, truncated)

    def schemas(self) -> Mapping[str, Any]:
        """An action is a text, or a value of the space."""
        own = spaces.schema(self._environment.action_space)
        text = {"type": "string", "description": "What the model wrote."}
        forms = [
            {"type": "object", "properties": {"text": text}, "required": ["text"]},
            {"type": "object", "properties": {"value": own}, "required": ["value"]},
        ]
        return {"action": {"anyOf": forms}}

    def close(self) -> None:
        """Close the environment."""
        close = getattr(self._environment, "close", None)
        if callable(close):
            close()

    @property
    def _tells(self) -> bool:
        shown = self._settings.observation
        told = shown.template is not None or shown.first is not None
        return not told and self._named is None and spaces.needs_telling(self._environment.action_space)

    def _reward(self, reward: Any) -> float | None:
        if reward is None:
            return None
        return self._settings.reward.scale * float(reward) + self._settings.reward.step

    def _observe(self, value: Any, info: Mapping[str, Any]) -> Observation:
        text, data, images = self._renderer.render(
            self._environment, value, turn=self._turn, task=self._task, info=info
        )
        return Observation(text, data, {"info": info} if info else {}, images)

    def _use(self, kwargs: dict[str, Any]) -> None:
        if kwargs != self._kwargs:
            environment = self._make(kwargs)
            self.close()
            self._environment, self._kwargs = environment, kwargs

    def _numbered(self) -> dict[str, Any] | None:
        space = self._environment.action_space
        if spaces.kind(space) != "Discrete" or space.n > spaces.NAMED:
            return None
        return {str(number): number for number in range(int(space.start), int(space.start + space.n))}

    def _action(self, action: Mapping[str, Any]) -> Any:
        space = self._environment.action_space
        if "value" in action:
            return spaces.from_value(space, action["value"])
        text = text_of(action)
        if self._named is None:
            return spaces.from_text(space, text)
        return spaces.from_value(space, self._named.parse(text))


def backend(source: EnvironmentSource) -> Backend:
    """The configured adapter; raises ConfigurationError naming the wrong field."""
    settings = parse(GymnasiumSettings, source.config)
    identifier = settings.id or source.entrypoint
    if not identifier:
        raise ConfigurationError(ENTRYPOINT_PATH, "an environment id such as FrozenLake-v1 or module:factory is needed")
    named(settings)
    check_templates(settings.observation)
    load_library("gymnasium", "Gymnasium")
    if is_factory(identifier):
        # Not gymnasium's own wrapper, which takes environments of today's form only.
        make: Make = partial(_made, load(identifier), identifier)
        limit = settings.max_episode_steps
    else:
        make, limit = partial(_registered, identifier, settings.max_episode_steps), None
    return Backend(name=identifier, create=partial(_create, settings, make, limit))


def _registered(identifier: str, limit: int | None, kwargs: Mapping[str, Any]) -> Any:
    import gymnasium

    return gymnasium.make(identifier, max_episode_steps=limit, **kwargs)


def _made(factory: Callable[..., Any], identifier: str, kwargs: Mapping[str, Any]) -> Any:
    environment = factory(**kwargs)
    try:
        gymapi.check_form(environment, identifier)
    except TypeError as error:
        raise ConfigurationError(ENTRYPOINT_PATH, str(error)) from None
    return environment


def _create(settings: GymnasiumSettings, make: Make, limit: int | None) -> EnvironmentAdapter:
    import gymnasium

    try:
        return GymnasiumAdapter(settings, make, limit)
    except (gymnasium.error.UnregisteredEnv, ModuleNotFoundError) as error:
        raise ConfigurationError(ENTRYPOINT_PATH, str(error)) from None
    except TypeError as error:
        raise ConfigurationError(f"{CONFIG_PATH}.kwargs", str(error)) from None
