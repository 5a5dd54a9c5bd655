"""OpenEnv environments: a server driven over its WebSocket protocol, or an Environment class in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from shoal.api.addresses import bracketed
from shoal.api.services.roles.environment import EnvironmentSource
from shoal.api.services.roles.environmentconfig import OpenEnvSettings
from shoal_workers.environment.actions import text_of
from shoal_workers.environment.adapter import (
    Backend,
    EnvironmentAdapter,
    InvalidActionError,
    LostError,
    Observation,
    Step,
)
from shoal_workers.environment.adapters.acting import counted, named
from shoal_workers.environment.adapters.entrypoints import is_factory, load, load_library
from shoal_workers.environment.adapters.openenv_sessions import LocalSession, RemoteSession, Server, Session
from shoal_workers.environment.adapters.settings import CONFIG_PATH, ENTRYPOINT_PATH, check_templates, parse
from shoal_workers.environment.render import Template, as_text
from shoal_workers.service.config import ConfigurationError

_RESERVED = frozenset({"seed", "episode_id"})


class OpenEnvAdapter(EnvironmentAdapter):
    """One OpenEnv session, opened for each holder anew. A task's fields are arguments of reset."""

    def __init__(self, settings: OpenEnvSettings, open_session: Callable[[], Session]) -> None:
        self._settings = settings
        self._open = open_session
        self._named = named(settings)
        self._template = _template(settings.observation.template)
        self._first = _template(settings.observation.first) or self._template
        self._last = Observation("")
        self._session: Session | None = open_session()

    def reset(self, seed: int | None, task: Mapping[str, Any]) -> Observation:
        """Start an episode."""
        arguments = {key: value for key, value in task.items() if key not in _RESERVED}
        if seed is not None:
            arguments["seed"] = seed
        try:
            payload = self._opened().reset(arguments)
        except LostError:
            # Nothing of the episode is lost yet: the server may have restarted while the slot was idle.
            self.close()
            payload = self._opened().reset(arguments)
        self._last = self._observe(payload, self._first)
        return self._last

    def step(self, action: Mapping[str, Any]) -> Step:
        """Send an action."""
        try:
            payload = self._opened().step(self._action(action))
        except InvalidActionError as error:
            if self._settings.invalid_action is None:
                raise
            return counted(self._settings.invalid_action, str(error), self._last)
        self._last = self._observe(payload, self._template)
        done = bool(payload.get("done", False))
        truncated = done and bool(self._last.info.get("truncated", False))
        reward = payload.get("reward")
        return Step(self._last, None if reward is None else float(reward), done and not truncated, truncated)

    def recycle(self) -> None:
        """End the session, so that the next holder gets an environment of its own."""
        self.close()

    def mcp(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The environment's own tools."""
        return self._opened().mcp(request)

    def schemas(self) -> Mapping[str, Any]:
        """The environment's own schemas."""
        return self._opened().schemas()

    def alive(self) -> bool:
        """Whether the session is still there."""
        session = self._session
        return session is None or session.alive()

    def abort(self) -> None:
        """Cut off a session that hangs, so that the server's place for it is free again."""
        session = self._session
        if session is not None:
            session.abort()

    def close(self) -> None:
        """End the session."""
        if self._session is not None:
            session, self._session = self._session, None
            session.close()

    def _opened(self) -> Session:
        if self._session is None:
            self._session = self._open()
        return self._session

    def _action(self, action: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._named is None and set(action) != {"text"}:
            return action
        text = text_of(action)
        value: Any = text if self._named is None else self._named.parse(text)
        named = value if isinstance(value, Mapping) else {self._settings.action_field: value}
        return {**self._settings.action_defaults, **named}

    def _observe(self, payload: Mapping[str, Any], template: Template | None) -> Observation:
        data = payload.get("observation", {})
        fields = dict(data) if isinstance(data, Mapping) else {"observation": data}
        info = fields.pop("metadata", None) or payload.get("metadata") or {}
        text = as_text(fields) if template is None else template.fill({**fields, "metadata": info})
        return Observation(text, fields, info, wire=fields)


def backend(source: EnvironmentSource) -> Backend:
    """The configured adapter; raises ConfigurationError naming the wrong field."""
    settings = parse(OpenEnvSettings, source.config)
    named(settings)
    check_templates(settings.observation)
    entrypoint = bracketed(source.entrypoint or "")
    if is_factory(entrypoint):
        if settings.action is None:
            raise ConfigurationError(f"{CONFIG_PATH}.action", "module:Class of the environment's action is needed")
        action = load(settings.action, f"{CONFIG_PATH}.action")
        session = partial(LocalSession, load(entrypoint), action, settings.kwargs)
        return Backend(name=entrypoint, create=partial(_create_local, settings, session))
    if not entrypoint.startswith(("http://", "https://", "ws://", "wss://")):
        raise ConfigurationError(ENTRYPOINT_PATH, f"{entrypoint!r} is neither a URL nor module:factory")
    load_library("websockets", "OpenEnv")
    server = Server(entrypoint)
    remote = partial(RemoteSession, server, settings.connect_timeout, settings.message_timeout)
    create = partial(OpenEnvAdapter, settings, remote)
    return Backend(name=entrypoint, create=create, probe=False)


def _create_local(settings: OpenEnvSettings, session: Callable[[], Session]) -> EnvironmentAdapter:
    try:
        return OpenEnvAdapter(settings, session)
    except TypeError as error:
        raise ConfigurationError(f"{CONFIG_PATH}.kwargs", str(error)) from None


def _template(text: str | None) -> Template | None:
    return None if text is None else Template(text)
