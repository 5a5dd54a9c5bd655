"""Telling the broker that this member is here, and what its slots do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shoal_workers.environment.member import Member
from shoal_workers.service import ProblemError, ServiceClient, backoff

REPORT_TIMEOUT_SECONDS = 5.0
# A broker that is away is asked again at least this often, so that it has the whole pool soon after it is back.
LONGEST_BACKOFF_SECONDS = 4.0
# Changes within this time travel in one report: a busy member must not spend the broker's time on its own news.
GATHER_SECONDS = 0.02

logger = logging.getLogger(__name__)


class Registration:
    """Sends the member's report every `report_seconds` and at once on change."""

    def __init__(self, member: Member, client: ServiceClient) -> None:
        self._member = member
        self._client = client
        self._path = f"/members/{member.identity.name}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Report while the block runs; then take the member off the broker's list."""
        task = asyncio.create_task(self._keep_reporting())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._say_goodbye()
            await self._client.close()

    async def _keep_reporting(self) -> None:
        failures = 0
        while True:
            self._member.changed.clear()
            if await self._report():
                failures = 0
                await asyncio.sleep(GATHER_SECONDS)
                await self._wait(self._member.config.report_seconds - GATHER_SECONDS)
            else:
                # Not cut short by changes: they would make every member of a pool hammer a broker that just restarted.
                await asyncio.sleep(backoff(failures, cap=LONGEST_BACKOFF_SECONDS))
                failures += 1

    async def _wait(self, seconds: float) -> None:
        try:
            # Not `wait_for`: in Python 3.11 it loses a cancellation that comes together with the event.
            async with asyncio.timeout(seconds):
                await self._member.changed.wait()
        except TimeoutError:
            return

    async def _report(self) -> bool:
        try:
            await self._client.put(self._path, self._member.report(), retries=0, timeout=REPORT_TIMEOUT_SECONDS)
        except ProblemError as error:
            if self._member.registered:
                logger.warning("the broker does not take reports", extra={"detail": str(error)})
            self._member.registered = False
            return False
        if not self._member.registered:
            logger.info("registered with the broker", extra={"broker": self._client.base_url})
        self._member.registered = True
        return True

    async def _say_goodbye(self) -> None:
        params = {"uid": self._member.identity.uid}
        try:
            await self._client.delete(self._path, params=params, retries=0, timeout=1.0)
        except ProblemError as error:
            logger.info("the broker was not told of the stop", extra={"detail": str(error)})
