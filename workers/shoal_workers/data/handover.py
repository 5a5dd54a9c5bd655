"""A batch on its way to the trainer: the rows that make it, and their tokens."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.api.services.trajectories import EpisodeOutcome, TrajectoryRecord
from shoal_workers.data.intake import arrays_of
from shoal_workers.tokens.arrays import ArrayGroup, ArrayMetadata, ArrayTrajectory, TokenArrays, decode, join


@dataclass(frozen=True)
class HandedTrajectory:
    """One trajectory; `blob` holds its arrays, or its whole record as JSON where an older release stored it."""

    id: str
    outcome: EpisodeOutcome
    blob: bytes
    is_record: bool = False


@dataclass(frozen=True)
class HandedGroup:
    """The trajectories of one group."""

    id: str
    task_id: str
    trajectories: list[HandedTrajectory]


@dataclass(frozen=True)
class Handover:
    """A leased batch."""

    id: str
    expires_at: float
    lease_seconds: float
    groups: list[HandedGroup]

    def arrays(self) -> TokenArrays:
        """The batch's token arrays; takes time, and needs no database."""
        trajectories = [each for group in self.groups for each in group.trajectories]
        metadata = ArrayMetadata(
            batch=self.id,
            expires_at=self.expires_at,
            lease_seconds=self.lease_seconds,
            groups=[ArrayGroup(id=group.id, task_id=group.task_id) for group in self.groups],
            trajectories=[ArrayTrajectory(id=each.id, outcome=each.outcome) for each in trajectories],
        )
        sizes = [len(group.trajectories) for group in self.groups]
        return join([_arrays(each) for each in trajectories], sizes, metadata)


def _arrays(trajectory: HandedTrajectory) -> TokenArrays:
    if trajectory.is_record:
        return arrays_of(TrajectoryRecord.model_validate_json(trajectory.blob))
    return decode(trajectory.blob, checked=True)
