"""What an RLJob's status tells."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from shoal.api.base import Condition, StatusModel
from shoal.api.markers import ListMap
from shoal.api.v1alpha1.jobqueue import AdmissionStatus


class JobPhase(StrEnum):
    """The job's life in one word; the conditions tell why."""

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


class RewardStatus(StatusModel):
    """Rewards of trained trajectories, as decimal text."""

    last: str = ""
    best: str = ""
    window: str = ""


class EvaluationStatus(StatusModel):
    """Success on fresh episodes, as decimal text; empty until measured."""

    initial: str = ""
    latest: str = ""
    final: str = ""
    version: int = -1


class TrajectoryCounts(StatusModel):
    """Trajectories by what became of them."""

    recorded: int = 0
    trained: int = 0
    dropped: int = 0
    faults: int = 0


class StalenessStatus(StatusModel):
    """Versions between sampling and training, over trained tokens."""

    p50: int = 0
    max: int = 0


class RoleAttempts(StatusModel):
    """Failures so far, by role; `counted` has those of pods that are there, by UID, so that none counts twice."""

    trainer: int = 0
    data: int = 0
    agents: int = 0
    counted: dict[str, int] = Field(default_factory=dict)


class RLJobStatus(StatusModel):
    """What is."""

    observed_generation: int = 0
    phase: JobPhase = JobPhase.PENDING
    step: int = 0
    steps: int = 0
    weight_version: int = 0
    reward: RewardStatus = Field(default_factory=RewardStatus)
    evaluation: EvaluationStatus = Field(default_factory=EvaluationStatus)
    trajectories: TrajectoryCounts = Field(default_factory=TrajectoryCounts)
    staleness: StalenessStatus = Field(default_factory=StalenessStatus)
    trajectories_per_minute: str = ""
    attempts: RoleAttempts = Field(default_factory=RoleAttempts)
    admission: AdmissionStatus | None = None
    start_time: str | None = None
    completion_time: str | None = None
    conditions: Annotated[list[Condition], ListMap("type"), Field(max_length=16)] = Field(default_factory=list)
