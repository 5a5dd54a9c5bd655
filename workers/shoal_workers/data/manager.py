"""The data manager: every operation as one transaction, and long polls that wake when something changed."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from shoal.api.services.common import Finding
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
    EpisodeOutcome,
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
from shoal_workers.data.counters import counts
from shoal_workers.data.difficulty import Difficulty
from shoal_workers.data.evaluation import Evaluations
from shoal_workers.data.faults import Causes
from shoal_workers.data.flatness import Flatness
from shoal_workers.data.groups import Groups
from shoal_workers.data.handover import Handover
from shoal_workers.data.intake import arrays_of
from shoal_workers.data.payloads import Limits, Payloads
from shoal_workers.data.progress import Progress
from shoal_workers.data.rules.allocators import ALLOCATORS
from shoal_workers.data.rules.samplers import SAMPLERS
from shoal_workers.data.store import Store
from shoal_workers.data.tasks import load_tasks
from shoal_workers.service import ProblemError
from shoal_workers.service.clock import steady_time
from shoal_workers.tokens.arrays import TokenArrays, encode, to_batch

T = TypeVar("T")

MOST_NAMED = 10
"""Tasks that are set aside which a status names."""
LOOK_AGAIN_SECONDS = 5.0
"""A long poll looks by itself this often, because a lease that runs out makes no noise."""


class DataManager:
    """All operations of the service. `clock` gives seconds since the epoch, and never goes back."""

    def __init__(self, config: DataConfig, clock: Callable[[], float] = steady_time) -> None:
        self.config = config
        self._clock = clock
        self._started = clock()
        sampler, allocator = SAMPLERS.build(config.sampler), ALLOCATORS.build(config.allocator)
        tasks = load_tasks(config.tasks)
        self.store = Store(Path(config.folder) / "store" / "trajectories.sqlite")
        connection = self.store.connection
        self._payloads = Payloads(connection, Path(config.folder) / "store" / "tokens")
        self._causes = Causes(connection)
        self._difficulty = Difficulty(connection)
        self._flatness = Flatness(connection, config.batch_groups)
        self._groups = Groups(
            connection, config, tasks, sampler, allocator, self._difficulty, self._flatness, self._payloads, clock
        )
        self._assignments = Assignments(
            connection, config, self._groups, self._causes, self._difficulty, self._payloads
        )
        self._batches = Batches(connection, config, self._groups, self._payloads)
        self._evaluations = Evaluations(connection, config, self._groups)
        self._progress = Progress(connection, config)
        self._changed = asyncio.Event()
        self._store_fault = ""
        kept = config.retention
        self._limits = Limits(kept.bytes, kept.seconds, kept.versions)
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
            if self._evaluations.settle(self._assignments.group_of(assignment), self._clock()):
                self._save_report_when_complete()
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
        """Store a trajectory; raises a problem that names the field of one that cannot be trained on."""
        arrays = arrays_of(record)
        blob = encode(arrays)

        def store() -> Accepted:
            accepted = self._assignments.record(record, arrays, blob, self._clock())
            if self._evaluations.settle(self._assignments.group_of(record.assignment_id), self._clock()):
                self._save_report_when_complete()
            return accepted

        return await self._change(store)

    async def refuse(self, body: bytes, problem: ProblemError) -> None:
        """Count a record whose only fault is its reward as the grader's: nobody else can mend it."""
        errors = problem.extensions.get("errors") or []
        fields = {str(each["field"]) for each in errors}
        try:
            name = json.loads(body).get("assignment_id")
        except (ValueError, AttributeError):
            return
        if fields == {"reward"} and isinstance(name, str):
            report = FaultReport(outcome=EpisodeOutcome.GRADER_ERROR, detail=problem.detail[:4096])
            await self.fail(name, report)

    # --- trainer

    async def lease_batch(self, request: BatchRequest, caller: Caller | None = None) -> Batch | None:
        """As `lease_arrays`, as a message."""
        arrays = await self.lease_arrays(request, caller)
        return None if arrays is None else to_batch(arrays)

    async def lease_arrays(self, request: BatchRequest, caller: Caller | None = None) -> TokenArrays | None:
        """A batch, waiting until there is one; None if the wait ends first or training is over."""

        def attempt() -> Handover | None:
            if self._progress.finished or self._evaluations.waiting("initial"):
                return None
            return self._batches.lease(request, self._clock())

        batch = await self._poll(attempt, request.wait, caller)
        if batch is not None:
            self._announce()  # groups that were dropped as stale leave room for fresh ones
        return None if batch is None else await asyncio.to_thread(batch.arrays)

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

            self._payloads.sweep(self._clock(), self._progress.version, self._limits)

        await self._change(take)

    # --- everyone

    async def status(self) -> DataStatus:
        """The state, from the rows themselves."""
        return await self.store.run(self._status)

    async def report(self) -> RunReport:
        """The report so far."""
        return await self.store.read(lambda connection: report.make_report(connection, self.config))

    def wake_all(self) -> None:
        """Let every long poll look whether its caller is still there."""
        self._announce()

    # --- inside the transaction

    def _begin(self) -> None:
        """At every start: what the process before may not have come to."""
        self._assignments.begin(self._clock())
        self._batches.begin(self._clock())
        if self._progress.step == 0:
            self._evaluations.ensure("initial", 0)
        self._save_report_when_complete()

    def _status(self) -> DataStatus:
        connection = self.store.connection
        histogram = {int(behind): count for behind, count in counts(connection, "staleness").items()}
        aside, first = self._difficulty.aside(MOST_NAMED)
        return DataStatus(
            step=self._progress.step,
            steps=self.config.steps,
            version=self._progress.version,
            trajectories=counts(connection, "state"),
            outcomes=counts(connection, "outcome"),
            dropped=counts(connection, "dropped"),
            trained=sum(histogram.values()),
            reward=self._progress.rewards(),
            evaluation=self._evaluations.figures(),
            staleness=StalenessFigures(p50=_median(histogram), max=max(histogram, default=0), histogram=histogram),
            trajectories_per_minute=self._progress.per_minute(),
            consecutive_faults=self._causes.most(),
            tasks_set_aside=aside,
            set_aside=dict(first),
            findings=self._findings(aside, first),
            halted=self._halted(),
            complete=self._complete(),
            uptime_seconds=self._clock() - self._started,
        )

    def _findings(self, aside: int, first: list[tuple[str, str]]) -> list[Finding]:
        """What is wrong now."""
        found = self._causes.findings()
        flat = self._flatness.finding()
        if flat is not None and not self._progress.finished:
            found.append(flat)
        if aside:
            task, why = first[0]
            message = f"{aside} tasks are set aside because nobody can play them; {task}: {why}"
            found.append(Finding(reason="TasksSetAside", message=message[:4096]))
        if self._difficulty.trained_aside() >= self._groups.tasks.size:
            message = f"no task is left: all {self._groups.tasks.size} are set aside"
            found.append(Finding(reason="NoTaskLeft", message=message, fatal=True))
        damaged = meta.get(self.store.connection, "damaged")
        if damaged:
            message = f"{counts(self.store.connection, 'dropped').get('damaged', 0)} trajectories cannot be read"
            found.append(Finding(reason="DamagedTrajectories", message=f"{message}; the last ones: {damaged}"[:4096]))
        if self._store_fault:
            found.append(Finding(reason="StoreFailed", message=self._store_fault[:4096]))
        return found

    def _complete(self) -> bool:
        return self._progress.finished and not self._evaluations.waiting("final")

    def _pause_left(self) -> float:
        """Seconds until something may be handed out again after faults in a row."""
        return self._causes.pause_until() - self._clock()

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
        """Raises a problem that passes (503) where the volume takes nothing: whoever asked asks again."""
        try:
            result = await self.store.run(operation)
        except (OSError, sqlite3.OperationalError) as error:
            self._store_fault = f"the store at {self.config.folder} cannot be written: {error}"
            raise ProblemError("store-failed", self._store_fault, status=503) from error
        self._store_fault = ""
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
