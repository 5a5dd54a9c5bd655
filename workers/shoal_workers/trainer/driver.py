"""The trainer's loop: lease a batch, train, checkpoint, publish, acknowledge, report."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from shoal.api.services.models import WeightsTarget
from shoal.api.services.roles.trainer import TrainerConfig
from shoal.api.services.training import TrainerPhase, TrainerStatus
from shoal.api.services.trajectories import TrainedBatch
from shoal_workers.trainer.files import keep_skipped
from shoal_workers.trainer.handle import LearnerHandle
from shoal_workers.trainer.health import Health
from shoal_workers.trainer.peers import DataManager, Gateway, LeasedBatch
from shoal_workers.trainer.phases import Phases
from shoal_workers.trainer.progress import Progress

logger = logging.getLogger(__name__)

LEASE_WAIT_SECONDS = 10.0
TELL_SECONDS = 10.0
STORE_RETRY_SECONDS = 5.0
# How many trained batches a checkpoint names. The data manager hears of each within a step or as soon as it is back;
# this only has to be more than the batches that can be trained between two checkpoints.
REMEMBERED_BATCHES = 1000

T = TypeVar("T")


class TrainerDriver:
    """Drives one learner through a job's steps.

    What makes training exactly-once: a batch counts as trained when a checkpoint names it, and not before. It is
    acknowledged after that; a trainer that dies in between tells the data manager at its next start which batches its
    checkpoint names, and the others are handed out again to weights that have not seen them.
    """

    def __init__(
        self,
        config: TrainerConfig,
        learner: LearnerHandle,
        data: DataManager,
        gateway: Gateway,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._learner = learner
        self._data = data
        self._gateway = gateway
        self._clock = clock
        self._started = clock()
        self._progress = Progress()
        self._unacknowledged: list[TrainedBatch] = []
        self._phases = Phases(clock)
        self._saved_step = 0
        self._gap = 0.0
        self._health = Health()
        self._figures: dict[str, float] = {}

    @property
    def status(self) -> TrainerStatus:
        """The trainer's state now; time of what is going on is counted up to now."""
        return TrainerStatus(
            phase=self._phases.current,
            step=self._progress.step,
            steps=self._config.steps,
            version=self._progress.version,
            checkpoint_step=self._saved_step,
            busy_seconds=self._phases.seconds(TrainerPhase.TRAINING),
            wait_seconds=self._phases.seconds(TrainerPhase.WAITING),
            uptime_seconds=self._clock() - self._started,
            logprob_gap_max=self._gap,
            detail=self._gateway.detail,
            findings=self._health.findings,
            metrics=self._figures,
        )

    async def run(self) -> None:
        """All steps that are left; returns when they are done or the job needs no more."""
        await self._learner.start()
        async with self._telling():
            await self._restore()
            while self._progress.step < self._config.steps and not self._health.halted:
                batch = await self._next_batch()
                if batch is None:
                    break
                await self._step(batch)
            self._phases.current = TrainerPhase.DONE
            logger.info("training ended", extra={"step": self._progress.step, "version": self._progress.version})
            # Until the pod is removed: the gateway must hear of the last version even if it is away just now.
            await asyncio.Event().wait()

    async def _restore(self) -> None:
        """Go back to the newest checkpoint, and make data manager, volume and gateway agree with it."""
        self._progress = await self._learner.restore()
        self._saved_step = self._progress.step
        self._health.non_finite = self._progress.non_finite
        self._unacknowledged = []
        progress = self._progress
        settled = await self._data.reconcile(progress.step, progress.version, list(progress.consumed))
        logger.info(
            "restored",
            extra={"step": progress.step, "version": progress.version, "released": len(settled.released)},
        )
        await self._republish(await self._learner.latest())
        # With the step's figures, which a report without them would wipe out.
        await self._data.report(self._progress.step, self._progress.version, self._progress.figures)

    async def _republish(self, latest: WeightsTarget | None) -> None:
        """Publish the restored weights where the newest publication is not exactly theirs.

        Versions never go back: where a later one was published than the checkpoint has, the restored weights get a
        number above it, as tokens of that version may be on their way here.

        A job that begins publishes its original weights, too: the engines of a shared fleet may have another run's, and
        agents of this one wait until they have not. Engines that have just started load nothing for it.
        """
        if latest is not None and latest.version == self._progress.version:
            self._gateway.aim(latest)
            return
        if latest is not None and latest.version > self._progress.version:
            self._progress = self._progress.model_copy(update={"version": latest.version + 1})
            await self._learner.renumber(self._progress.version)
        # What engines use meanwhile is not asked here: the publication after the next step removes what may go.
        self._gateway.aim(await self._publish(None))

    async def _next_batch(self) -> LeasedBatch | None:
        """The next batch; None when the job is complete without one."""
        with self._phases.spending(TrainerPhase.WAITING):
            while True:
                batch = await self._data.lease(self._progress.version, self._config.batch_groups, LEASE_WAIT_SECONDS)
                if batch is not None:
                    return batch
                if await self._data.complete():
                    return None

    async def _step(self, batch: LeasedBatch) -> None:
        """Learn from one batch."""
        with self._phases.spending(TrainerPhase.TRAINING):
            held = await self._train(batch)
        if not held:
            # Someone else may train the batch now, so these weights must not have seen it.
            await self._restore()

    async def _train(self, batch: LeasedBatch) -> bool:
        """Train, checkpoint, publish, acknowledge, report; False where the batch was lost before the checkpoint."""
        before = self._progress
        began = self._clock()
        async with self._renewing(batch):
            figures = await self._learner.train(batch.body, before.step, before.version)
            figures["train_seconds"] = self._clock() - began
            if not await self._data.renew(batch.id):
                return False
            self._warn(figures)
            in_use = await self._gateway.served()
            await self._judge(figures, batch)
            self._advance(before, TrainedBatch(id=batch.id, step=before.step + 1, version=before.version + 1), figures)
            if self._progress.step % self._config.checkpoint_every == 0 or self._progress.step == self._config.steps:
                await self._stored("a checkpoint", lambda: self._learner.save(self._progress))
                self._saved_step = self._progress.step
            self._gateway.aim(await self._publish(in_use))
        await self._acknowledge()
        figures = {**figures, "step_seconds": self._clock() - began}
        self._figures = figures
        await self._data.report(self._progress.step, self._progress.version, figures)
        logger.info("step", extra={"step": self._progress.step, "version": self._progress.version, **figures})
        return True

    def _advance(self, before: Progress, trained: TrainedBatch, figures: dict[str, float]) -> None:
        """The weights have learned from the batch."""
        self._progress = Progress(
            step=trained.step,
            version=trained.version,
            consumed=(*before.consumed, trained)[-REMEMBERED_BATCHES:],
            figures=figures,
            non_finite=self._health.non_finite,
        )
        self._unacknowledged.append(trained)
        self._gap = max(self._gap, figures.get("logprob_gap", 0.0))

    async def _judge(self, figures: Mapping[str, float], batch: LeasedBatch) -> None:
        """What the step says of the run; a batch whose update was skipped is kept for whoever looks into it."""
        path = Path(self._config.folder, "skipped", f"{batch.id}.batch")
        if figures.get("updates_skipped"):
            extra = {"step": self._progress.step + 1, "batch": batch.id, "kept": str(path)}
            logger.error("an update was skipped: its loss or gradient was not finite", extra=extra)
            await self._stored("a skipped batch", lambda: asyncio.to_thread(keep_skipped, path, batch.body))
        self._health.stepped(figures, batch.id, str(path), self._gateway.engines)
        for finding in self._health.findings:
            logger.error(finding.message, extra={"reason": finding.reason})

    async def _publish(self, in_use: Collection[int] | None) -> WeightsTarget:
        progress = self._progress
        return await self._stored(
            "a weight version", lambda: self._learner.publish(progress.version, progress.step, in_use)
        )

    async def _stored(self, what: str, write: Callable[[], Awaitable[T]]) -> T:
        """Write until it works: a volume that is full may be made room on, and a restart would only lose the step."""
        while True:
            try:
                written = await write()
            except OSError as error:
                self._health.storing(what, error)
                logger.error("cannot write to the volume", extra={"what": what, "cause": str(error)})
                await asyncio.sleep(STORE_RETRY_SECONDS)
                continue
            self._health.storing(what, None)
            return written

    def _warn(self, figures: Mapping[str, float]) -> None:
        """Say what of the batch was not trained on."""
        left_out = int(figures.get("segments_too_long", 0))
        if left_out:
            extra = {"step": self._progress.step + 1, "segments": left_out, "max_model_len": self._config.max_model_len}
            logger.warning("segments longer than max_model_len were left out", extra=extra)
        if figures.get("tokens_trained") == 0:
            logger.warning("the batch had nothing to learn from", extra={"step": self._progress.step + 1})

    async def _acknowledge(self) -> None:
        """Tell the data manager of the batches that the newest checkpoint holds, each with the step that trained it."""
        if self._saved_step != self._progress.step:
            return
        for batch in self._unacknowledged:
            await self._data.acknowledge(batch)
        self._unacknowledged = []

    @contextlib.asynccontextmanager
    async def _renewing(self, batch: LeasedBatch) -> AsyncIterator[None]:
        """Hold the batch, and those that no checkpoint holds yet, while the block runs."""
        held = [*(trained.id for trained in self._unacknowledged), batch.id]
        task = asyncio.create_task(self._renew(held, batch.lease_seconds / 3))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _renew(self, batches: list[str], every: float) -> None:
        while True:
            await asyncio.sleep(every)
            for batch in batches:
                await self._data.renew(batch)

    @contextlib.asynccontextmanager
    async def _telling(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._gateway.keep_telling(TELL_SECONDS))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await self._gateway.leave()
