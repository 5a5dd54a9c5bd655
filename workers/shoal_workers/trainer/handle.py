"""How the driver reaches the learner, wherever that runs; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from shoal.api.services.models import WeightsTarget
from shoal_workers.trainer.progress import Progress


class LearnerHandle(Protocol):
    """The worker's methods (see `LearnerWorker`), awaitable; one call at a time."""

    async def start(self) -> None:
        """Load the model."""

    async def restore(self) -> Progress:
        """Go back to the newest checkpoint."""

    async def train(self, batch: bytes, step: int, version: int) -> dict[str, float]:
        """Learn from a batch."""

    async def renumber(self, version: int) -> None:
        """Call the weights by another version."""

    async def save(self, progress: Progress) -> None:
        """Write a checkpoint."""

    async def publish(self, version: int, step: int, in_use: Collection[int] | None) -> WeightsTarget:
        """Publish the weights."""

    async def latest(self) -> WeightsTarget | None:
        """The newest published version."""

    async def close(self) -> None:
        """Stop the learner; after that no call may be made."""

    def abandon(self) -> None:
        """Stop it at once, whatever state it is in: the process is about to end."""
