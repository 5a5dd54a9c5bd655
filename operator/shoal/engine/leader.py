"""Leader election by a `Lease`: one of several operators works, the others wait and take over when it falls silent.

After client-go's algorithm. Time is measured on this process's own monotonic clock only: another's lease counts as
abandoned when it has not changed for its whole duration *since this process saw it change*, so that clocks that differ
between machines do no harm. A leader that can't renew gives up after `renew_deadline`, counted from the moment its
last successful request was sent, before `lease_duration` lets anyone else take the lease.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from shoal.engine.clock import Clock, SystemClock
from shoal.kube.client import KubeClient
from shoal.kube.errors import ApiError, ConflictError, NotFoundError
from shoal.kube.resources import CORE_EVENTS, LEASES

Json = dict[str, Any]
log = logging.getLogger(__name__)


UNFENCED = frozenset({str(LEASES), str(CORE_EVENTS)})


class LeadershipLostError(Exception):
    """This process may no longer act as the leader; its caches and queues are to be dropped (restart the process)."""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds. A dead leader is replaced after `duration`, and 1.2 `retry` by which its last sign may be seen late.

    That is 17.6 s at most, within the promised 20 s.
    """

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        if not self.duration > self.renew_deadline > self.retry > 0:
            raise ValueError("lease times must be duration > renew_deadline > retry > 0")


@dataclass(frozen=True, slots=True)
class Holder:
    """What a lease says: who holds it ("" for nobody), for how many seconds after each change."""

    identity: str
    duration: float
    changes: int
    acquired: str = ""


def read_holder(lease: Json) -> Holder:
    """Read the holder from a Lease object."""
    spec = lease.get("spec") or {}
    return Holder(
        identity=str(spec.get("holderIdentity") or ""),
        duration=float(spec.get("leaseDurationSeconds") or 0),
        changes=int(spec.get("leaseTransitions") or 0),
        acquired=str(spec.get("acquireTime") or ""),
    )


class Move(Enum):
    """What to do about a lease."""

    WAIT = "wait"
    TAKE = "take"
    RENEW = "renew"


def decide(holder: Holder, seen_at: float, identity: str, now: float) -> Move:
    """Return what `identity` may do with a lease whose present content was first seen at `seen_at`."""
    if holder.identity == identity:
        return Move.RENEW
    if not holder.identity or now >= seen_at + holder.duration:
        return Move.TAKE
    return Move.WAIT


