"""The data of a job: tasks, groups, staleness, evaluation."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from shoal.api.base import ApiModel
from shoal.api.markers import Cel, StrategyGroup
from shoal.api.strategies import known_name
from shoal.api.v1alpha1.common import Decimal, FreeForm, PodTemplate, PositiveDuration, Strategy, formerly


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
    success_threshold: Annotated[
        Decimal,
        Field(
            description="Reward from which an episode of a task counts as a success, as decimal text: for allocators,"
            " samplers and evaluations, whatever the scale of rewards."
        ),
    ] = "1.0"


class Retention(ApiModel):
    """What is kept of the tokens of trajectories that were trained on or dropped; what they came to is always kept.

    Whole files of 64 MiB are removed, oldest first, as soon as one of the limits is exceeded.
    """

    max_gigabytes: Annotated[
        int, Field(ge=0, le=1_000_000, description="Tokens of all trajectories together, in units of 2^30 bytes.")
    ] = 20
    max_age: Annotated[PositiveDuration, Field(description="Age since then; unset: any.")] | None = None
    max_versions: (
        Annotated[int, Field(ge=0, le=100_000_000, description="Weight versions that they lag behind; unset: any.")]
        | None
    ) = None


class ZeroVariance(StrEnum):
    """What happens to a group whose rewards are all equal, which teaches nothing."""

    KEEP = "Keep"
    DROP = "Drop"


_SAMPLERS, _ALLOCATORS = "shoal.data.sampler", "shoal.data.allocator"


class Evaluation(ApiModel):
    """Fresh episodes, never trained on, that measure a weight version."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "double(self.temperature) == 0.0 || (double(self.temperature) >= 0.01 && double(self.temperature) <= 2.0)",
            "temperature must be 0, or at least 0.01 and at most 2",
            field_path=".temperature",
        ),
    )

    episodes: Annotated[int, Field(ge=1, le=100_000, description="Episodes of one evaluation.")] = 100
    seeds_start: Annotated[
        int,
        Field(ge=0, le=2_147_483_647, description="First seed of the evaluation; keep it outside the training seeds."),
    ] = 1_000_000_000
    temperature: Annotated[
        Decimal, Field(description="Temperature while evaluating, as decimal text; 0 takes the likeliest token.")
    ] = "1.0"
    every: (
        Annotated[
            int,
            Field(
                ge=1,
                le=1_000_000,
                description=(
                    "Also evaluate after every so many steps. Unset: only before the first step and after the last."
                ),
            ),
        ]
        | None
    ) = None
    success_threshold: (
        Annotated[
            Decimal,
            Field(
                description="Reward from which an episode counts as a success, as decimal text; unset: that of the"
                " tasks."
            ),
        ]
        | None
    ) = None
    optimum: (
        Annotated[Decimal, Field(description="Mean success of an optimal policy, for the report; it decides nothing.")]
        | None
    ) = None


class Data(ApiModel):
    """Tasks, groups, trajectories and how stale they may be."""

    cel: ClassVar[tuple[Cel, ...]] = (known_name("sampler", _SAMPLERS), known_name("allocator", _ALLOCATORS))

    store: Store = Field(default_factory=Store)
    tasks: TaskSource = Field(default_factory=lambda: TaskSource(seeds=SeedRange()))
    group_size: Annotated[
        int, Field(ge=2, le=1024, description="Episodes of one task that are compared with each other.")
    ] = 8
    sampler: Annotated[
        Strategy,
        StrategyGroup(_SAMPLERS),
        BeforeValidator(formerly({"Uniform": "uniform", "Sequential": "sequential"})),
        Field(description="Which task comes next."),
    ] = Field(default_factory=lambda: Strategy(name="uniform"))
    allocator: Annotated[
        Strategy,
        StrategyGroup(_ALLOCATORS),
        BeforeValidator(formerly({"Fixed": "uniform", "DART": "dart"})),
        Field(description="How many episodes a task gets; `groupSize` is what `uniform` gives each."),
    ] = Field(default_factory=lambda: Strategy(name="uniform"))
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
    retention: Retention = Field(default_factory=Retention)
    template: PodTemplate = Field(default_factory=PodTemplate)
