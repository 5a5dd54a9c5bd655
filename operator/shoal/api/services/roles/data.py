"""Start-up configuration of a job's data manager."""

from typing import Any, Literal

from pydantic import Field

from shoal.api.services.common import Message, RoleConfig, StrategyConfig


class SeedRange(Message):
    """Tasks that differ by their seed alone."""

    start: int = Field(0, ge=0)
    count: int = Field(1_000_000, ge=1)


class TaskConfig(Message):
    """Where tasks come from; exactly one is set."""

    seeds: SeedRange | None = None
    inline: list[dict[str, Any]] | None = None
    file: str | None = None
    success_threshold: float = Field(1.0, description="Reward from which an episode of a task counts as a success.")


class EvaluationConfig(Message):
    """Fresh episodes that measure a weight version."""

    episodes: int = Field(100, ge=1)
    seeds_start: int = Field(1_000_000_000, ge=0)
    temperature: float = Field(1.0, ge=0)
    every: int | None = Field(None, ge=1)
    success_threshold: float | None = Field(None, description="None: that of the tasks.")
    optimum: float | None = None


class SuccessConfig(Message):
    """Ends training before the last step, once the mean reward of `window` steps reaches `reward`."""

    reward: float
    window: int = Field(5, ge=1)


class RetentionConfig(Message):
    """What is kept of the tokens of finished trajectories; a limit that is None keeps all. Rows are always kept."""

    bytes: int | None = Field(20 * 2**30, ge=0, description="Tokens of all trajectories together.")
    seconds: float | None = Field(None, ge=0, description="Age since they were trained on or dropped.")
    versions: int | None = Field(None, ge=0, description="Weight versions that they lag behind.")


class DataConfig(RoleConfig):
    """Configuration of `python -m shoal_workers.data`. Durations are seconds."""

    port: int = Field(8004, ge=0, le=65535)
    job: str = ""
    folder: str = Field(min_length=1, description="Folder of the job on the shared volume; the store lies in store/.")
    steps: int = Field(ge=1)
    batch_groups: int = Field(ge=1)
    group_size: int = Field(8, ge=2)
    environments: list[str] = Field(min_length=1)
    tasks: TaskConfig
    sampler: StrategyConfig = StrategyConfig(name="uniform")
    allocator: StrategyConfig = StrategyConfig(name="uniform")
    max_staleness: int = Field(2, ge=0)
    zero_variance: Literal["Keep", "Drop"] = "Drop"
    max_consecutive_faults: int = Field(10, ge=1)
    evaluation: EvaluationConfig | None = None
    success: SuccessConfig | None = None
    max_turns: int = Field(32, ge=1)
    temperature: float = Field(1.0, ge=0)
    assignment_seconds: float = Field(
        60.0, gt=0, description="An assignment that is not renewed for this long is handed out again."
    )
    batch_seconds: float = Field(120.0, gt=0, description="A batch that is not renewed for this long goes back.")
    retention: RetentionConfig = Field(default_factory=RetentionConfig)
    seed: int = 0
