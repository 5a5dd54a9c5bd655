"""A data manager, a gateway and a learner that are as small as they can be, over real sockets where they have some."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from fastapi import Request, Response

from shoal.api.services.common import VersionSpan
from shoal.api.services.models import WeightsState, WeightsTarget
from shoal.api.services.roles.trainer import TrainerConfig
from shoal.api.services.trajectories import (
    Accepted,
    Batch,
    BatchAck,
    BatchRenewed,
    BatchRequest,
    DataStatus,
    EpisodeOutcome,
    ProgressReport,
    Reconciled,
    ReconcileRequest,
    Segment,
    TrainGroup,
    TrainTrajectory,
)
from shoal_workers.service import ProblemError, Service, read, reply
from shoal_workers.tokens.arrays import decode
from shoal_workers.trainer.progress import Progress

MakeGroups = Callable[[int], list[TrainGroup]]


def trajectory(
    name: str, reward: float, prompt: list[int], answer: list[int], logprobs: list[float], version: int = 0
) -> TrainTrajectory:
    """One turn: a prompt that is not trained on and an answer that is."""
    start, end = len(prompt), len(prompt) + len(answer)
    segment = Segment(
        token_ids=[*prompt, *answer],
        loss_mask=[0] * start + [1] * len(answer),
        logprobs=[0.0] * start + logprobs,
        versions=[VersionSpan(version=version, start=start, end=end)],
    )
    return TrainTrajectory(id=name, segments=[segment], reward=reward, outcome=EpisodeOutcome.OK, turns=1)


def two_armed(index: int) -> list[TrainGroup]:
    """A group whose better answer is token 6, from a uniform sampler of tokens 5 and 6."""
    arms = [(5, 0.0), (6, 1.0)] * 2
    rows = [trajectory(f"{index}-{i}", reward, [3, 4], [arm], [-0.7]) for i, (arm, reward) in enumerate(arms)]
    return [TrainGroup(id=f"g{index}", task_id=f"t{index}", trajectories=rows)]


@dataclass
class FakeDataManager:
    """Hands out batches b0, b1, ... of `total`; what is leased and not acknowledged comes back by reconcile.

    `consumed` lists acknowledgements in order: a batch that is there twice was counted twice. `booked` has the step and
    version that each came with.
    """

    total: int
    make: MakeGroups = two_armed
    lease_seconds: float = 60.0
    pending: list[str] = field(default_factory=list)
    leased: list[str] = field(default_factory=list)
    consumed: list[str] = field(default_factory=list)
    booked: dict[str, tuple[int, int]] = field(default_factory=dict)
    renewed: list[str] = field(default_factory=list)
    reports: list[ProgressReport] = field(default_factory=list)
    reconciled: list[ReconcileRequest] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.pending = [f"b{index}" for index in range(self.total)]

    def service(self) -> Service:
        """The routes that a trainer calls."""
        service = Service("data", lambda: DataStatus(complete=not self.pending and not self.leased))
        app = service.app
        app.post("/batches:lease")(self._lease)
        app.post("/batches:reconcile")(self._reconcile)
        app.post("/batches/{name}:renew")(self._renew)
        app.post("/batches/{name}:ack")(self._acknowledge)
        app.post("/progress")(self._progress)
        return service

    async def _lease(self, request: Request) -> Response:
        await read(request, BatchRequest)
        if not self.pending:
            return Response(status_code=204)
        name = self.pending.pop(0)
        self.leased.append(name)
        return reply(Batch(id=name, groups=self.make(int(name[1:])), expires_at=0, lease_seconds=self.lease_seconds))

    async def _reconcile(self, request: Request) -> Response:
        body = await read(request, ReconcileRequest)
        self.reconciled.append(body)
        named = {batch.id: (batch.step, batch.version) for batch in body.consumed}
        kept = [name for name in self.leased if name in named]
        released = [name for name in self.leased if name not in named]
        self.consumed += kept
        self.booked |= {name: named[name] for name in kept}
        self.pending = released + self.pending
        self.leased = []
        return reply(Reconciled(consumed=kept, released=released))

    async def _renew(self, name: str) -> Response:
        self._held(name)
        self.renewed.append(name)
        return reply(BatchRenewed(id=name, expires_at=0))

    async def _acknowledge(self, name: str, request: Request) -> Response:
        ack = await read(request, BatchAck)
        if name in self.consumed:
            return reply(Accepted(id=name, duplicate=True))
        self._held(name)
        self.leased.remove(name)
        self.consumed.append(name)
        self.booked[name] = (ack.step, ack.version)
        return reply(Accepted(id=name))

    async def _progress(self, request: Request) -> Response:
        self.reports.append(await read(request, ProgressReport))
        return reply(Accepted(id="progress"))

    def _held(self, name: str) -> None:
        if name in self.lost:
            self.lost.remove(name)
            self.leased.remove(name)
            self.pending.insert(0, name)
        if name not in self.leased:
            raise ProblemError("lease-expired", f"batch {name} is not leased", status=410)


@dataclass
class FakeGateway:
    """Remembers the targets it was told, and refuses those that `refuse` has a problem for."""

    targets: list[WeightsTarget] = field(default_factory=list)
    engines: dict[str, int] | None = None
    loading: list[int] = field(default_factory=list)
    refuse: Callable[[WeightsTarget], ProblemError | None] = lambda target: None
    asked: int = 0
    left: list[str] = field(default_factory=list)

    def service(self) -> Service:
        """The routes that a trainer calls."""
        service = Service("gateway", lambda: WeightsState())

        @service.app.put("/weights/target")
        async def target(request: Request) -> Response:
            self.asked += 1
            offered = await read(request, WeightsTarget)
            if (problem := self.refuse(offered)) is not None:
                raise problem
            self.targets.append(offered)
            return reply(offered)

        @service.app.delete("/weights/target", status_code=204)
        async def leave(run: str) -> None:
            self.left.append(run)

        @service.app.get("/weights")
        async def weights() -> Response:
            last = self.targets[-1] if self.targets else None
            engines = self.engines if self.engines is not None else {"e0": last.version if last else 0}
            return reply(WeightsState(target=last, engines=engines, loading=self.loading))

        return service


class CrashError(BaseException):
    """What a SIGKILL looks like from inside: nothing after it happens."""


@dataclass
class FakeDisk:
    """What survives a crash of FakeLearner: batches that each checkpoint's weights have seen, and what is published."""

    checkpoints: dict[int, tuple[Progress, list[str]]] = field(default_factory=dict)
    published: dict[int, list[str]] = field(default_factory=dict)


