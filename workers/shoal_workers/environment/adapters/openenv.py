"""OpenEnv environments: a server driven over its WebSocket protocol, or an Environment class in this process.

The wire protocol is OpenEnv's own (openenv.core.env_server): JSON messages `{"type": "reset" | "step" | "state" |
"close", "data": ...}`, answered by `{"type": "observation" | "state" | "error", "data": ...}`. One connection is one
session with an environment of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import orjson
from pydantic import Field

from shoal.api.addresses import bracketed
from shoal.api.services.roles.environment import EnvironmentSource
from shoal_workers.environment.actions import text_of
from shoal_workers.environment.adapter import (
    Backend,
    EnvironmentAdapter,
    InvalidActionError,
    Observation,
    StartingError,
    Step,
)
from shoal_workers.environment.adapters.acting import ActionSettings
from shoal_workers.environment.adapters.entrypoints import is_factory, load, load_library
from shoal_workers.environment.adapters.settings import CONFIG_PATH, ENTRYPOINT_PATH, Settings, parse
from shoal_workers.environment.render import Template, TemplateError, as_text
from shoal_workers.service.config import ConfigurationError

MAX_MESSAGE_BYTES = 100 * 1024 * 1024
_RESERVED = frozenset({"seed", "episode_id"})


class OpenEnvObservation(Settings):
    """How an observation is shown: a template over its fields; default: its `text`, or all of it as JSON."""

    template: str | None = None
    first: str | None = None


class OpenEnvSettings(ActionSettings):
    """`environment.config` of protocol OpenEnv.

    What a model wrote is sent as the field `actionField` of the action, beside `actionDefaults`; with `actions`, as the
    action that it names (a mapping, or a value for that field). An action that is not of the form `{"text": ...}` is
    sent as it is. Times are seconds.
    """

    action_field: str = "message"
    action_defaults: dict[str, Any] = Field(default_factory=dict)
    observation: OpenEnvObservation = Field(default_factory=OpenEnvObservation)
    kwargs: dict[str, Any] = Field(default_factory=dict, description="For module:factory.")
    action: str | None = Field(None, description="module:Class of the action, for module:factory.")
    connect_timeout: float = Field(10.0, gt=0)
    message_timeout: float = Field(300.0, gt=0)


class _Session:
    """One environment behind OpenEnv's protocol: what both kinds below offer."""

    def reset(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The payload of a reset."""
        raise NotImplementedError

    def step(self, action: Mapping[str, Any]) -> Mapping[str, Any]:
        """The payload of a step; raises InvalidActionError for an action that does not fit the schema."""
        raise NotImplementedError

    def close(self) -> None:
        """End the session."""
        raise NotImplementedError


class RemoteSession(_Session):
    """A session of an OpenEnv server."""

    def __init__(self, url: str, settings: OpenEnvSettings) -> None:
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        self._timeout = settings.message_timeout
        self._stack = contextlib.ExitStack()
        try:
            self._socket = self._stack.enter_context(
                connect(
                    websocket_url(url),
                    open_timeout=settings.connect_timeout,
                    max_size=MAX_MESSAGE_BYTES,
                    compression=None,
                    proxy=None,
                )
            )
        except (OSError, TimeoutError, WebSocketException) as error:
            raise StartingError(f"cannot reach the OpenEnv server at {url}: {error}") from None

    def reset(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a reset."""
        return self._ask({"type": "reset", "data": dict(arguments)})

    def step(self, action: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a step."""
        return self._ask({"type": "step", "data": dict(action)})

    def close(self) -> None:
        """Tell the server, and disconnect."""
        with contextlib.suppress(Exception):
            self._socket.send('{"type":"close"}')
        self._stack.close()

    def _ask(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        self._socket.send(orjson.dumps(message).decode())
        answer = orjson.loads(self._socket.recv(self._timeout))
        data: dict[str, Any] = answer.get("data") or {}
        if answer.get("type") == "error":
            detail = f"{data.get('message', 'no message')} ({data.get('code', 'no code')})"
            if data.get("code") == "VALIDATION_ERROR" and message["type"] == "step":
                raise InvalidActionError(f"{detail}: {data.get('errors', '')}")
            raise RuntimeError(f"the OpenEnv server answered with an error: {detail}")
        return data


class LocalSession(_Session):
    """An `openenv.core` Environment object in this process."""

    def __init__(self, factory: Any, action: Any, kwargs: Mapping[str, Any]) -> None:
        self._environment = factory(**kwargs)
        self._action = action

    def reset(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Reset the object."""
        return _payload(self._environment.reset(**arguments))

    def step(self, action: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make the action and do it."""
        try:
            made = self._action.model_validate(action)
        except ValueError as error:
            raise InvalidActionError(str(error)) from None
        return _payload(self._environment.step(made))

    def close(self) -> None:
        """Close the object, where it can be closed."""
        close = getattr(self._environment, "close", None)
        if callable(close):
            close()


class OpenEnvAdapter(EnvironmentAdapter):
    """One OpenEnv session, opened for each holder anew. A task's fields are arguments of reset."""

    def __init__(self, settings: OpenEnvSettings, open_session: Callable[[], _Session]) -> None:
        self._settings = settings
        self._open = open_session
        self._named = settings.named()
        self._template = _template(settings.observation.template)
        self._first = _template(settings.observation.first) or self._template
        self._last = Observation("")
        self._session: _Session | None = open_session()

    def reset(self, seed: int | None, task: Mapping[str, Any]) -> Observation:
        """Start an episode."""
        arguments = {key: value for key, value in task.items() if key not in _RESERVED}
        if seed is not None:
            arguments["seed"] = seed
        self._last = self._observe(self._opened().reset(arguments), self._first)
        return self._last

    def step(self, action: Mapping[str, Any]) -> Step:
        """Send an action."""
        try:
            payload = self._opened().step(self._action(action))
        except InvalidActionError as error:
            if self._settings.invalid_action is None:
                raise
            return self._settings.invalid_action.apply(str(error), self._last)
        self._last = self._observe(payload, self._template)
        done = bool(payload.get("done", False))
        truncated = done and bool(self._last.info.get("truncated", False))
        reward = payload.get("reward")
        return Step(self._last, None if reward is None else float(reward), done and not truncated, truncated)

    def recycle(self) -> None:
        """End the session, so that the next holder gets an environment of its own."""
        self.close()

    def verify(self) -> None:
        """A session must open; that is cheaper than a reset and is what the next holder needs."""
        self._opened()

    def close(self) -> None:
        """End the session."""
        if self._session is not None:
            session, self._session = self._session, None
            session.close()

    def _opened(self) -> _Session:
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
        return Observation(text, fields, info)


def websocket_url(url: str) -> str:
    """The address of the WebSocket of an OpenEnv server with this base URL."""
    base = url.rstrip("/")
    for scheme, replacement in (("http://", "ws://"), ("https://", "wss://")):
        if base.startswith(scheme):
            base = replacement + base[len(scheme) :]
    return base + "/ws"


def backend(source: EnvironmentSource) -> Backend:
    """The configured adapter; raises ConfigurationError naming the wrong field."""
    settings = parse(OpenEnvSettings, source.config)
    settings.named()
    for name in ("template", "first"):
        try:
            _template(getattr(settings.observation, name))
        except TemplateError as error:
            raise ConfigurationError(f"{CONFIG_PATH}.observation.{name}", str(error)) from None
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
    create = partial(OpenEnvAdapter, settings, partial(RemoteSession, entrypoint, settings))
    return Backend(name=entrypoint, create=create, probe=False)


def _create_local(settings: OpenEnvSettings, session: Callable[[], _Session]) -> EnvironmentAdapter:
    try:
        return OpenEnvAdapter(settings, session)
    except TypeError as error:
        raise ConfigurationError(f"{CONFIG_PATH}.kwargs", str(error)) from None


def _template(text: str | None) -> Template | None:
    return None if text is None else Template(text)


def _payload(observation: Any) -> Mapping[str, Any]:
    fields = observation.model_dump(exclude={"reward", "done"})
    return {"observation": fields, "reward": observation.reward, "done": observation.done}
