"""The trainer's status."""

from enum import StrEnum

from pydantic import Field

from shoal.api.services.common import Finding, Report


class TrainerPhase(StrEnum):
    """What the trainer is doing."""

    STARTING = "Starting"
    WAITING = "Waiting"
    TRAINING = "Training"
    DONE = "Done"


class TrainerStatus(Report):
    """The trainer's state. `logprob_gap_max` is the greatest |trainer - engine| so far.

    Seconds only grow: `busy_seconds` in steps, from the batch to its acknowledgement, `wait_seconds` for batches; what
    is left of `uptime_seconds` was neither. `detail`: why the gateway does not have the newest weights, "" when it has.
    """

    phase: TrainerPhase = TrainerPhase.STARTING
    step: int = 0
    steps: int = 0
    version: int = 0
    checkpoint_step: int = 0
    busy_seconds: float = 0.0
    wait_seconds: float = 0.0
    uptime_seconds: float = 0.0
    logprob_gap_max: float = 0.0
    detail: str = ""
    findings: list[Finding] = Field(default_factory=list)
    metrics: dict[str, float] = Field(default_factory=dict)
