"""The data manager: every operation as one transaction, and long polls that wake when something changed."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from shoal.api.services.report import RunReport
from shoal.api.services.roles.data import DataConfig
from shoal.api.services.trajectories import (
    Accepted,
    AssignmentRenewed,
    Batch,
    BatchAck,
    BatchRenewed,
    BatchRequest,
    Claimed,
    ClaimRequest,
    DataStatus,
    FaultReport,
    HandBack,
    ProgressReport,
    Reconciled,
    ReconcileRequest,
    StalenessFigures,
    TrajectoryRecord,
)
from shoal_workers.data import meta, report
from shoal_workers.data.assignments import Assignments
from shoal_workers.data.batches import Batches
from shoal_workers.data.caller import Caller
from shoal_workers.data.evaluation import Evaluations
from shoal_workers.data.faults import pause_after
from shoal_workers.data.groups import Groups
from shoal_workers.data.progress import Progress
from shoal_workers.data.states import GroupState
from shoal_workers.data.store import Store
from shoal_workers.data.tasks import load_tasks

T = TypeVar("T")

LOOK_AGAIN_SECONDS = 5.0
"""A long poll looks by itself this often, because a lease that runs out makes no noise."""


class DataManager:
    """All operations of the service. `clock` gives seconds since the epoch."""

    def __init__(self, config: DataConfig, clock: Callable[[], float] = time.time) -> None:
        self.config = config
        self._clock = clock
        self._started = clock()
        self.store = Store(Path(config.folder) / "store" / "trajectories.sqlite")
        connection = self.store.connection
        self._groups = Groups(connection, config, load_tasks(config.tasks))
        self._assignments = Assignments(connection, config, self._groups)
        self._batches = Batches(connection, config, self._groups)
        self._evaluations = Evaluations(connection, config, self._groups)
        self._progress = Progress(connection, config)
        self._changed = asyncio.Event()
        self.store.run_now(self._begin)

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    # --- agents

    async def claim(self, request: ClaimRequest, caller: Caller | None = None) -> Claimed:
        """Assignments, waiting for the first one; none while a pause lasts that faults in a row make."""

        def attempt() -> Claimed | None:
            if self._complete() or self._halted():
                return Claimed(done=True)
            version, now = self._progress.version, self._clock()
            if self._pause_left() > 0:
                return None
            training = not self._progress.finished
            taken = self._assignments.claim(request.agent, request.count, version, now, training=training)
            return Claimed(assignments=taken) if taken else None

        return await self._poll(attempt, request.wait, caller) or Claimed()

    async def renew(self, assignment: str, attempt: int | None = None) -> AssignmentRenewed:
        """Hold an assignment longer."""
        until = await self.store.run(lambda: self._assignments.renew(assignment, attempt, self._clock()))
        return AssignmentRenewed(id=assignment, lease_expires_at=until)

    async def fail(self, assignment: str, fault: FaultReport) -> Accepted:
        """Take note of a fault."""

        def take_note() -> float:
            self._assignments.fail(assignment, fault, self._clock())
            return self._pause_left()

        pause = await self._change(take_note)
        if pause > 0:
            asyncio.get_running_loop().call_later(pause, self._announce)
        return Accepted(id=assignment)

    async def hand_back(self, assignment: str, message: HandBack) -> Accepted:
        """Take an assignment back with what it had reached."""
        await self._change(lambda: self._assignments.hand_back(assignment, message))
        return Accepted(id=assignment)

    async def record(self, record: TrajectoryRecord) -> Accepted:
        """Store a trajectory."""

        def store() -> Accepted:
            accepted = self._assignments.record(record, self._clock())
            if accepted.state == GroupState.MEASURED and not accepted.duplicate:
                group = self._assignments.group_of(record.assignment_id)
                self._evaluations.measured(group, self._clock())
                self._save_report_when_complete()
            return accepted

        return await self._change(store)

    # --- trainer

    async def lease_batch(self, request: BatchRequest, caller: Caller | None = None) -> Batch | None:
        """A batch, waiting until there is one; None in vain, or when training is over."""

        def attempt() -> Batch | None:
            if self._progress.finished or self._evaluations.waiting("initial"):
                return None
            return self._batches.lease(request, self._clock())

        batch = await self._poll(attempt, request.wait, caller)
        if batch is not None:
            self._announce()  # groups that were dropped as stale leave room for fresh ones
        return batch

    async def renew_batch(self, batch: str) -> BatchRenewed:
        """Hold a batch longer."""
        until = await self.store.run(lambda: self._batches.renew(batch, self._clock()))
        return BatchRenewed(id=batch, expires_at=until)

    async def acknowledge(self, batch: str, ack: BatchAck) -> Accepted:
        """A batch is trained and in a checkpoint."""
        duplicate = await self._change(lambda: self._batches.acknowledge(batch, ack.step))
        return Accepted(id=batch, duplicate=duplicate, state="consumed")

    async def release(self, batch: str) -> Accepted:
        """A batch comes back untrained."""
        await self._change(lambda: self._batches.release(batch))
        return Accepted(id=batch, state="released")

    async def reconcile(self, request: ReconcileRequest) -> Reconciled:
        """Agree with a trainer that starts."""

        def agree() -> Reconciled:
            self._progress.go_back(request.step)
            return self._batches.reconcile(request)

        return await self._change(agree)

    async def progress(self, message: ProgressReport) -> None:
        """Take the trainer's step and version; what follows from them (evaluations, the end) follows here."""

        def take() -> None:
            self._progress.report(message, self._clock())
            every = self.config.evaluation.every if self.config.evaluation else None
            if not self._progress.finished and self._progress.goal_reached():
                self._progress.finish()
                self._groups.drop_unfinished()
                self._evaluations.ensure("final", self._progress.version)
                self._save_report_when_complete()
            elif every is not None and message.step > 0 and message.step % every == 0:
                self._evaluations.ensure("periodic", message.version)

        await self._change(take)

    # --- everyone

    async def status(self) -> DataStatus:
        """The state, from the rows themselves."""
        return await self.store.run(self._status)

    async def report(self) -> RunReport:
        """The report so far."""
        return await self.store.run(lambda: report.make_report(self.store.connection, self.config))

    def wake_all(self) -> None:
        """Let every long poll look whether its caller is still there."""
        self._announce()

    # --- inside the transaction

    def _begin(self) -> None:
        """At every start: what the process before may not have come to."""
        if self._progress.step == 0:
            self._evaluations.ensure("initial", 0)
        self._save_report_when_complete()

    def _status(self) -> DataStatus:
        connection = self.store.connection
        histogram = report.staleness_histogram(connection)
        return DataStatus(
            step=self._progress.step,
            steps=self.config.steps,
            version=self._progress.version,
            trajectories=report.states(connection),
            outcomes=report.outcomes(connection),
            dropped=report.dropped(connection),
            trained=sum(histogram.values()),
            reward=self._progress.rewards(),
            evaluation=self._evaluations.figures(),
            staleness=StalenessFigures(p50=_median(histogram), max=max(histogram, default=0), histogram=histogram),
            trajectories_per_minute=self._progress.per_minute(),
            consecutive_faults=meta.get_int(connection, "consecutive_faults"),
            halted=self._halted(),
            complete=self._complete(),
            uptime_seconds=self._clock() - self._started,
        )

    def _complete(self) -> bool:
        return self._progress.finished and not self._evaluations.waiting("final")

    def _pause_left(self) -> float:
        """Seconds until something may be handed out again after faults in a row."""
        connection = self.store.connection
        pause = pause_after(meta.get_int(connection, "consecutive_faults"))
        return meta.get_float(connection, "fault_counted_at") + pause - self._clock() if pause else 0.0

    def _halted(self) -> str:
        return meta.get(self.store.connection, "halted")

    def _save_report_when_complete(self) -> None:
        """The report also lies on the volume, for whoever comes after the data manager has gone."""
        if not self._complete():
            return
        folder = Path(self.config.folder) / "report"
        folder.mkdir(parents=True, exist_ok=True)
        text = report.make_report(self.store.connection, self.config).model_dump_json(indent=1)
        unfinished = folder / "report.json.part"
        unfinished.write_text(text)
        unfinished.replace(folder / "report.json")

    # --- waiting

    async def _change(self, operation: Callable[[], T]) -> T:
        result = await self.store.run(operation)
        self._announce()
        return result

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _poll(self, attempt: Callable[[], T | None], wait: float, caller: Caller | None) -> T | None:
        """Try now, and again whenever something changed, until `wait` seconds are over or the caller has left."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while caller is None or not caller.left:
            changed = self._changed
            result = await self.store.run(attempt)
            left = deadline - loop.time()
            if result is not None or left <= 0:
                return result
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_AGAIN_SECONDS)):
                    await changed.wait()
        return None


def _median(histogram: dict[int, int]) -> int:
    """The lower median of a histogram; 0 for an empty one."""
    half, seen = (sum(histogram.values()) + 1) // 2, 0
    for value in sorted(histogram):
        seen += histogram[value]
        if seen >= half:
            return value
    return 0
