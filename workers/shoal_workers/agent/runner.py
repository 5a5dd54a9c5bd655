"""Keeps as many episodes running as the process may, for as long as there are assignments."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from shoal.api.services.models import SessionSettings
from shoal.api.services.roles.agent import AgentConfig
from shoal.api.services.trajectories import AgentStatus, Assignment, EpisodeOutcome, Prefix
from shoal_workers.agent.episode import EpisodeRun, Services
from shoal_workers.agent.harness import FleetInUseError
from shoal_workers.agent.session import opened
from shoal_workers.service import ProblemError

logger = logging.getLogger(__name__)

CLAIM_WAIT_SECONDS = 20.0
DONE_PAUSE_SECONDS = 5.0
"""When the data manager has nothing more to do the agent is about to be removed; until then it asks now and then."""
FAILURE_PAUSE_SECONDS = 2.0
FLEET_PAUSE_SECONDS = 5.0
"""While another run has the fleet, one look at it every so often; episodes would only keep environments from others."""
RENEW_LOOK_SECONDS = 1.0
RENEW_SHARE = 1 / 3
"""Of an assignment's lease: two renewals may be lost before it runs out."""


class Runner:
    """The agent process's work."""

    def __init__(self, config: AgentConfig, services: Services, name: str) -> None:
        self._config = config
        self._services = services
        self._name = name
        self._running: dict[asyncio.Task[None], EpisodeRun] = {}
        self._outcomes: Counter[str] = Counter()
        self._turns = 0
        self._room = asyncio.Event()
        self._in_use = ""
        self._crowded = False
        self._started = time.monotonic()
        self._renewed: dict[str, float] = {}
        self._loops: list[asyncio.Task[None]] = []

    def status(self) -> AgentStatus:
        """What the process is doing."""
        return AgentStatus(
            name=self._name,
            running=len(self._running),
            outcomes=dict(self._outcomes),
            turns=self._turns,
            uptime_seconds=time.monotonic() - self._started,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work while the block lasts; at its end every episode is handed back."""
        work = (self._claim, self._renew)
        self._loops = [asyncio.create_task(_for_ever(each)) for each in work]
        try:
            yield
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Claim no more and interrupt every episode; each hands itself back with what it had reached."""
        for task in (*self._loops, *self._running):
            task.cancel()
        await asyncio.gather(*self._loops, *self._running, return_exceptions=True)

    async def _claim(self) -> None:
        """Fill the free places."""
        if self._in_use:
            await self._wait_for_fleet()
        if self._crowded:
            # The model's service had no room for an episode that has just ended; one more would find none either.
            self._crowded = False
            await asyncio.sleep(FAILURE_PAUSE_SECONDS)
        free = self._config.concurrency - len(self._running)
        if free <= 0:
            self._room.clear()
            await self._room.wait()
            return
        claimed = await self._services.duties.claim(free, CLAIM_WAIT_SECONDS)
        for assignment in claimed.assignments:
            if self._in_use:
                # Another run got the fleet while the claim was on its way.
                await self._services.duties.hand_back(assignment, assignment.resume or Prefix())
            else:
                self._begin(assignment)
        if claimed.done:
            await asyncio.sleep(DONE_PAUSE_SECONDS)

    async def _wait_for_fleet(self) -> None:
        """Wait until the fleet has this run's weights; a session that is opened for it is the question."""
        settings = SessionSettings(run=self._config.run)
        while self._in_use:
            logger.warning("waiting for the fleet", extra={"detail": self._in_use})
            await asyncio.sleep(FLEET_PAUSE_SECONDS)
            try:
                async with opened(self._services.gateway, f"{self._name}-waits", settings):
                    self._in_use = ""
            except ProblemError as error:
                self._in_use = error.detail

    def _begin(self, assignment: Assignment) -> None:
        run = EpisodeRun(self._services, assignment)
        task = asyncio.create_task(self._play(run))
        self._running[task] = run
        self._renewed[assignment.id] = time.monotonic()
        task.add_done_callback(self._ended)

    async def _play(self, run: EpisodeRun) -> None:
        try:
            outcome = await run.run()
            self._outcomes[outcome] += 1
            self._crowded = self._crowded or outcome is EpisodeOutcome.CANCELLED
        except FleetInUseError as error:
            self._in_use = str(error)
            await run.hand_back()
        self._turns += run.turns

    def _ended(self, task: asyncio.Task[None]) -> None:
        run = self._running.pop(task)
        self._renewed.pop(run.assignment.id, None)
        self._room.set()
        if not task.cancelled() and task.exception() is not None:
            logger.error("an episode ended without an answer; its lease will run out", exc_info=task.exception())

    async def _renew(self) -> None:
        """Renew what runs for long; an episode whose assignment is lost is stopped, someone else has it."""
        await asyncio.sleep(RENEW_LOOK_SECONDS)
        for task, run in list(self._running.items()):
            age = time.monotonic() - self._renewed.get(run.assignment.id, 0.0)
            if task.done() or age < run.assignment.lease_seconds * RENEW_SHARE:
                continue
            if await self._services.duties.renew(run.assignment):
                self._renewed[run.assignment.id] = time.monotonic()
            else:
                task.cancel()


async def _for_ever(work: Callable[[], Awaitable[None]]) -> None:
    """Repeat `work`; a failure is logged and tried again, or the process would sit there idle and look well."""
    while True:
        try:
            await work()
        except Exception:
            logger.exception("the agent's loop failed")
            await asyncio.sleep(FAILURE_PAUSE_SECONDS)
