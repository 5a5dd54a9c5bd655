"""Assignments, trajectories and batches: between agents, the data manager and the trainer.

Instants are Unix seconds, durations are seconds. Every hand-over is a lease: what is not renewed, answered or returned
in time goes back to where it came from, and an answer that comes twice counts once.
"""

from enum import StrEnum
from typing import Any, Self

from pydantic import Field, model_validator

from shoal.api.services.common import Finding, Message, Report
from shoal.api.services.tree import Segment, check_tree

__all__ = [
    "FAULTS",
    "Accepted",
    "AgentStatus",
    "Assignment",
    "AssignmentRenewed",
    "Batch",
    "BatchAck",
    "BatchRenewed",
    "BatchRequest",
    "ClaimRequest",
    "Claimed",
    "DataStatus",
    "EpisodeKind",
    "EpisodeOutcome",
    "EvaluationFigures",
    "FaultReport",
    "HandBack",
    "Prefix",
    "ProgressReport",
    "ReconcileRequest",
    "Reconciled",
    "RewardFigures",
    "Segment",
    "StalenessFigures",
    "TrainGroup",
    "TrainTrajectory",
    "TrainedBatch",
    "TrajectoryRecord",
]


class EpisodeKind(StrEnum):
    """What an episode is for."""

    TRAIN = "train"
    EVALUATE = "evaluate"


class EpisodeOutcome(StrEnum):
    """How an episode ended. Only the first three are trajectories; the others are faults and carry no reward.

    `unfit_task`: nobody can play the task, such as one whose first prompt is longer than the context.
    """

    OK = "ok"
    TRUNCATED = "truncated"
    INVALID_ACTION = "invalid_action"
    ENVIRONMENT_ERROR = "environment_error"
    GRADER_ERROR = "grader_error"
    ENGINE_ERROR = "engine_error"
    AGENT_ERROR = "agent_error"
    UNFIT_TASK = "unfit_task"
    CANCELLED = "cancelled"


FAULTS = frozenset(
    {
        EpisodeOutcome.ENVIRONMENT_ERROR,
        EpisodeOutcome.GRADER_ERROR,
        EpisodeOutcome.ENGINE_ERROR,
        EpisodeOutcome.AGENT_ERROR,
        EpisodeOutcome.UNFIT_TASK,
        EpisodeOutcome.CANCELLED,
    }
)
"""Outcomes that say nothing of the policy: they are retried, and never become a reward."""


class Prefix(Message):
    """What an interrupted episode had reached: its segments and the actions that lead back to the same state."""

    segments: list[Segment] = Field(default_factory=list)
    actions: list[dict[str, Any]] = Field(default_factory=list)
    turns: int = 0


class ClaimRequest(Message):
    """Ask for up to `count` assignments, waiting up to `wait` seconds for the first."""

    agent: str = Field(min_length=1, max_length=255)
    count: int = Field(1, ge=1, le=1024)
    wait: float = Field(0.0, ge=0, le=60)


class Assignment(Report):
    """One episode to run, until `lease_expires_at` unless renewed."""

    id: str
    task_id: str
    group_id: str
    environment: str
    task: dict[str, Any] = Field(default_factory=dict)
    kind: EpisodeKind = EpisodeKind.TRAIN
    policy_version: int = 0
    min_version: int | None = Field(None, description="Weights that the episode must be sampled with, or newer.")
    max_turns: int = 32
    success_turns: list[int] = Field(default_factory=list, description="Turns of the task's newest successes.")
    temperature: float = 1.0
    lease_expires_at: float = 0.0
    lease_seconds: float = 60.0
    attempt: int = Field(0, description="Counts hand-outs: what an agent says for an earlier one is not heard.")
    resume: Prefix | None = None


class Claimed(Report):
    """The assignments handed out; `done` says that there will be no more."""

    assignments: list[Assignment] = Field(default_factory=list)
    done: bool = False


class AssignmentRenewed(Report):
    """The assignment is held until then."""

    id: str
    lease_expires_at: float


class FaultReport(Message):
    """The episode could not be run to its end."""

    outcome: EpisodeOutcome
    detail: str = Field("", max_length=4096)
    attempt: int | None = Field(None, ge=0, description="The assignment's attempt; None: whichever is current.")

    @model_validator(mode="after")
    def _fault(self) -> Self:
        if self.outcome not in FAULTS:
            raise ValueError(f"outcome: {self.outcome} is no fault; post a trajectory")
        return self


class HandBack(Message):
    """A terminating agent gives an episode back, with what it had reached."""

    prefix: Prefix = Field(default_factory=Prefix)
    attempt: int | None = Field(None, ge=0, description="The assignment's attempt; None: whichever is current.")


class TrajectoryRecord(Message):
    """The record of one episode. Idempotent by `assignment_id`."""

    assignment_id: str = Field(min_length=1)
    episode_id: str = Field(min_length=1)
    segments: list[Segment]
    reward: float = Field(strict=True, allow_inf_nan=False)
    outcome: EpisodeOutcome = EpisodeOutcome.OK
    turns: int = Field(ge=0)
    turn_details: list[dict[str, Any]] = Field(default_factory=list)
    environment_seconds: float = 0.0
    model_seconds: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0

    @model_validator(mode="after")
    def _tree(self) -> Self:
        if self.outcome in FAULTS:
            raise ValueError(f"outcome: {self.outcome} is a fault and has no reward; post it to /assignments/ID:fail")
        check_tree(self.segments)
        return self


