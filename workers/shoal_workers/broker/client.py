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
_OVER = frozenset({"lease-lost", "unknown-lease"})

logger = logging.getLogger(__name__)


class LeaseKeeper:
    """Renews one lease in the background; `lost` is set when the lease is over against our will."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.lost = asyncio.Event()


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
        failures = 0
        while True:
            wait = POLL_SECONDS if deadline is None else max(0.0, min(POLL_SECONDS, deadline - time.monotonic()))
            try:
                answer = await self.ask(key, task=task, variant=variant, ttl=ttl, wait=wait)
                failures = 0
            except ProblemError as error:
                if error.name not in ("queue-full", "timeout") and error.status != 503:
                    raise
                answer = None
                failures += 1
            if isinstance(answer, Lease):
                return answer
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"no environment was free within {timeout:g} s")
            if failures:
                await asyncio.sleep(backoff(failures))

    async def ask(
        self, key: str, *, task: str = "", variant: str | None = None, ttl: float | None = None, wait: float = 0.0
    ) -> Lease | LeaseQueued:
        """One poll of at most `wait` seconds: the lease, or the place in the queue. Raises ProblemError."""
        request = LeaseRequest(key=key, holder=self.holder, task=task, variant=variant, ttl=ttl, wait=wait)
        reply = await self._client.call("POST", "/leases", request, timeout=wait + 30.0, idempotent=True)
        return reply.read(LeaseQueued) if reply.status == 202 else reply.read(Lease)

    async def renew(self, lease: Lease, ttl: float | None = None) -> LeaseRenewed:
        """One heartbeat; raises ProblemError `lease-lost` when the lease is over."""
        path = f"/leases/{lease.id}:renew"
        return await self._client.post(path, RenewRequest(ttl=ttl), LeaseRenewed, idempotent=True)

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
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _keep(self, keeper: LeaseKeeper) -> None:
        lease = keeper.lease
        expires = time.monotonic() + lease.ttl
        while not keeper.lost.is_set():
            await asyncio.sleep(min(lease.heartbeat, lease.ttl / 3))
            try:
                await self.renew(lease)
                expires = time.monotonic() + lease.ttl
            except ProblemError as error:
                if error.name in _OVER or time.monotonic() >= expires:
                    logger.warning("lease lost", extra={"lease": lease.id, "detail": str(error)})
                    keeper.lost.set()
