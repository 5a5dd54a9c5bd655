"""The trainer's status."""

from enum import StrEnum

from pydantic import Field

from shoal.api.services.common import Report


class TrainerPhase(StrEnum):
    """What the trainer is doing."""

    STARTING = "Starting"
    WAITING = "Waiting"
    TRAINING = "Training"
    DONE = "Done"


class TrainerStatus(Report):
    """The trainer's state. Seconds only grow; `logprob_gap_max` is the greatest |trainer - engine| so far."""

    phase: TrainerPhase = TrainerPhase.STARTING
    step: int = 0
    steps: int = 0
    version: int = 0
    checkpoint_step: int = 0
    busy_seconds: float = 0.0
    wait_seconds: float = 0.0
    uptime_seconds: float = 0.0
    logprob_gap_max: float = 0.0
    metrics: dict[str, float] = Field(default_factory=dict)