class Accepted(Report):
    """What was posted is stored; `duplicate` when it had been before, `state` what became of it."""

    id: str
    duplicate: bool = False
    state: str = ""


class TrainTrajectory(Report):
    """One trajectory as the trainer gets it."""

    id: str
    segments: list[Segment]
    reward: float
    outcome: EpisodeOutcome
    turns: int


class TrainGroup(Report):
    """The trajectories of one task that are compared with each other."""

    id: str
    task_id: str
    trajectories: list[TrainTrajectory]


class BatchRequest(Message):
    """Ask for a batch of `groups` groups for the weights `version`, waiting up to `wait` seconds."""

    trainer: str = Field(min_length=1, max_length=255)
    version: int = Field(ge=0)
    groups: int = Field(ge=1)
    wait: float = Field(0.0, ge=0, le=60)
    key: str = Field("", max_length=255, description="The same key gives the same batch, should an answer be lost.")
    vocabulary: int | None = Field(None, ge=1, description="Token ids of the trainer's model; others are refused.")


class Batch(Report):
    """Groups for one step, held until `expires_at` unless renewed."""

    id: str
    groups: list[TrainGroup]
    expires_at: float
    lease_seconds: float = 60.0


class BatchRenewed(Report):
    """The batch is held until then."""

    id: str
    expires_at: float


class BatchAck(Message):
    """Step `step` trained the batch, its weights are `version`, and a checkpoint holds them."""

    step: int = Field(ge=1)
    version: int = Field(ge=1)


class TrainedBatch(Message):
    """A batch, the step that trained it, and the version of the weights after that step."""

    id: str = Field(min_length=1)
    step: int = Field(ge=0)
    version: int = Field(ge=0)


class ReconcileRequest(Message):
    """A trainer that starts says what its checkpoint holds: those batches are consumed, other leased ones go back.

    A trainer of an earlier release names batches by their ids alone: they count under the checkpoint's step.
    """

    trainer: str = Field(min_length=1, max_length=255)
    step: int = Field(ge=0)
    version: int = Field(ge=0)
    consumed: list[TrainedBatch] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _of_checkpoint(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("consumed"), list):
            return value
        checkpoint = {"step": value.get("step"), "version": value.get("version")}
        named = [{"id": each, **checkpoint} if isinstance(each, str) else each for each in value["consumed"]]
        return {**value, "consumed": named}


class Reconciled(Report):
    """What became of the leased batches."""

    consumed: list[str] = Field(default_factory=list)
    released: list[str] = Field(default_factory=list)


class ProgressReport(Message):
    """The trainer's version, which staleness is measured against, and the step's metrics."""

    step: int = Field(ge=0)
    version: int = Field(ge=0)
    metrics: dict[str, float] = Field(default_factory=dict)


class RewardFigures(Report):
    """Mean rewards of trained trajectories: of the last step, over the window, the best window."""

    last: float | None = None
    window: float | None = None
    best: float | None = None


class EvaluationFigures(Report):
    """Share of fresh episodes that succeed, by when it was measured."""

    initial: float | None = None
    latest: float | None = None
    final: float | None = None
    version: int = -1
    episodes: int = 0


class StalenessFigures(Report):
    """Versions between sampling and training, over trained trajectories: their oldest token counts."""

    p50: int = 0
    max: int = 0
    histogram: dict[int, int] = Field(default_factory=dict)


class DataStatus(Report):
    """The data manager's state, as the operator and people read it."""

    step: int = 0
    steps: int = 0
    version: int = 0
    trajectories: dict[str, int] = Field(default_factory=dict, description="By state.")
    outcomes: dict[str, int] = Field(default_factory=dict, description="Finished episodes by outcome, faults included.")
    dropped: dict[str, int] = Field(default_factory=dict, description="Dropped trajectories by reason.")
    trained: int = 0
    reward: RewardFigures = Field(default_factory=RewardFigures)
    evaluation: EvaluationFigures = Field(default_factory=EvaluationFigures)
    staleness: StalenessFigures = Field(default_factory=StalenessFigures)
    trajectories_per_minute: float = 0.0
    consecutive_faults: int = Field(0, description="Of the cause that has most in a row.")
    tasks_set_aside: int = Field(0, description="Tasks that nobody can play.")
    set_aside: dict[str, str] = Field(default_factory=dict, description="The first of them, with their reasons.")
    halted: str = ""
    complete: bool = False
    findings: list[Finding] = Field(default_factory=list)
    uptime_seconds: float = 0.0


class AgentStatus(Report):
    """An agent process: episodes in work, finished ones by outcome, and turns done."""

    name: str = ""
    running: int = 0
    outcomes: dict[str, int] = Field(default_factory=dict)
    turns: int = 0
    findings: list[Finding] = Field(default_factory=list)
    uptime_seconds: float = 0.0
