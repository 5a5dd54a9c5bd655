"""How the driver reaches the learner: in a Ray actor, or (tests, one-process set-ups) in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from shoal.api.services.models import WeightsTarget
from shoal.api.services.roles.trainer import TrainerConfig
from shoal_workers.trainer.checkpoint import Progress
from shoal_workers.trainer.worker import LearnerWorker

T = TypeVar("T")


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

    async def publish(self, version: int, step: int, in_use: Collection[int]) -> WeightsTarget:
        """Publish the weights."""

    async def latest(self) -> WeightsTarget | None:
        """The newest published version."""

    async def close(self) -> None:
        """Stop the learner; after that no call may be made."""


class ThreadLearner:
    """A learner in one thread of this process."""

    def __init__(self, config: TrainerConfig) -> None:
        self._config = config
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="learner")
        self._worker: LearnerWorker | None = None

    async def start(self) -> None:
        """Load the model; raises ConfigurationError where it cannot be."""
        self._worker = await self._run(lambda: LearnerWorker(self._config))

    async def restore(self) -> Progress:
        """See LearnerWorker."""
        return await self._run(self._started.restore)

    async def train(self, batch: bytes, step: int, version: int) -> dict[str, float]:
        """See LearnerWorker."""
        return await self._run(lambda: self._started.train(batch, step, version))

    async def renumber(self, version: int) -> None:
        """See LearnerWorker."""
        await self._run(lambda: self._started.renumber(version))

    async def save(self, progress: Progress) -> None:
        """See LearnerWorker."""
        await self._run(lambda: self._started.save(progress))

    async def publish(self, version: int, step: int, in_use: Collection[int]) -> WeightsTarget:
        """See LearnerWorker."""
        return await self._run(lambda: self._started.publish(version, step, in_use))

    async def latest(self) -> WeightsTarget | None:
        """See LearnerWorker."""
        return await self._run(self._started.latest)

    async def close(self) -> None:
        """End the thread after the call that runs."""
        await asyncio.to_thread(self._thread.shutdown)

    @property
    def _started(self) -> LearnerWorker:
        if self._worker is None:
            raise RuntimeError("the learner is not started")
        return self._worker

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
