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

    last: Annotated[str, Field(description="Mean of the last step; empty before the first step.")] = ""
    best: Annotated[str, Field(description="Best value that `window` has had; empty before the first step.")] = ""
    window: Annotated[
        str,
        Field(
            description=(
                "Mean over the last steps, as many as `spec.successPolicy.window` (5 without one); empty before the "
                "first step."
            )
        ),
    ] = ""


class EvaluationStatus(StatusModel):
    """Success on fresh episodes, as decimal text; empty until measured."""

    initial: Annotated[str, Field(description="Success of the policy before it was trained.")] = ""
    latest: Annotated[str, Field(description="Success at the newest measurement.")] = ""
    final: Annotated[str, Field(description="Success after the last step.")] = ""
    version: Annotated[int, Field(description="Weight version of `latest`; -1 before the first measurement.")] = -1


class TrajectoryCounts(StatusModel):
    """Trajectories by what became of them."""

    recorded: Annotated[
        int, Field(description="Episodes that ended with an outcome of their own, faults not among them.")
    ] = 0
    trained: Annotated[int, Field(description="Trajectories that a training step used.")] = 0
    dropped: Annotated[
        int,
        Field(
            description=(
                "Trajectories that were recorded and will not be trained on, for example because they were too stale."
            )
        ),
    ] = 0
    faults: Annotated[
        int,
        Field(
            description=(
                "Episodes that an engine, an environment or a grader failed; they are played again and never count as "
                "reward 0."
            )
        ),
    ] = 0


class StalenessStatus(StatusModel):
    """Versions between sampling and training, over trained tokens."""

    p50: Annotated[int, Field(description="Median; 0 before the first step.")] = 0
    max: Annotated[int, Field(description="Largest; 0 before the first step.")] = 0


class RoleAttempts(StatusModel):
    """Failures so far, by role; `counted` has those of pods that are there, by UID, so that none counts twice."""

    trainer: Annotated[int, Field(description="Failures of the trainer.")] = 0
    data: Annotated[int, Field(description="Failures of the data manager.")] = 0
    agents: Annotated[int, Field(description="Failures of agents, all together.")] = 0
    counted: Annotated[
        dict[str, int],
        Field(description="Failures of the pods that exist, by UID; an operator that restarts counts on from here."),
    ] = Field(default_factory=dict)


class RLJobStatus(StatusModel):
    """Observed state of the job; written by the operator only."""

    observed_generation: Annotated[
        int, Field(description="Generation of the spec that this status was decided for; 0 before the first pass.")
    ] = 0
    phase: Annotated[JobPhase, Field(description="The life of the job in one word.")] = JobPhase.PENDING
    step: Annotated[
        int,
        Field(
            description=(
                "Training steps done. Keeps its last value while the data manager does not answer, as do the figures "
                "below."
            )
        ),
    ] = 0
    steps: Annotated[int, Field(description="Training steps that the job asks for.")] = 0
    weight_version: Annotated[
        int,
        Field(
            description=(
                "Newest version of the weights that training has produced; 0 is the model that the job started from."
            )
        ),
    ] = 0
    reward: Annotated[RewardStatus, Field(description="Rewards of trained trajectories.")] = Field(
        default_factory=RewardStatus
    )
    evaluation: Annotated[EvaluationStatus, Field(description="Success on fresh episodes.")] = Field(
        default_factory=EvaluationStatus
    )
    trajectories: Annotated[TrajectoryCounts, Field(description="What became of the trajectories.")] = Field(
        default_factory=TrajectoryCounts
    )
    staleness: Annotated[StalenessStatus, Field(description="How old trained tokens were.")] = Field(
        default_factory=StalenessStatus
    )
    trajectories_per_minute: Annotated[
        str, Field(description="Trajectories recorded in a minute, as decimal text; empty before the first report.")
    ] = ""
    attempts: Annotated[
        RoleAttempts,
        Field(
            description=(
                "Failures so far, by role; `spec.backoffLimit` says how many the job survives and what counts as one."
            )
        ),
    ] = Field(default_factory=RoleAttempts)
    admission: Annotated[
        AdmissionStatus | None,
        Field(description="What the job's queue gave its pods; unset while the job is in no queue or not admitted."),
    ] = None
    start_time: Annotated[
        str | None,
        Field(
            description="When the job last began to run, in RFC 3339. Unset while it is suspended or waits in a queue."
        ),
    ] = None
    completion_time: Annotated[
        str | None, Field(description="When the job completed or failed, in RFC 3339. Unset before that.")
    ] = None
    conditions: Annotated[
        list[Condition],
        ListMap("type"),
        Field(
            description=(
                "Suspended, EnvironmentsReady, FleetReady, TrainerReady, Progressing, Degraded, Admitted (in a "
                "queue), and Complete or Failed: once one of these two is True, the job never runs again."
            ),
            max_length=16,
        ),
    ] = Field(default_factory=list)
