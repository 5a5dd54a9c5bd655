"""What an inference library must offer so that Shoal can drive it: a synchronous core, stepped by one thread."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.api.services.common import VersionSpan
from shoal.api.services.models import FinishReason, ParsedAnswer, ParseRequest, SamplingParameters


class CoreError(Exception):
    """The core cannot work as it was configured; the text is for the user."""


class PromptError(ValueError):
    """One request cannot be served: too long, or token ids the model does not have."""


@dataclass(frozen=True, slots=True)
class Call:
    """One generation the core shall run. `key` is unique among the calls that the core has."""

    key: str
    prompt: Sequence[int]
    sampling: SamplingParameters


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a call. `logprobs[i]` is the log-probability of `tokens[i]` under the distribution that it was drawn
    from (see GenerateResult); `spans` cover `tokens` gaplessly.
    """

    key: str
    tokens: list[int]
    logprobs: list[float]
    spans: list[VersionSpan]
    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Load:
    """Occupation of a core: calls executing, calls waiting, fraction of the KV cache in use."""

    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0


class Core(ABC):
    """A model and the calls it is working on.

    Every method is called from one and the same thread. An exception other than those documented means that the core is
    lost: the process ends and is started anew.
    """

    @abstractmethod
    def open(self) -> None:
        """Load the model as version 0; raises CoreError."""

    @abstractmethod
    def add(self, call: Call) -> None:
        """Accept a call; raises PromptError."""

    @abstractmethod
    def abort(self, keys: Sequence[str] | None = None) -> list[Finished]:
        """End calls now, or all of them, and give what they have, with reason ABORT; unknown keys are ignored."""

    @abstractmethod
    def step(self) -> list[Finished]:
        """Advance all calls by one token where possible; gives those that ended. Called only while `unfinished`."""

    @property
    @abstractmethod
    def unfinished(self) -> bool:
        """Whether there are calls to step."""

    @property
    @abstractmethod
    def version(self) -> int:
        """The weight version that the core itself reports."""

    @property
    @abstractmethod
    def rounding(self) -> float:
        """Mean difference of log-probs from a float32 computation that this core's own arithmetic explains."""

    @abstractmethod
    def load_weights(self, folder: Path, version: int) -> None:
        """Replace the weights and forget all cached state; called while there are no calls.

        Any exception leaves weights that must not serve, but that can be replaced by another call of this.
        """

    @abstractmethod
    def score(self, tokens: Sequence[int]) -> list[float]:
        """Log-probability at temperature 1 of each of `tokens[1:]` given what is before it, computed as a prompt, not
        decoded.
        """

    @property
    def parsers(self) -> list[str]:
        """What `parse` finds in answers: "tools", "reasoning"."""
        return []

    def parse(self, request: ParseRequest) -> ParsedAnswer:
        """Tool calls and reasoning in an answer; the only method that any thread may call."""
        raise NotImplementedError("this core has no parsers")

    @abstractmethod
    def load(self) -> Load:
        """Occupation now."""

    @abstractmethod
    def close(self) -> None:
        """Free what the core holds."""
