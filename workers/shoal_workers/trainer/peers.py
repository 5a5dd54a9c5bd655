"""The trainer's calls to the data manager and to the gateway."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import uuid4

from shoal.api.services.models import WeightsState, WeightsTarget
from shoal.api.services.trajectories import (
    Accepted,
    Batch,
    BatchAck,
    BatchRenewed,
    BatchRequest,
    DataStatus,
    ProgressReport,
    Reconciled,
    ReconcileRequest,
    TrainedBatch,
)
from shoal_workers.service import ProblemError, Reply, ServiceClient, backoff
from shoal_workers.tokens.arrays import MEDIA_TYPE, decode

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A data manager or gateway that restarts is back within seconds: knocking more often would only fill the log.
_PATIENCE_CAP_SECONDS = 5.0
_LEASE_SLACK_SECONDS = 10.0
_RETRY_SECONDS = 1.0
# A stopping pod has more to do than to wait for a gateway that may be stopping, too.
_LEAVE_SECONDS = 2.0
_GONE = frozenset({404, 409, 410})


async def patiently(call: Callable[[], Awaitable[T]], what: str) -> T:
    """Repeat `call`, which must be safe to repeat, until its service answers; a refusal (ProblemError) is raised."""
    attempt = 0
    while True:
        try:
            return await call()
        except ProblemError as error:
            if error.status < 500:
                raise
            if attempt % 10 == 0:
                logger.warning("waiting for a service", extra={"call": what, "cause": str(error)})
        await asyncio.sleep(backoff(attempt, cap=_PATIENCE_CAP_SECONDS))
        attempt += 1


class DataManager:
    """The data manager, as the trainer sees it. Calls wait as long as it is away."""

    def __init__(self, client: ServiceClient, trainer: str) -> None:
        self._client = client
        self._trainer = trainer

    async def reconcile(self, step: int, version: int, consumed: list[TrainedBatch]) -> Reconciled:
        """Say what the checkpoint holds; batches leased otherwise go back."""
        request = ReconcileRequest(trainer=self._trainer, step=step, version=version, consumed=consumed)
        return await patiently(lambda: self._client.post("/batches:reconcile", request, Reconciled), "reconcile")

    async def lease(self, version: int, groups: int, wait: float) -> LeasedBatch | None:
        """A batch, or None where there was none within `wait` seconds."""
        request = BatchRequest(trainer=self._trainer, version=version, groups=groups, wait=wait, key=uuid4().hex)
        limit = wait + _LEASE_SLACK_SECONDS
        reply = await patiently(
            lambda: self._client.call(
                "POST", "/batches:lease", request, timeout=limit, idempotent=True, headers={"Accept": MEDIA_TYPE}
            ),
            "lease",
        )
        return None if reply.status == 204 else await asyncio.to_thread(_leased, reply)

    async def renew(self, batch: str) -> bool:
        """Hold the batch longer; False where it is lost."""
        return await self._held(
            lambda: self._client.post(f"/batches/{batch}:renew", None, BatchRenewed, idempotent=True), "renew"
        )

    async def acknowledge(self, batch: TrainedBatch) -> bool:
        """A checkpoint holds the batch; False where it was lost before that."""
        ack = BatchAck(step=batch.step, version=batch.version)
        return await self._held(
            lambda: self._client.post(f"/batches/{batch.id}:ack", ack, Accepted, idempotent=True), "acknowledge"
        )

    async def report(self, step: int, version: int, metrics: dict[str, float]) -> None:
        """Progress: the version is what staleness is measured against from now on."""
        report = ProgressReport(step=step, version=version, metrics=metrics)
        await patiently(lambda: self._client.call("POST", "/progress", report, idempotent=True), "progress")

    async def complete(self) -> bool:
        """Whether the job needs no further step."""
        status = await patiently(lambda: self._client.get("/status", DataStatus), "status")
        return status.complete

    async def _held(self, call: Callable[[], Awaitable[object]], what: str) -> bool:
        try:
            await patiently(call, what)
        except ProblemError as error:
            if error.status not in _GONE:
                raise
            logger.warning("batch lost", extra={"call": what, "cause": str(error)})
            return False
        return True


@dataclass(frozen=True, slots=True)
class LeasedBatch:
    """A batch as it came, held for `lease_seconds` unless renewed: token arrays, or JSON of an earlier release."""

    id: str
    lease_seconds: float
    body: bytes


def _leased(reply: Reply) -> LeasedBatch:
    if reply.media_type == MEDIA_TYPE:
        metadata = decode(reply.body).metadata
        return LeasedBatch(metadata.batch, metadata.lease_seconds, reply.body)
    batch = reply.read(Batch)
    return LeasedBatch(batch.id, batch.lease_seconds, reply.body)


class Gateway:
    """The gateway, as the trainer sees it: it is told the newest weights, again and again in case it forgot.

    `detail` says why it does not have them, and is "" when it has; `engines` has each engine's version, as last heard.
    """

    def __init__(self, client: ServiceClient) -> None:
        self._client = client
        self._target: WeightsTarget | None = None
        self._changed = asyncio.Event()
        self._refusal: tuple[str, str] | None = None
        self.detail = ""
        self.engines: dict[str, int] = {}

    def aim(self, target: WeightsTarget) -> None:
        """The newest weights are these; `keep_telling` passes it on."""
        self._target = target
        self._changed.set()

    async def keep_telling(self, every: float) -> None:
        """Tell the gateway at once on a change, and every `every` seconds; never raises for a gateway that is away."""
        while True:
            self._changed.clear()
            told = self._target is None or await self._tell(self._target)
            try:
                # Not `wait_for`: in Python 3.11 it loses a cancellation that comes together with the event.
                async with asyncio.timeout(every if told else min(every, _RETRY_SECONDS)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def leave(self) -> None:
        """Say that this trainer stops, so that another run need not wait for the fleet as it would after a crash."""
        if self._target is None:
            return
        run = {"run": self._target.run}
        try:
            await self._client.delete("/weights/target", params=run, timeout=_LEAVE_SECONDS, retries=0)
        except ProblemError as error:
            logger.info("gateway not told that the trainer stops", extra={"cause": str(error)})

    async def served(self) -> set[int] | None:
        """The versions that engines serve, load, or are about to be told to load; None where the gateway does not say.

        One without a target has just begun, and knows of no engine yet.
        """
        try:
            state = await self._client.get("/weights", WeightsState)
        except ProblemError:
            return None
        self.engines = state.engines
        if state.target is None:
            return None
        aimed = {self._target.version} if self._target is not None else set()
        return {*state.engines.values(), *state.loading, state.target.version, *aimed}

    async def _tell(self, target: WeightsTarget) -> bool:
        try:
            await self._client.put("/weights/target", target)
        except ProblemError as error:
            self._refused(target, error)
            return False
        if self._refusal is not None:
            logger.info("gateway took the weights", extra={"version": target.version})
        self._refusal, self.detail = None, ""
        return True

    def _refused(self, target: WeightsTarget, error: ProblemError) -> None:
        self.detail = f"the gateway did not take version {target.version}: {error}"
        refusal = reason(error)
        if refusal != self._refusal:
            logger.warning("gateway did not take the weights", extra={"version": target.version, "cause": str(error)})
        self._refusal = refusal


def reason(error: ProblemError) -> tuple[str, str]:
    """What makes one refusal another: a fleet's holder where it names one, as its text counts seconds down."""
    return error.name, str(error.extensions.get("run", error.detail))
