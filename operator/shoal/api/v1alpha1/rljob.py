"""RLJob: agents, data manager and trainer that improve a policy, using pools and fleets."""

from typing import Annotated, ClassVar

from pydantic import Field

from shoal.api.base import ApiModel
from shoal.api.markers import Cel, Column, ListMap, Resource, immutable
from shoal.api.v1alpha1.common import Decimal, HelperPods, ModelSpec, SharedStorage, name_rules
from shoal.api.v1alpha1.jobagents import Agents
from shoal.api.v1alpha1.jobdata import Data
from shoal.api.v1alpha1.jobplanes import EnvironmentSource, FleetSource
from shoal.api.v1alpha1.jobstatus import RLJobStatus
from shoal.api.v1alpha1.jobtrainer import Trainer


class BackoffLimit(ApiModel):
    """Failures of a role after which the job fails.

    A failure is an end of the role's container `main`, or of an init container, that it brought about itself: an exit,
    running out of its memory limit, a failed liveness probe. Never counted: sidecars; pods that end by preemption,
    eviction, drain or the loss of their node (`DisruptionTarget`), by deletion, or because their node turned them away,
    was restarted or was shut down. Zero fails the job at the first failure.
    """

    trainer: Annotated[int, Field(ge=0, le=10_000, description="Failures of the trainer that the job survives.")] = 6
    data: Annotated[int, Field(ge=0, le=10_000, description="Failures of the data manager that the job survives.")] = 6
    agents: Annotated[
        int, Field(ge=0, le=10_000, description="Failures of agents, all together, that the job survives.")
    ] = 20


class SuccessPolicy(ApiModel):
    """Stops the job before its last step, once the policy is good enough."""

    reward: Annotated[Decimal, Field(description="Mean reward that ends the job, as decimal text.")]
    window: Annotated[int, Field(ge=1, le=100_000, description="Trained steps whose mean reward must reach it.")] = 5


class RLJobSpec(ApiModel):
    """What the user asks for."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("self.model == oldSelf.model", "model is immutable", field_path=".model"),
        Cel("self.storage == oldSelf.storage", "storage is immutable", field_path=".storage"),
    )

    model: ModelSpec
    fleet: FleetSource
    environments: Annotated[
        list[EnvironmentSource],
        ListMap("name"),
        Field(min_length=1, max_length=16, description="The pools that agents lease from."),
    ]
    agents: Agents = Field(default_factory=Agents)
    data: Data = Field(default_factory=Data)
    trainer: Trainer
    helpers: HelperPods | None = Field(
        None,
        description="Resources and placement of the data manager, and of owned pools' and fleets' helpers.",
    )
    storage: SharedStorage
    seed: Annotated[
        int, Field(ge=0, le=2_147_483_647, description="Seed of everything that is drawn at random by Shoal itself.")
    ] = 0
    suspend: Annotated[
        bool, Field(description="Stop the job's pods; it resumes from its checkpoint when this is false again.")
    ] = False
    managed_by: Annotated[
        str,
        Field(
            min_length=1,
            max_length=63,
            description="Another controller's name hands the job over to it, such as kueue.x-k8s.io/multikueue.",
        ),
        immutable("managedBy"),
    ] = "rl.shoal.dev/operator"
    ttl_seconds_after_finished: (
        Annotated[
            int,
            Field(
                ge=0,
                le=2_147_483_647,
                description=(
                    "Seconds after its end at which the job is deleted. Unset: it stays. 0: it goes as soon as it has "
                    "ended."
                ),
            ),
        ]
        | None
    ) = None
    active_deadline_seconds: (
        Annotated[
            int,
            Field(
                ge=1,
                le=2_147_483_647,
                description=(
                    "Seconds after its start (in a queue: its admission) at which the job fails. Unset: no deadline."
                ),
            ),
        ]
        | None
    ) = None
    backoff_limit: BackoffLimit = Field(default_factory=BackoffLimit)
    success_policy: SuccessPolicy | None = None
    priority_class_name: (
        Annotated[
            str,
            Field(
                max_length=253, description="PriorityClass of the job's pods. Unset: the cluster's default priority."
            ),
        ]
        | None
    ) = None


class RLJob(ApiModel):
    """One training run, from a first policy to a better one."""

    cel: ClassVar[tuple[Cel, ...]] = name_rules(30)
    resource: ClassVar[Resource] = Resource(
        kind="RLJob",
        plural="rljobs",
        singular="rljob",
        short_names=("rlj",),
        categories=("shoal",),
        columns=(
            Column("Phase", ".status.phase"),
            Column("Step", ".status.step", "integer"),
            Column("Of", ".status.steps", "integer"),
            Column("Version", ".status.weightVersion", "integer"),
            Column("Reward", ".status.reward.window"),
            Column("Success", ".status.evaluation.latest"),
            Column("Trained", ".status.trajectories.trained", "integer"),
            Column("Reason", '.status.conditions[?(@.type=="Progressing")].reason', priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        scale=None,
    )

    spec: RLJobSpec
    status: RLJobStatus = Field(default_factory=RLJobStatus)
