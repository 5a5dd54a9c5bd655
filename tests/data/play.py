"""What agents and a trainer say to a data manager, in as few words as possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shoal.api.services.common import VersionSpan
from shoal.api.services.roles.data import DataConfig
from shoal.api.services.trajectories import (
    Assignment,
    BatchRequest,
    ClaimRequest,
    EpisodeOutcome,
    FaultReport,
    HandBack,
    Prefix,
    Segment,
    TrajectoryRecord,
)


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def config(folder: Path, **changes: Any) -> DataConfig:
    """Four steps of two groups of two, whose equal rewards are kept."""
    settings: dict[str, Any] = {
        "job": "job",
        "folder": str(folder),
        "steps": 4,
        "batch_groups": 2,
        "group_size": 2,
        "environments": ["lake"],
        "tasks": {"seeds": {"start": 0, "count": 100}},
        "max_staleness": 1,
        "zero_variance": "Keep",
        "assignment_seconds": 30.0,
        "batch_seconds": 60.0,
        "max_consecutive_faults": 3,
    }
    return DataConfig.model_validate(settings | changes)


def segment(version: int = 0) -> Segment:
    """Two tokens read, two sampled."""
    return Segment(
        token_ids=[5, 6, 7, 8],
        loss_mask=[0, 0, 1, 1],
        logprobs=[0.0, 0.0, -0.5, -0.25],
        versions=[VersionSpan(version=version, start=2, end=4)],
    )


def record(assignment: Assignment | str, reward: float = 0.0, version: int = 0, **more: Any) -> TrajectoryRecord:
    """An episode of one turn."""
    name = assignment if isinstance(assignment, str) else assignment.id
    return TrajectoryRecord(
        assignment_id=name, episode_id=f"e-{name}", segments=[segment(version)], reward=reward, turns=1, **more
    )


def claim(count: int = 1, wait: float = 0.0, agent: str = "agent") -> ClaimRequest:
    """Ask for assignments."""
    return ClaimRequest(agent=agent, count=count, wait=wait)


def ask(version: int = 0, groups: int = 2, wait: float = 0.0, key: str = "") -> BatchRequest:
    """Ask for a batch."""
    return BatchRequest(trainer="trainer", version=version, groups=groups, wait=wait, key=key)


def fault(assignment: Assignment, outcome: EpisodeOutcome = EpisodeOutcome.ENVIRONMENT_ERROR) -> FaultReport:
    """The episode could not be run."""
    return FaultReport(outcome=outcome, detail="broken glass", attempt=assignment.attempt)


def hand_back(assignment: Assignment, version: int | None = None) -> HandBack:
    """The episode is given back, after one turn or before the first."""
    prefix = Prefix() if version is None else Prefix(segments=[segment(version)], actions=[{"text": "left"}], turns=1)
    return HandBack(prefix=prefix, attempt=assignment.attempt)
