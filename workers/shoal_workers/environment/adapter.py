"""What an environment library has to look like to be hosted: one small blocking interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


class InvalidActionError(Exception):
    """The action is malformed, and the environment does not say how that counts; its state has not changed."""


class GraderError(Exception):
    """The environment worked, but what computes its reward failed."""


class StartingError(Exception):
    """The environment is not there yet (a container that is still starting); worth trying again."""


class LostError(Exception):
    """The environment's process or connection is gone; it says nothing against a new instance."""


class NoRoomError(Exception):
    """What serves the environment holds no more instances, and this member has all of them: the slot cannot be."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What the environment shows: `text` for a model, `data` (JSON or numpy) for programs, `info` for the record.

    `images` are pictures by the path of what they show, each `{"media_type": "image/png", "data": BASE64}`. `wire` is
    the observation in OpenEnv's own form, where the environment has one: what typed clients of it read.
    """

    text: str
    data: Any = None
    info: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    wire: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """The effect of one action. `reward` None means that the environment gave none, which is not the same as 0.

    `evaluate`, where it is set, computes the reward, under a time limit of its own; whatever it raises is a grader's
    failure. It must return a number.
    """

    observation: Observation
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False
    evaluate: Callable[[], float] | None = None


class EnvironmentAdapter(ABC):
    """One instance of an environment. Called from one thread at a time, always the same one; may block.

    Any exception but InvalidActionError and GraderError means that the instance is broken.
    """

    @abstractmethod
    def reset(self, seed: int | None, task: Mapping[str, Any]) -> Observation:
        """Start an episode; the same seed and task give the same episode where the library can do that."""

    @abstractmethod
    def step(self, action: Mapping[str, Any]) -> Step:
        """Do one action: `{"text": ...}` as a model wrote it, or the library's own form."""

    def state(self) -> Mapping[str, Any]:
        """Extra fields for OpenEnv's `/state`; none by default."""
        return {}

    def schemas(self) -> Mapping[str, Any]:
        """JSON schemas of `action`, `observation` and `state` for OpenEnv's `/schema`; the backend's stand in."""
        return {}

    def mcp(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to a JSON-RPC request of MCP; by default that there are no tools."""
        error = {"code": -32603, "message": "Environment does not support MCP"}
        return {"jsonrpc": "2.0", "id": request.get("id"), "error": error}

    def alive(self) -> bool:
        """Whether an idle instance can still be used, as far as is known at once; asked from another thread."""
        return True

    def abort(self) -> None:
        """Give back what others need, from another thread, while a call hangs. The instance is not used again."""
        return

    def recycle(self) -> None:
        """Make ready for the next holder after a clean episode; by default every reset does that by itself."""
        return

    def verify(self) -> None:
        """Raise when the instance is not fit for a new episode. By default: a reset must work."""
        self.reset(None, {})

    @abstractmethod
    def close(self) -> None:
        """Let go of everything the instance holds."""


@dataclass(frozen=True)
class Backend:
    """A configured adapter: `create` makes one instance (raising StartingError for "not yet").

    `probe` says that making an instance at start-up is cheap and proves the configuration.
    """

    name: str
    create: Callable[[], EnvironmentAdapter]
    probe: bool = True
    action_schema: Mapping[str, Any] = field(
        default_factory=lambda: {
            "type": "object",
            "properties": {"text": {"type": "string", "description": "What the model wrote."}},
            "required": ["text"],
            "additionalProperties": True,
        }
    )
