"""Single-player TextArena games."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from shoal.api.services.roles.environment import EnvironmentSource
from shoal.api.services.roles.environmentconfig import TextArenaSettings
from shoal_workers.environment.actions import text_of
from shoal_workers.environment.adapter import Backend, EnvironmentAdapter, InvalidActionError, Observation, Step
from shoal_workers.environment.adapters.acting import counted, named
from shoal_workers.environment.adapters.entrypoints import is_factory, load, load_library
from shoal_workers.environment.adapters.fields import grid_text, plain
from shoal_workers.environment.adapters.settings import CONFIG_PATH, ENTRYPOINT_PATH, check_templates, parse
from shoal_workers.environment.adapters.textdata import MissingDataError, no_downloads
from shoal_workers.environment.generators import seed_globals
from shoal_workers.environment.render import Template
from shoal_workers.service.config import ConfigurationError

PLAYER = 0


class TextArenaAdapter(EnvironmentAdapter):
    """One single-player game. A task may carry `kwargs`, merged over the configured ones."""

    def __init__(self, settings: TextArenaSettings, make: Callable[[Mapping[str, Any]], Any]) -> None:
        self._settings = settings
        self._make = make
        self._kwargs: dict[str, Any] = dict(settings.kwargs)
        self._game = make(self._kwargs)
        self._named = named(settings)
        self._template = _template(settings.observation.template)
        self._first = _template(settings.observation.first) or self._template
        self._kinds = frozenset(settings.observation.kinds)
        self._turn = 0
        self._task: Mapping[str, Any] = {}
        self._last = Observation("")

    def reset(self, seed: int | None, task: Mapping[str, Any]) -> Observation:
        """Start a game; the same seed gives the same game."""
        kwargs = {**self._settings.kwargs, **(task.get("kwargs") or {})}
        if kwargs != self._kwargs:
            self._game, self._kwargs = self._make(kwargs), kwargs
        self._turn, self._task = 0, task
        if seed is not None:
            # Games draw from Python's global generator, of which each slot has its own.
            seed_globals(seed)
        self._game.reset(num_players=1, seed=seed)
        self._last = self._observe({})
        return self._last

    def step(self, action: Mapping[str, Any]) -> Step:
        """Send one action to the game, which decides itself how an impossible move counts."""
        try:
            text = text_of(action)
            sent = str(self._named.parse(text)) if self._named is not None else text
        except InvalidActionError as error:
            if self._settings.invalid_action is None:
                raise
            return counted(self._settings.invalid_action, str(error), self._last)
        self._turn += 1
        done, info = self._game.step(action=sent)
        if not done:
            self._last = self._observe(info)
            return Step(self._last)
        return self._ended(info)

    def close(self) -> None:
        """Nothing is held beyond memory."""

    def _ended(self, info: Mapping[str, Any]) -> Step:
        rewards, game_info = self._game.close()
        own = game_info.get(PLAYER, {})
        self._last = self._observe({**info, **own})
        reward = None if rewards is None else float(rewards[PLAYER])
        limit = getattr(self._state, "max_turns", None)
        out_of_turns = limit is not None and self._state.turn >= limit and "limit" in str(own.get("reason", "")).lower()
        return Step(self._last, reward, terminated=not out_of_turns, truncated=out_of_turns)

    def _observe(self, info: Mapping[str, Any]) -> Observation:
        messages = self._state.observations.get(PLAYER, [])
        self._state.observations[PLAYER] = []
        named = [_named(*message) for message in messages]
        kept = [text for sender, text, kind in named if self._shown(sender, kind)]
        text = "\n".join(part.strip("\n") for part in kept)
        template = self._first if self._turn == 0 else self._template
        if template is not None:
            fields = {name: grid_text(plain(value)) for name, value in self._state.game_state.items()}
            text = template.fill({**fields, "text": text, "turn": self._turn, "task": self._task})
        return Observation(text, None, {"info": dict(info)} if info else {})

    def _shown(self, sender: int, kind: str) -> bool:
        # The game repeats the player's own move to it; a model has that in its context already.
        return kind in self._kinds if self._kinds else not (sender == PLAYER and kind == "PLAYER_ACTION")

    @property
    def _state(self) -> Any:
        game = self._game
        while hasattr(game, "env"):
            game = game.env
        return game.state


def _named(sender: int, message: Any, kind: Any) -> tuple[int, str, str]:
    """A message with its kind's name. Some games of 0.7 swap the two: the text is where the kind belongs."""
    if isinstance(kind, str):
        return sender, kind, "GAME_MESSAGE"
    return sender, str(message), kind.name


def _template(text: str | None) -> Template | None:
    return None if text is None else Template(text)


def backend(source: EnvironmentSource) -> Backend:
    """The configured adapter; raises ConfigurationError naming the wrong field."""
    settings = parse(TextArenaSettings, source.config)
    identifier = settings.id or source.entrypoint
    if not identifier:
        raise ConfigurationError(ENTRYPOINT_PATH, "a game's id such as FrozenLake-v0 or module:factory is needed")
    named(settings)
    check_templates(settings.observation)
    library = load_library("textarena", "TextArena")
    no_downloads()
    for index, kind in enumerate(settings.observation.kinds):
        if kind not in library.ObservationType.__members__:
            known = ", ".join(library.ObservationType.__members__)
            raise ConfigurationError(f"{CONFIG_PATH}.observation.kinds.{index}", f"{kind!r} is not one of: {known}")
    factory = load(identifier) if is_factory(identifier) else partial(library.make, identifier)
    return Backend(name=identifier, create=partial(_create, settings, lambda kwargs: factory(**kwargs)))


def _create(settings: TextArenaSettings, make: Callable[[Mapping[str, Any]], Any]) -> EnvironmentAdapter:
    try:
        adapter = TextArenaAdapter(settings, make)
        adapter.reset(0, {})
    except LookupError as error:
        if isinstance(error, MissingDataError) or "nltk" in type(error).__module__ or "NLTK" in str(error):
            raise ConfigurationError(ENTRYPOINT_PATH, " ".join(str(error).split())[:600]) from None
        raise
    except TypeError as error:
        raise ConfigurationError(f"{CONFIG_PATH}.kwargs", str(error)) from None
    except AssertionError as error:
        raise ConfigurationError(ENTRYPOINT_PATH, f"not a single-player game: {error}") from None
    except (ValueError, ImportError) as error:
        raise ConfigurationError(ENTRYPOINT_PATH, str(error)) from None
    return adapter