class LeaderElector:
    """One candidate. `identity` must be unique to this process (pod name and a random part)."""

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        identity: str,
        name: str = "shoal-operator",
        times: LeaseTimes | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.identity = identity
        self._client = client
        self._namespace = namespace
        self._name = name
        self._times = times or LeaseTimes()
        self._clock = clock or SystemClock()
        self._lease: Json | None = None
        self._seen_at = 0.0
        self._until = float("-inf")
        self._complaint = ""
        self._led = False

    @property
    def leading(self) -> bool:
        """Whether this process may act right now; False by itself as soon as a renewal is overdue."""
        return self._clock.now() < self._until

    def fence(self, resource: str) -> None:
        """Raise `LeadershipLostError` for a write that this process wanted to make while it led, and leads no more.

        A process that was stopped for longer than its lease (a suspended machine, a debugger) goes on in the middle of
        its work before anything else can tell it. The lease itself, and events about the past, may be written.
        """
        if self._led and not self.leading and resource not in UNFENCED:
            raise LeadershipLostError(f"{self.identity} leads no more; {resource} are not written")

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, then run `lead` for as long as it can be kept.

        Returns when `lead` does. Raises `LeadershipLostError`, after `lead` was cancelled and has ended, when the lease
        could not be renewed. On cancellation, too, `lead` is ended first; then the lease is given up, so that the
        next candidate need not wait for it to expire.
        """
        await self._acquire()
        self._led = True
        log.info("leading as %s", self.identity)
        work = asyncio.ensure_future(lead())
        keep = asyncio.ensure_future(self._keep())
        try:
            await asyncio.wait((work, keep), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
                return
            self._until = float("-inf")
            raise LeadershipLostError(f"{self.identity} could not renew lease {self._namespace}/{self._name}")
        finally:
            await _end(work)
            await _end(keep)
            await self._release()

    # --- inside

    async def _acquire(self) -> None:
        while not await self._attempt(self._times.renew_deadline):
            await self._clock.sleep(self._pause())

    def _pause(self) -> float:
        """Seconds until the next look at a lease of another's: soon, and at once when it runs out before."""
        pause = self._times.retry * random.uniform(0.8, 1.2)
        if self._lease is None:
            return pause
        left = self._seen_at + read_holder(self._lease).duration - self._clock.now()
        # A little later than the moment itself, and not all candidates at once.
        return min(pause, left + random.uniform(0.01, 0.2)) if left > 0 else pause

    async def _keep(self) -> None:
        """Renew until the deadline passes without success."""
        while True:
            await self._clock.sleep(self._times.retry)
            left = self._until - self._clock.now()
            if left <= 0:
                return
            await self._attempt(left)
            if not self.leading:
                return

    async def _attempt(self, seconds: float) -> bool:
        """Try once, for `seconds` at most, to take or renew the lease; True on success. Never raises."""
        started = self._clock.now()
        try:
            async with asyncio.timeout(seconds):
                done = await self._try(started)
        except ConflictError:
            # Another candidate was faster, or our own last write did arrive: look at it afresh.
            self._look(None)
            return False
        except (ApiError, TimeoutError) as error:
            self._complain(str(error) or "no answer in time")
            return False
        self._complaint = ""
        if done:
            # From the start of the request: the server's clock for the others began no earlier than that.
            self._until = started + self._times.renew_deadline
        return done

    def _complain(self, complaint: str) -> None:
        # Once: a candidate that may not touch the lease tries every two seconds for as long as it lives.
        level = logging.DEBUG if complaint == self._complaint else logging.WARNING
        self._complaint = complaint
        log.log(level, "lease %s/%s: %s", self._namespace, self._name, complaint)

    async def _try(self, now: float) -> bool:
        lease = self._lease
        if lease is None or not self.leading:
            try:
                lease = await self._client.get(LEASES, self._name, self._namespace)
            except NotFoundError:
                return await self._create()
            self._look(lease)
        holder = read_holder(lease)
        move = decide(holder, self._seen_at, self.identity, now)
        if move is Move.WAIT:
            return False
        if move is Move.RENEW:
            body = self._body(lease, holder.acquired or self._timestamp(), holder.changes)
        else:
            body = self._body(lease, self._timestamp(), holder.changes + 1)
        # With its resourceVersion in it, the write fails when another candidate was faster.
        self._look(await self._client.replace(LEASES, body, self._namespace))
        return True

    async def _create(self) -> bool:
        body = self._body({"metadata": {"name": self._name, "namespace": self._namespace}}, self._timestamp(), 0)
        self._look(await self._client.create(LEASES, body, self._namespace))
        return True

    async def _release(self) -> None:
        self._until = float("-inf")
        lease = self._lease
        if lease is None or read_holder(lease).identity != self.identity:
            return
        body = self._body(lease, self._timestamp(), read_holder(lease).changes)
        body["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
        with suppress(ApiError, TimeoutError):
            async with asyncio.timeout(self._times.retry):
                await self._client.replace(LEASES, body, self._namespace)
        self._lease = None

    def _look(self, lease: Json | None) -> None:
        old, self._lease = self._lease, lease
        if lease is None or old is None or _version(old) != _version(lease):
            self._seen_at = self._clock.now()

    def _body(self, lease: Json, acquired: str, changes: int) -> Json:
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": lease["metadata"],
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": max(1, round(self._times.duration)),
                "acquireTime": acquired,
                "renewTime": self._timestamp(),
                "leaseTransitions": changes,
            },
        }

    def _timestamp(self) -> str:
        return _micro_time(self._clock.wall())


def _micro_time(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _version(lease: Json) -> str:
    return str(lease["metadata"].get("resourceVersion", ""))


async def _end(task: asyncio.Future[Any]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("ended with %r", error)
