"""Where a job stands."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shoal.api.services.trajectories import TrainedBatch


class Progress(BaseModel):
    """Where a job stands: steps done, the newest weight version, and the batches that these weights have learned from.

    `figures` are those of the last step. `consumed`, oldest first, need only go back as far as the data manager may not
    have heard of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(0, ge=0)
    version: int = Field(0, ge=0)
    consumed: tuple[TrainedBatch, ...] = ()
    figures: dict[str, float] = Field(default_factory=dict)
    non_finite: int = Field(0, ge=0, description="Steps in a row, up to this one, whose updates were skipped.")

    @model_validator(mode="before")
    @classmethod
    def _with_steps(cls, value: Any) -> Any:
        """Checkpoints of earlier releases name batches by their ids alone.

        A step trains one batch, so an id's place tells its step. Its version is a guess, since versions may have jumped
        at a restart, but nothing is booked under it.
        """
        consumed = value.get("consumed") if isinstance(value, dict) else None
        if not isinstance(consumed, list | tuple) or not all(isinstance(each, str) for each in consumed):
            return value
        last = len(consumed) - 1
        batches = [
            {
                "id": name,
                "step": max(0, value.get("step", 0) - last + place),
                "version": max(0, value.get("version", 0) - last + place),
            }
            for place, name in enumerate(consumed)
        ]
        return {**value, "consumed": batches}
