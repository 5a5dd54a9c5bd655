"""RLJob: agents, data manager and trainer that improve a policy, using pools and fleets."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from shoal.api.base import ApiModel, Condition, StatusModel
from shoal.api.markers import Cel, Column, ListMap, Resource, immutable
from shoal.api.v1alpha1.common import (
    DNS_LABEL,
    FreeForm,
    ModelSpec,
    ObjectRef,
    PodTemplate,
    SharedStorage,
    name_limit,
)
from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec
from shoal.api.v1alpha1.rolloutfleet import RolloutFleetSpec

Decimal = Annotated[str, Field(pattern=r"^-?[0-9]+(\.[0-9]+)?([eE]-?[0-9]+)?$", max_length=32)]
"""A decimal number as text, because Kubernetes' API conventions allow no floating point."""


class OwnedFleetSpec(RolloutFleetSpec):
    """A RolloutFleetSpec whose model is taken from the job."""

    model: ModelSpec | None = None  # type: ignore[assignment]  # the job's model is filled in


class FleetTemplate(ApiModel):
    """An owned fleet; its model and storage are the job's."""

    spec: OwnedFleetSpec


class FleetSource(ApiModel):
    """The fleet that samples: one that exists, or one that the job owns."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("has(self.ref) != has(self.template)", "exactly one of ref and template must be set"),
    )

    ref: ObjectRef | None = None
    template: FleetTemplate | None = None


class PoolTemplate(ApiModel):
    """An owned pool."""

    spec: EnvironmentPoolSpec


class EnvironmentSource(ApiModel):
    """A pool that the job's tasks run in: one that exists, or one that the job owns."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("has(self.ref) != has(self.template)", "exactly one of ref and template must be set"),
    )

    name: Annotated[
        str,
        Field(
            pattern=DNS_LABEL, min_length=1, max_length=16, description="Name by which tasks and the report call it."
        ),
    ]
    ref: ObjectRef | None = None
    template: PoolTemplate | None = None


class HarnessType(StrEnum):
    """How an agent talks to the model and to the environment."""

    CHAT = "Chat"
    OPENAI = "OpenAI"


class InvalidActionPolicy(StrEnum):
    """What a malformed action does to the episode."""

    TERMINATE = "Terminate"
    CONTINUE = "Continue"


class Harness(ApiModel):
    """The program that turns observations into prompts and answers into actions."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("self.type != 'OpenAI' || has(self.module)", "harness OpenAI needs module (module:function)"),
    )

    type: HarnessType = HarnessType.CHAT
    module: (
        Annotated[
            str,
            Field(
                pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
                max_length=256,
                description="module:function of an agent that talks to the model through its OpenAI address.",
            ),
        ]
        | None
    ) = None
    system_prompt: Annotated[
        str, Field(max_length=65_536, description="First message of every episode; none when empty.")
    ] = ""
    invalid_action: InvalidActionPolicy = InvalidActionPolicy.TERMINATE
    config: FreeForm = Field(default_factory=dict, description="Passed to the harness.")


class Sampling(ApiModel):
    """How tokens are drawn while training."""

    temperature: Annotated[Decimal, Field(description="Temperature, as decimal text.")] = "1.0"
    top_p: Annotated[
        Decimal,
        Field(description="Nucleus share, as decimal text; below 1 the log-probs of engine and trainer differ."),
    ] = "1.0"
    max_tokens_per_turn: Annotated[
        int, Field(ge=1, le=1_000_000, description="Tokens that one model call may generate.")
    ] = 256


class TurnBudget(StrEnum):
    """How many turns an episode may take; `Fixed` is maxTurns."""

    FIXED = "Fixed"


class Agents(ApiModel):
    """The processes that run episodes."""

    harness: Harness = Field(default_factory=Harness)
    replicas: Annotated[int, Field(ge=0, le=10_000, description="Agent processes.")] = 1
    concurrency: Annotated[int, Field(ge=1, le=10_000, description="Episodes that one agent process runs at once.")] = (
        32
    )
    max_turns: Annotated[int, Field(ge=1, le=100_000, description="Turns after which an episode is truncated.")] = 32
    turn_budget: TurnBudget = TurnBudget.FIXED
    sampling: Sampling = Field(default_factory=Sampling)
    template: PodTemplate = Field(default_factory=PodTemplate)


class StoreType(StrEnum):
    """The data manager's database."""

    SQLITE = "SQLite"


