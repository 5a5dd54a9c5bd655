"""What a harness is: the program that plays one episode, between a model and an environment."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from shoal.api.services.roles.agent import AgentConfig
from shoal.api.services.trajectories import Assignment, EpisodeOutcome, Segment
from shoal_workers.agent.errors import EpisodeFaultError
from shoal_workers.agent.model import Model
from shoal_workers.agent.tape import Tape
from shoal_workers.environment.client import EnvironmentClient

__all__ = ["Episode", "EpisodeEnd", "EpisodeFaultError", "FleetInUseError", "Harness", "HarnessFactory"]


class FleetInUseError(Exception):
    """The fleet has another run's weights: the episode can only be played later. No fault of anybody's."""


@dataclass
class Episode:
    """One attempt at a task, as a harness gets it. The tape outlives an interruption: it is what is handed on."""

    assignment: Assignment
    environment: EnvironmentClient
    model: Model
    tape: Tape = field(default_factory=Tape)


@dataclass(frozen=True)
class EpisodeEnd:
    """How an episode ended that says something of the policy."""

    outcome: EpisodeOutcome
    reward: float
    turns: int
    segments: list[Segment]
    details: list[dict[str, Any]] = field(default_factory=list)


class Harness(Protocol):
    """Plays episodes; one instance serves all episodes of the process, so it keeps no state of theirs."""

    async def play(self, episode: Episode) -> EpisodeEnd:
        """Play one episode to its end; raises EpisodeFaultError, or ProblemError of the service that failed."""
        ...


HarnessFactory = Callable[[AgentConfig], Harness]