def name_of(batch: bytes) -> str:
    """The id of a batch, as token arrays or as JSON."""
    if batch.startswith(b"{"):
        return Batch.model_validate_json(batch).id
    return decode(batch).metadata.batch


class FakeLearner:
    """Its weights are the list of batches they have seen. `crash(point, count)` may raise CrashError at any call."""

    def __init__(self, config: TrainerConfig, disk: FakeDisk, crash: Callable[[str], None]) -> None:
        self.config = config
        self.disk = disk
        self.crash = crash
        self.weights: list[str] = []
        self.in_use: list[Collection[int] | None] = []
        self.figures: dict[str, float] = {"loss": 0.0}
        self.full: set[str] = set()

    async def start(self) -> None:
        """Nothing to load."""

    async def restore(self) -> Progress:
        """The newest checkpoint."""
        if not self.disk.checkpoints:
            self.weights = []
            return Progress()
        progress, weights = self.disk.checkpoints[max(self.disk.checkpoints)]
        self.weights = list(weights)
        return progress

    async def train(self, batch: bytes, step: int, version: int) -> dict[str, float]:
        """See the batch."""
        self.crash("before train")
        self.weights.append(name_of(batch))
        self.crash("after train")
        await asyncio.sleep(0)
        return dict(self.figures)

    async def renumber(self, version: int) -> None:
        """Weights here have no number."""

    async def save(self, progress: Progress) -> None:
        """A checkpoint, whole."""
        self._room("save")
        self.crash("before save")
        self.disk.checkpoints[progress.step] = (progress, list(self.weights))
        self.crash("after save")

    async def publish(self, version: int, step: int, in_use: Collection[int] | None) -> WeightsTarget:
        """A version, whole."""
        self._room("publish")
        self.crash("before publish")
        self.in_use.append(in_use)
        assert version not in self.disk.published or self.disk.published[version] == self.weights
        self.disk.published[version] = list(self.weights)
        self.crash("after publish")
        return WeightsTarget(version=version, path=f"/versions/{version}", run=self.config.run)

    async def latest(self) -> WeightsTarget | None:
        """The newest version."""
        if not self.disk.published:
            return None
        version = max(self.disk.published)
        return WeightsTarget(version=version, path=f"/versions/{version}", run=self.config.run)

    async def close(self) -> None:
        """Nothing to stop."""

    def abandon(self) -> None:
        """Nothing to stop."""

    def _room(self, what: str) -> None:
        if what in self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