class Store(ApiModel):
    """Where trajectories are kept."""

    type: StoreType = StoreType.SQLITE


class SeedRange(ApiModel):
    """Tasks that differ by their seed alone."""

    start: Annotated[int, Field(ge=0, le=2_147_483_647, description="First seed.")] = 0
    count: Annotated[int, Field(ge=1, le=100_000_000, description="Number of seeds.")] = 1_000_000


class TaskSource(ApiModel):
    """What agents are asked to do."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "[has(self.seeds), has(self.inline), has(self.file)].filter(x, x).size() == 1",
            "exactly one of seeds, inline and file must be set",
        ),
    )

    seeds: SeedRange | None = None
    inline: (
        Annotated[
            list[FreeForm],
            Field(max_length=1000, description="The tasks themselves; each is passed to the environment."),
        ]
        | None
    ) = None
    file: (
        Annotated[str, Field(pattern=r"^/", max_length=1024, description="A JSON Lines file on the shared volume.")]
        | None
    ) = None


class ZeroVariance(StrEnum):
    """What happens to a group whose rewards are all equal, which teaches nothing."""

    KEEP = "Keep"
    DROP = "Drop"


class Allocator(StrEnum):
    """How many episodes a task gets: always groupSize, or fewer where the task is mastered (DART)."""

    FIXED = "Fixed"
    DART = "DART"


class Sampler(StrEnum):
    """Which task comes next."""

    UNIFORM = "Uniform"
    SEQUENTIAL = "Sequential"


class Evaluation(ApiModel):
    """Fresh episodes, never trained on, that measure a weight version."""

    episodes: Annotated[int, Field(ge=1, le=100_000, description="Episodes of one evaluation.")] = 100
    seeds_start: Annotated[
        int,
        Field(ge=0, le=2_147_483_647, description="First seed of the evaluation; keep it outside the training seeds."),
    ] = 1_000_000_000
    temperature: Annotated[Decimal, Field(description="Temperature while evaluating, as decimal text.")] = "1.0"
    every: Annotated[int, Field(ge=1, le=1_000_000, description="Also after every so many steps.")] | None = None
    success_threshold: Annotated[
        Decimal, Field(description="Reward from which an episode counts as a success, as decimal text.")
    ] = "1.0"
    optimum: (
        Annotated[Decimal, Field(description="Mean success of an optimal policy, for the report; it decides nothing.")]
        | None
    ) = None


class Data(ApiModel):
    """Tasks, groups, trajectories and how stale they may be."""

    store: Store = Field(default_factory=Store)
    tasks: TaskSource = Field(default_factory=lambda: TaskSource(seeds=SeedRange()))
    group_size: Annotated[
        int, Field(ge=2, le=1024, description="Episodes of one task that are compared with each other.")
    ] = 8
    sampler: Sampler = Sampler.UNIFORM
    allocator: Allocator = Allocator.FIXED
    max_staleness: Annotated[
        int, Field(ge=0, le=1000, description="Weight versions a trained token may lag behind.")
    ] = 2
    zero_variance: ZeroVariance = ZeroVariance.DROP
    max_consecutive_faults: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="Infrastructure faults in a row (engine, environment, grader) that stop the job.",
        ),
    ] = 10
    evaluation: Evaluation | None = None
    template: PodTemplate = Field(default_factory=PodTemplate)


class Strategy(ApiModel):
    """A named strategy of a registry, and its parameters."""

    name: Annotated[str, Field(min_length=1, max_length=128, description="Name in the registry.")]
    parameters: FreeForm = Field(
        default_factory=dict, description="Parameters of the strategy; the others keep their defaults."
    )


class Algorithm(ApiModel):
    """The learning rule, by parts."""

    advantage: Strategy = Field(default_factory=lambda: Strategy(name="grpo"))
    corrector: Strategy = Field(default_factory=lambda: Strategy(name="tis"))
    loss: Strategy = Field(default_factory=lambda: Strategy(name="ppo-clip"))
    selection: Strategy = Field(default_factory=lambda: Strategy(name="all"))


class Batch(ApiModel):
    """What one step consumes."""

    groups: Annotated[int, Field(ge=1, le=100_000, description="Groups that one step trains on.")] = 16
    minibatches: Annotated[int, Field(ge=1, le=1024, description="Optimizer updates per epoch.")] = 1
    epochs: Annotated[int, Field(ge=1, le=64, description="Passes over the batch.")] = 1


class Optimizer(ApiModel):
    """AdamW and its schedule."""

    learning_rate: Annotated[Decimal, Field(description="Peak learning rate, as decimal text.")] = "1e-6"
    decay_to: Annotated[
        Decimal, Field(description="Share of the learning rate that is left at the last step; it falls linearly.")
    ] = "1.0"
    weight_decay: Annotated[Decimal, Field(description="Decoupled weight decay, as decimal text.")] = "0.0"
    grad_clip: Annotated[Decimal, Field(description="Largest norm of a gradient, as decimal text.")] = "1.0"
    warmup_steps: Annotated[
        int, Field(ge=0, le=1_000_000, description="Steps over which the learning rate rises from 0.")
    ] = 0
    beta1: Annotated[Decimal, Field(description="Decay of the first moment, as decimal text.")] = "0.9"
    beta2: Annotated[Decimal, Field(description="Decay of the second moment, as decimal text.")] = "0.95"


class Ray(ApiModel):
    """The Ray cluster that trains: one inside the trainer's pod, or one that exists."""

    existing_cluster: (
        Annotated[
            str,
            Field(
                pattern=r"^(ray://)?[^\s:]+:[0-9]+$", max_length=253, description="HOST:PORT of a running Ray cluster."
            ),
        ]
        | None
    ) = None


