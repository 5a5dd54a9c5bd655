"""Telling the gateway that this engine is here, what it serves and how busy it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shoal.api.services.models import EngineReport
from shoal_workers.engines.engine import Engine
from shoal_workers.service import ProblemError, ServiceClient, backoff

REPORT_TIMEOUT_SECONDS = 5.0
# A restarted gateway must know its engines again well before callers give up.
LONGEST_BACKOFF_SECONDS = 2.0

logger = logging.getLogger(__name__)


class Registration:
    """Reports every `interval` seconds and at once on change, whatever the engine is doing."""

    def __init__(self, engine: Engine, client: ServiceClient, *, uid: str, url: str, interval: float) -> None:
        self._engine = engine
        self._client = client
        self._uid = uid
        self._url = url
        self._interval = interval
        self._path = f"/engines/{engine.name}"
        self._registered = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Report while the block runs; then take the engine off the gateway's list."""
        task = asyncio.create_task(self._keep_reporting())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._say_goodbye()
            await self._client.close()

    async def report(self) -> bool:
        """Send one report; whether the gateway took it."""
        report = EngineReport(name=self._engine.name, uid=self._uid, url=self._url, status=self._engine.status())
        try:
            await self._client.put(self._path, report, retries=0, timeout=REPORT_TIMEOUT_SECONDS)
        except ProblemError as error:
            if self._registered:
                logger.warning("the gateway does not take reports", extra={"detail": str(error)})
            self._registered = False
            return False
        if not self._registered:
            logger.info("registered with the gateway", extra={"gateway": self._client.base_url})
        self._registered = True
        return True

    async def _keep_reporting(self) -> None:
        failures = 0
        while True:
            self._engine.changed.clear()
            if await self.report():
                failures = 0
                await self._wait()
            else:
                await asyncio.sleep(backoff(failures, cap=LONGEST_BACKOFF_SECONDS))
                failures += 1

    async def _wait(self) -> None:
        try:
            # Not `wait_for`: in Python 3.11 it loses a cancellation that comes together with the event.
            async with asyncio.timeout(self._interval):
                await self._engine.changed.wait()
        except TimeoutError:
            return

    async def _say_goodbye(self) -> None:
        try:
            await self._client.delete(self._path, params={"uid": self._uid}, retries=0, timeout=1.0)
        except ProblemError as error:
            logger.info("the gateway was not told of the stop", extra={"detail": str(error)})
