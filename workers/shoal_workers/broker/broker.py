"""The broker: matches requests with members, and keeps the ledger in step with the members' guards."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from shoal.api.services.leases import (
    BrokerStatus,
    Grant,
    GrantRequest,
    Lease,
    LeaseQueued,
    LeaseRenewed,
    LeaseRequest,
    MemberReport,
    Outcome,
    Released,
    Retired,
    RetireRequest,
)
from shoal.api.services.roles.broker import BrokerConfig
from shoal_workers.broker.guards import Guards
from shoal_workers.broker.ledger import LeaseRow, Ledger, MemberRow
from shoal_workers.broker.matching import Queue, Waiting, match
from shoal_workers.broker.status import status_of
from shoal_workers.service import ProblemError
from shoal_workers.service.clock import steady_time

SWEEP_SECONDS = 0.5
# How long a place in the queue outlives the last poll for it.
HOLD_SECONDS = 30.0
WAIT_WINDOW = 1000
SOON_SECONDS = 0.05
# A guard that does not answer is asked once more, see `_ask_guard`.
GRANT_TRIES = 2

logger = logging.getLogger(__name__)


async def _never() -> None:
    await asyncio.Event().wait()


async def _first_of(answer: asyncio.Future[Any], gone: Callable[[], Awaitable[object]], seconds: float) -> None:
    watch = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({answer, watch}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


class Broker:
    """The leases of one pool. `on_wait` is told how many seconds each grant waited."""

    def __init__(
        self,
        config: BrokerConfig,
        guards: Guards,
        clock: Callable[[], float] = steady_time,
        on_wait: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.config = config
        self.ledger = Ledger(lost_after=config.missed_reports * config.report_seconds)
        self.queue = Queue(hold=HOLD_SECONDS)
        self.refused = 0
        self.waits: deque[float] = deque(maxlen=WAIT_WINDOW)
        self._guards = guards
        self._clock = clock
        self._on_wait = on_wait
        self._started = clock()
        self._stopping = False
        self._answers: dict[str, asyncio.Future[Lease | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Broker]:
        """Watch the clock while the block runs."""
        sweeper = asyncio.create_task(self._keep_sweeping())
        try:
            yield self
        finally:
            for task in {sweeper, *self._tasks}:
                task.cancel()
            await asyncio.gather(sweeper, *self._tasks, return_exceptions=True)
            await self._guards.close()

    # Agents

    async def lease(self, request: LeaseRequest, gone: Callable[[], Awaitable[object]] = _never) -> Lease | LeaseQueued:
        """A lease, or after `wait` seconds the place in the queue; problem `queue-full` (429).

        `gone()` returns when the caller has hung up: nothing is leased to it any more.
        """
        known = self.ledger.by_key(request.key)
        if known is not None:
            lease = known.lease or await self._recover(known, request)
            if lease is not None:
                return lease
        entry = self.queue.get(request.key) or self._enqueue(request)
        answer = self._answers.setdefault(request.key, asyncio.get_running_loop().create_future())
        self.queue.arrive(entry)
        self._pump()
        lease = await self._wait(entry, answer, request.wait, gone)
        if lease is not None:
            return lease
        return LeaseQueued(key=request.key, position=self.queue.position(entry), deadline=entry.deadline)

    async def renew(self, lease_id: str, ttl: float | None) -> LeaseRenewed:
        """Renew at the guard; problem `lease-lost` (410) when the lease is over, 503 when the member is silent."""
        row = self._row(lease_id)
        try:
            return await self._guards.renew(self._url(row), lease_id, ttl)
        except ProblemError as error:
            if error.name == "lease-lost":
                self.ledger.over(row)
            raise _relayed(error) from None

    async def release(self, lease_id: str, outcome: Outcome) -> Released:
        """End the lease at the guard; problems as for `renew`."""
        row = self._row(lease_id)
        try:
            answer = await self._guards.release(self._url(row), lease_id, outcome)
        except ProblemError as error:
            if error.name == "lease-lost":
                self.ledger.over(row)
            raise _relayed(error) from None
        self.ledger.released(row, answer)
        self._pump()
        return answer

    async def end_polls(self) -> None:
        """The broker stops: answer everybody who waits; they will ask its successor."""
        self._stopping = True
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(None)

    # Members and the operator

    def report(self, report: MemberReport) -> None:
        """Merge a member's report; leases that nobody knows of are given back."""
        for member, lease_id in self.ledger.report(report, self._clock()):
            self._spawn(self._release_orphan(member, lease_id))
        self._pump()

    def goodbye(self, name: str, uid: str) -> None:
        """A member stops."""
        row = self.ledger.members.get(name)
        if row is not None:
            self._guards.forget(row.report.url)
        self.ledger.goodbye(name, uid)

    async def retire(self, name: str, request: RetireRequest) -> Retired:
        """Take slots of a member out of service; problems `unknown-member` (404) and `member-leased` (409)."""
        row = self.ledger.members.get(name)
        if row is None or row.lost:
            raise ProblemError("unknown-member", f"member {name} is not registered", status=404)
        try:
            answer = await self._guards.retire(row.report.url, request)
        except ProblemError as error:
            raise _relayed(error) from None
        if request.slots == "all":
            self.ledger.retiring(name)
        return answer

    def status(self) -> BrokerStatus:
        """The pool now."""
        now = self._clock()
        return status_of(self.ledger, self.queue, self.waits, self.refused, now - self._started, now)

    # Queue

    def _enqueue(self, request: LeaseRequest) -> Waiting:
        if len(self.queue) >= self.config.queue_limit and not self._fits_now(request):
            self.refused += 1
            detail = f"{len(self.queue)} requests are waiting, the limit is {self.config.queue_limit}"
            raise ProblemError("queue-full", detail, status=429)
        return self.queue.add(request, uuid.uuid4().hex, self._clock())

    def _fits_now(self, request: LeaseRequest) -> bool:
        variants = self.ledger.variants_with_free()
        return bool(variants) if request.variant is None else request.variant in variants

    async def _wait(
        self,
        entry: Waiting,
        answer: asyncio.Future[Lease | None],
        seconds: float,
        gone: Callable[[], Awaitable[object]],
    ) -> Lease | None:
        limit = 0.0 if self._stopping else seconds
        try:
            # Most requests are served at once: only the others pay for watching the caller.
            await asyncio.wait({answer}, timeout=min(limit, SOON_SECONDS))
            if not answer.done() and limit > SOON_SECONDS:
                await _first_of(answer, gone, limit - SOON_SECONDS)
            await self._grant_on_its_way(entry, answer)
        finally:
            self.queue.leave(entry, self._clock())
        return answer.result() if answer.done() else None

    async def _grant_on_its_way(self, entry: Waiting, answer: asyncio.Future[Lease | None]) -> None:
        """A grant that is being tried is worth its few milliseconds: it would be for nobody.

        Not for longer than guards may take. One that comes still later is in the ledger: the key's next poll gets it,
        and without one its guard ends it after `ttl`.
        """
        deadline = time.monotonic() + GRANT_TRIES * self.config.guard_timeout
        while entry.granting and not answer.done() and time.monotonic() < deadline:
            await asyncio.wait({answer}, timeout=0.02)

    def _pump(self) -> None:
        while True:
            found = match(self.queue, self.ledger.variants_with_free(), self.ledger.next_member)
            if found is None:
                return
            entry, name = found
            self.queue.take(entry)
            self.ledger.reserve(name)
            self._spawn(self._grant(entry, self.ledger.members[name]))

    async def _grant(self, entry: Waiting, row: MemberRow) -> None:
        name, process = row.report.name, row.process
        lease: Lease | None = None
        try:
            lease = await self._granted(entry, row)
        except ProblemError as error:
            suspect = error.name != "no-free-slot"
            if suspect:
                logger.warning("member did not grant", extra={"member": name, "detail": str(error)})
            self.ledger.refused(name, suspect=suspect)
        except Exception:
            # Whatever it was, the request must be tried elsewhere and the slot be free for others.
            logger.exception("grant failed", extra={"member": name})
            self.ledger.refused(name, suspect=True)
        finally:
            self.ledger.unreserve(name, process)
        if lease is not None:
            self._answer(entry, lease)
        else:
            self.queue.put_back(entry)
        self._pump()

    async def _granted(self, entry: Waiting, row: MemberRow) -> Lease | None:
        """The lease that the member grants; None when the member is gone meanwhile, and the lease with it."""
        grant = await self._ask_guard(entry, row)
        lease = self._made(entry.request, row, grant)
        return lease if self.ledger.granted(row.report.name, grant, lease) else None

    async def _ask_guard(self, entry: Waiting, row: MemberRow) -> Grant:
        request = self._grant_request(entry.lease_id, entry.request)
        try:
            return await self._guards.grant(row.report.url, request)
        except ProblemError as error:
            if error.status not in (503, 504):
                raise
        # The answer may be lost while the slot is leased: the same key finds that grant again.
        return await self._guards.grant(row.report.url, request)

    def _answer(self, entry: Waiting, lease: Lease) -> None:
        self.queue.remove(entry)
        waited = max(0.0, self._clock() - entry.since)
        self.waits.append(waited)
        self._on_wait(waited)
        answer = self._answers.pop(entry.key, None)
        if answer is not None and not answer.done():
            answer.set_result(lease)

    # Leases

    async def _recover(self, known: LeaseRow, request: LeaseRequest) -> Lease | None:
        """A lease known from a report only: its guard tells the token again. None when it is over."""
        row = self.ledger.members[known.member]
        try:
            grant = await self._guards.grant(row.report.url, self._grant_request(known.lease_id, request))
        except ProblemError as error:
            if error.name != "no-free-slot":
                raise _relayed(error) from None
            self.ledger.over(known)
            return None
        lease = self._made(request, row, grant)
        return lease if self.ledger.granted(known.member, grant, lease) else None

    def _grant_request(self, lease_id: str, request: LeaseRequest) -> GrantRequest:
        return GrantRequest(
            lease_id=lease_id,
            key=request.key,
            holder=request.holder,
            ttl=request.ttl or self.config.ttl,
            max_seconds=self.config.max_episode_seconds,
        )

    def _made(self, request: LeaseRequest, row: MemberRow, grant: Grant) -> Lease:
        return Lease(
            id=grant.lease_id,
            key=grant.key,
            holder=grant.holder,
            member=row.report.name,
            slot=grant.slot,
            variant=row.report.variant,
            environment_url=grant.environment_url,
            token=grant.token,
            ttl=request.ttl or self.config.ttl,
            heartbeat=self.config.heartbeat,
            expires_at=grant.expires_at,
            answer_seconds=self.config.answer_seconds,
        )

    def _row(self, lease_id: str) -> LeaseRow:
        row = self.ledger.by_id(lease_id)
        if row is not None:
            return row
        if self._clock() - self._started < self.ledger.lost_after:
            detail = "the broker has just started, and the lease's member has not reported yet"
            raise ProblemError("rebuilding", detail, status=503)
        detail = f"lease {lease_id} has expired, was released, or its member is lost"
        raise ProblemError("lease-lost", detail, status=410)

    def _url(self, row: LeaseRow) -> str:
        return self.ledger.members[row.member].report.url

    async def _release_orphan(self, member: str, lease_id: str) -> None:
        row = self.ledger.members.get(member)
        if row is None:
            return
        try:
            await self._guards.release(row.report.url, lease_id, Outcome.OK)
            logger.info("orphan lease released", extra={"member": member, "lease": lease_id})
        except ProblemError as error:
            logger.info("orphan lease not released, it will expire", extra={"member": member, "detail": str(error)})

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = self._clock()
            for name in self.ledger.sweep(now):
                logger.warning("member lost", extra={"member": name})
            for entry in self.queue.sweep(now):
                self._answers.pop(entry.key, None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _relayed(error: ProblemError) -> ProblemError:
    """A guard's problem as the broker's own: a silent member is a service that is away for a while."""
    if error.name in ("unreachable", "timeout"):
        return ProblemError("member-unreachable", error.detail, status=503)
    return error