class Checkpoint(ApiModel):
    """How often a step can be resumed from, and how many are kept."""

    every: Annotated[int, Field(ge=1, le=100_000, description="Steps between checkpoints.")] = 1
    keep: Annotated[int, Field(ge=1, le=1000, description="Checkpoints that are kept.")] = 2


class Trainer(ApiModel):
    """The process that turns trajectories into weights."""

    algorithm: Algorithm = Field(default_factory=Algorithm)
    steps: Annotated[int, Field(ge=1, le=100_000_000, description="Steps after which the job is complete.")]
    batch: Batch = Field(default_factory=Batch)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    ray: Ray = Field(default_factory=Ray)
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    template: PodTemplate = Field(default_factory=PodTemplate)


class BackoffLimit(ApiModel):
    """Failures of a role after which the job fails; a role's own restarts count."""

    trainer: Annotated[int, Field(ge=0, le=10_000, description="Failures of the trainer.")] = 6
    data: Annotated[int, Field(ge=0, le=10_000, description="Failures of the data manager.")] = 6
    agents: Annotated[int, Field(ge=0, le=10_000, description="Failures of agents, all together.")] = 20


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
        Annotated[int, Field(ge=0, le=2_147_483_647, description="Seconds after its end at which the job is deleted.")]
        | None
    ) = None
    active_deadline_seconds: (
        Annotated[int, Field(ge=1, le=2_147_483_647, description="Seconds after its start at which the job fails.")]
        | None
    ) = None
    backoff_limit: BackoffLimit = Field(default_factory=BackoffLimit)
    success_policy: SuccessPolicy | None = None
    priority_class_name: (
        Annotated[str, Field(max_length=253, description="PriorityClass of the job's pods.")] | None
    ) = None


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
    """Failures so far, by role."""

    trainer: int = 0
    data: int = 0
    agents: int = 0


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
    start_time: str | None = None
    completion_time: str | None = None
    conditions: Annotated[list[Condition], ListMap("type"), Field(max_length=16)] = Field(default_factory=list)


class RLJob(ApiModel):
    """One training run, from a first policy to a better one."""

    cel: ClassVar[tuple[Cel, ...]] = (name_limit(30),)
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
