"""The report of a run: what the data manager's store says at its end."""

from pydantic import Field

from shoal.api.services.common import Report


class StepPoint(Report):
    """One step: mean reward and turns of the trajectories it was trained on, their mean staleness, the trainer's
    metrics.
    """

    step: int
    version: int
    finished_at: float
    reward: float | None = None
    trajectories: int = 0
    turns: float | None = None
    staleness: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)


class EvaluationPoint(Report):
    """One evaluation: share of its episodes that succeeded, and the weight versions that their tokens really had."""

    purpose: str
    version: int
    success: float
    episodes: int
    oldest_version: int
    newest_version: int
    finished_at: float


class Proof(Report):
    """What became of every recorded training trajectory: recorded = trained + dropped + waiting, and nothing else."""

    recorded: int
    trained: int
    trained_more_than_once: int
    dropped: int
    waiting: int
    lost: int

    @property
    def holds(self) -> bool:
        """Whether none was trained twice, none lost, and all are accounted for."""
        accounted = self.trained + self.dropped + self.waiting
        return self.trained_more_than_once == 0 and self.lost == 0 and accounted == self.recorded


class RunReport(Report):
    """The whole report. `staleness`: trained trajectories by the versions that their oldest token lags behind."""

    job: str
    seed: int
    optimum: float | None = None
    steps: list[StepPoint] = Field(default_factory=list)
    evaluations: list[EvaluationPoint] = Field(default_factory=list)
    outcomes: dict[str, int] = Field(default_factory=dict)
    dropped: dict[str, int] = Field(default_factory=dict)
    staleness: dict[int, int] = Field(default_factory=dict)
    proof: Proof
