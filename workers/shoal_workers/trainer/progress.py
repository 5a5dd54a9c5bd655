"""Where a job stands."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Progress(BaseModel):
    """Where a job stands: steps done, the newest weight version, and the batches that these weights have learned from.

    `figures` are those of the last step. `consumed` need only go back as far as the data manager may not have heard of
    it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(0, ge=0)
    version: int = Field(0, ge=0)
    consumed: tuple[str, ...] = ()
    figures: dict[str, float] = Field(default_factory=dict)
