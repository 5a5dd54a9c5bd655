"""Leasing environments: the agent's side of the broker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import aiohttp

from shoal.api.services.leases import Lease, LeaseQueued, LeaseRenewed, LeaseRequest, Outcome, RenewRequest
from shoal_workers.service import ProblemError, ServiceClient, Token, backoff

# One poll; shorter than what proxies cut off, long enough that waiting costs next to nothing.
POLL_SECONDS = 20.0
# No lease is so short that its renewal is given up sooner.
SHORTEST_RENEWAL_SECONDS = 1.0
_OVER = frozenset({"lease-lost", "unknown-lease"})

logger = logging.getLogger(__name__)


class LeaseKeeper:
    """Renews one lease in the background; `lost` is set when the lease is over against our will, and `why` says how."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.lost = asyncio.Event()
        self.why = ""


class BrokerClient:
    """One pool's broker, as the agent `holder` uses it."""

    def __init__(
        self, base_url: str, *, holder: str, token: Token = None, session: aiohttp.ClientSession | None = None
    ) -> None:
        self.holder = holder
        self._client = ServiceClient(base_url, token=token, session=session)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection, unless it is shared."""
        await self._client.close()

    async def acquire(
        self,
        key: str,
        *,
        task: str = "",
        variant: str | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> Lease:
        """A lease, waiting for one up to `timeout` seconds (None: for ever); the same key gives the same lease.

        Lives through a broker that is away or whose queue is full. Raises TimeoutError, or ProblemError for a request
        that can never succeed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        failures, silence = 0, ""
        while True:
            wait = POLL_SECONDS if deadline is None else max(0.0, min(POLL_SECONDS, deadline - time.monotonic()))
            try:
                answer = await self.ask(key, task=task, variant=variant, ttl=ttl, wait=wait)
                failures, silence = 0, ""
            except ProblemError as error:
                if error.name not in ("queue-full", "timeout") and error.status != 503:
                    raise
                answer = None
                failures += 1
                silence = "" if error.name == "queue-full" else str(error)
            if isinstance(answer, Lease):
                return answer
            if deadline is not None and time.monotonic() >= deadline:
                what = f"the broker gave no answer ({silence})" if silence else "no environment was free"
                raise TimeoutError(f"{what} within {timeout:g} s")
            if failures:
                await asyncio.sleep(backoff(failures))

    async def ask(
        self, key: str, *, task: str = "", variant: str | None = None, ttl: float | None = None, wait: float = 0.0
    ) -> Lease | LeaseQueued:
        """One poll of at most `wait` seconds: the lease, or the place in the queue. Raises ProblemError."""
        request = LeaseRequest(key=key, holder=self.holder, task=task, variant=variant, ttl=ttl, wait=wait)
        reply = await self._client.call("POST", "/leases", request, timeout=wait + 30.0, idempotent=True)
        return reply.read(LeaseQueued) if reply.status == 202 else reply.read(Lease)

    async def renew(self, lease: Lease, ttl: float | None = None, timeout: float | None = None) -> LeaseRenewed:
        """One heartbeat, answered within `timeout` seconds (None: the client's); raises ProblemError `lease-lost` when
        the lease is over.
        """
        path = f"/leases/{lease.id}:renew"
        return await self._client.post(path, RenewRequest(ttl=ttl), LeaseRenewed, timeout=timeout, idempotent=True)

    async def release(self, lease: Lease, outcome: Outcome = Outcome.OK) -> None:
        """Give the slot back. A lease that is over already is fine; so is a broker that is away: the lease expires."""
        try:
            await self._client.delete(f"/leases/{lease.id}", params={"outcome": outcome.value})
        except ProblemError as error:
            if error.name not in _OVER:
                logger.warning("lease not released, it will expire", extra={"lease": lease.id, "detail": str(error)})

    @contextlib.asynccontextmanager
    async def keeping(self, lease: Lease) -> AsyncIterator[LeaseKeeper]:
        """Renew the lease every `heartbeat` seconds while the block runs. Does not release it."""
        keeper = LeaseKeeper(lease)
        task = asyncio.create_task(self._keep(keeper))
        try:
            yield keeper
        finally:
            task.cancel()
            # Not `await task` with CancelledError suppressed: that would also swallow a cancellation from outside.
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self, keeper: LeaseKeeper) -> None:
        """Renew until the lease is over.

        Only the guard decides that it is. Silence is none of its answers: a renewal may have reached the guard although
        its answer was lost, so the lease is given up no sooner than `ttl` after it must have expired without that.
        """
        lease, failures = keeper.lease, 0
        interval = min(lease.heartbeat, lease.ttl / 3)
        given_up = time.monotonic() + 2 * lease.ttl
        while not keeper.lost.is_set():
            # After a failure sooner than the next heartbeat: the lease goes on ageing while the broker starts again.
            await asyncio.sleep(min(interval, backoff(failures)) if failures else interval)
            try:
                await self.renew(lease, timeout=max(interval, SHORTEST_RENEWAL_SECONDS))
                failures, given_up = 0, time.monotonic() + 2 * lease.ttl
            except Exception as error:
                failures += 1
                over = isinstance(error, ProblemError) and error.name in _OVER
                if over or time.monotonic() >= given_up:
                    unforeseen = not isinstance(error, ProblemError)
                    logger.warning("lease lost", extra={"lease": lease.id, "detail": str(error)}, exc_info=unforeseen)
                    keeper.why = str(error)
                    keeper.lost.set()
