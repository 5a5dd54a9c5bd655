"""A learner in the driver's own process, for tests and for one-process set-ups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from shoal.api.services.models import WeightsTarget
from shoal.api.services.roles.trainer import TrainerConfig
from shoal_workers.trainer.progress import Progress
from shoal_workers.trainer.worker import LearnerWorker

T = TypeVar("T")


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

    async def publish(self, version: int, step: int, in_use: Collection[int] | None) -> WeightsTarget:
        """See LearnerWorker."""
        return await self._run(lambda: self._started.publish(version, step, in_use))

    async def latest(self) -> WeightsTarget | None:
        """See LearnerWorker."""
        return await self._run(self._started.latest)

    async def close(self) -> None:
        """End the thread after the call that runs."""
        await asyncio.to_thread(self._thread.shutdown)

    def abandon(self) -> None:
        """Nothing: a thread ends with its process."""

    @property
    def _started(self) -> LearnerWorker:
        if self._worker is None:
            raise RuntimeError("the learner is not started")
        return self._worker

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
