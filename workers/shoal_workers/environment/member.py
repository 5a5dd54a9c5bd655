"""A member: its guard, its slots, and what happens between a lease's end and the slot's next one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from shoal.api.services.leases import (
    EnvironmentReport,
    EnvironmentStatus,
    GrantRequest,
    MemberReport,
    Outcome,
    SlotState,
    SlotTotals,
)
from shoal.api.services.roles.environment import EnvironmentConfig
from shoal_workers.environment.adapter import Backend, NoRoomError, Observation, StartingError
from shoal_workers.environment.guard import Guard, Held, Reset, ReusePolicy
from shoal_workers.environment.slot import SlotRuntime
from shoal_workers.environment.totals import totals
from shoal_workers.service import Identity, backoff
from shoal_workers.service.clock import steady_time

TICK_SECONDS = 0.25
DRAIN_POLL_SECONDS = 0.05

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Episode:
    """What happens inside one lease. Instants are of the monotonic clock."""

    started: float
    episode_id: str
    steps: int = 0
    done: bool = False
    last: Observation = field(default_factory=lambda: Observation(""))


@dataclass(slots=True)
class Counters:
    """Totals since the process started."""

    occupied_seconds: float = 0.0
    episodes: int = 0
    steps: int = 0
    invalid_actions: int = 0
    errors: int = 0
    last_error: str = ""


class Member:
    """The state of one member process.

    `changed` is set when something happened that the broker cannot know: a slot became free, a lease expired.
    `exhausted` is set when no slot will ever be leased again; `told_to_retire` says whether somebody wanted that.
    """

    def __init__(
        self, config: EnvironmentConfig, identity: Identity, backend: Backend, clock: Callable[[], float] = steady_time
    ) -> None:
        life = config.lifecycle
        policy = ReusePolicy(life.mode == "Ephemeral", life.max_episodes, life.max_age, life.quarantine)
        self.config = config
        self.identity = identity
        self.backend = backend
        self.url = ""
        self.registered = False
        self.guard = Guard(config.slots, policy)
        self.slots = [SlotRuntime(index, backend) for index in range(config.slots)]
        self.counters = Counters()
        self.changed = asyncio.Event()
        self.exhausted = asyncio.Event()
        self.told_to_retire = False
        self.clock = clock
        self._episodes: dict[str, Episode] = {}
        self.started_at = clock()
        self._started = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Member]:
        """Make slots ready and watch the clock while the block runs."""
        ticker = asyncio.create_task(self._keep_ticking())
        self._settle()
        try:
            yield self
        finally:
            for task in {ticker, *self._tasks}:
                task.cancel()
            await asyncio.gather(ticker, *self._tasks, return_exceptions=True)
            for slot in self.slots:
                slot.close()

    # Leases

    def grant(self, request: GrantRequest) -> Held:
        """Lease a free slot; raises GuardError."""
        try:
            return self.guard.grant(request, self.clock())
        finally:
            self._settle()

    def renew(self, lease_id: str, ttl: float | None) -> Held:
        """Renew a lease; raises GuardError."""
        try:
            return self.guard.renew(lease_id, ttl, self.clock())
        finally:
            self._settle()

    def release(self, lease_id: str, outcome: Outcome) -> tuple[int, SlotState]:
        """End a lease; its slot and the slot's state. Raises GuardError."""
        try:
            held = self.guard.find(lease_id)
            state = self.guard.release(lease_id, outcome, self.clock())
            assert held is not None, "a lease that can be released was there"
            self._end_episode(lease_id)
            return held.slot, state
        finally:
            self._settle()

    def retire(self, slots: int | None, drain: bool) -> tuple[int, int]:
        """Take slots out of service; the numbers retired and still leased. Raises GuardError."""
        try:
            counts = self.guard.retire(slots, drain, self.clock())
            self.told_to_retire = True
            return counts
        finally:
            self._settle()

    def holder(self, token: str) -> Held:
        """The live lease of a token; raises GuardError."""
        return self.guard.lookup(token, self.clock())

    # Episodes

    def begin_episode(self, lease: Held, episode_id: str, observation: Observation) -> Episode:
        """A reset succeeded; time counts as occupied until the lease ends."""
        known = self._episodes.get(lease.lease_id)
        started = known.started if known else time.monotonic()
        episode = Episode(started, episode_id, last=observation)
        self._episodes[lease.lease_id] = episode
        self.counters.episodes += 1
        return episode

    def episode(self, lease: Held) -> Episode | None:
        """The lease's running episode."""
        return self._episodes.get(lease.lease_id)

    def environment_failed(self, lease: Held, detail: str, *, lost: bool = False) -> None:
        """The environment broke under this lease, and its slot will not be trusted again; or it was lost with its
        process, and its slot is made ready anew.
        """
        mark = self.guard.mark_lost if lost else self.guard.mark_faulty
        mark(lease.lease_id)
        self.counters.errors += 1
        self.counters.last_error = detail
        self.changed.set()
        logger.warning("environment failed", extra={"lease": lease.lease_id, "slot": lease.slot, "detail": detail})

    # Reports

    def report(self) -> MemberReport:
        """The state, as told to the broker."""
        return MemberReport(
            name=self.identity.name,
            uid=self.identity.uid,
            url=self.url,
            variant=self.config.variant,
            revision=self.guard.revision,
            slots=self.guard.report(),
            retiring=self.guard.retiring,
            started_at=self.started_at,
            environment=self.environment_report(),
        )

    def environment_report(self) -> EnvironmentReport:
        """What the environments did."""
        now = time.monotonic()
        running = sum(now - episode.started for episode in self._episodes.values())
        counters = self.counters
        return EnvironmentReport(
            name=self.backend.name,
            adapter=self.config.environment.protocol,
            slot_seconds=(self.config.slots - len(self.guard.absent)) * (now - self._started),
            occupied_seconds=counters.occupied_seconds + running,
            active_seconds=sum(slot.active_seconds for slot in self.slots),
            episodes=counters.episodes,
            steps=counters.steps,
            invalid_actions=counters.invalid_actions,
            errors=counters.errors,
            expiries=self.guard.expiries,
            last_error=counters.last_error,
        )

    def slot_totals(self) -> SlotTotals:
        """Slots by state."""
        return totals(slot.state for slot in self.guard.report())

    def status(self) -> EnvironmentStatus:
        """The state, as told to the operator."""
        return EnvironmentStatus(
            name=self.identity.name,
            pool=self.config.pool,
            variant=self.config.variant,
            slots=self.slot_totals(),
            retiring=self.guard.retiring,
            registered=self.registered,
            environment=self.environment_report(),
        )

    # What follows from a transition

    async def drain(self, seconds: float) -> None:
        """Take no new leases, and wait at most `seconds` for the live ones."""
        self.retire(None, drain=True)
        self.changed.set()
        for _ in range(round(seconds / DRAIN_POLL_SECONDS)):
            if not list(self.guard.leases):
                return
            await asyncio.sleep(DRAIN_POLL_SECONDS)

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.guard.tick(self.clock())
            self._look_at_idle()
            self._settle()

    def _look_at_idle(self) -> None:
        """A free slot whose environment has gone away would cost its next holder an episode."""
        for index in self.guard.free:
            if not self.slots[index].alive and self.guard.distrust(index):
                logger.warning("an idle environment is gone", extra={"slot": index})
                self.changed.set()

    def _settle(self) -> None:
        for lease in self.guard.take_expired():
            logger.warning("lease expired", extra={"lease": lease.lease_id, "holder": lease.holder, "slot": lease.slot})
            self._end_episode(lease.lease_id)
            self.changed.set()
        for reset in self.guard.take_resets():
            task = asyncio.create_task(self._make_ready(reset))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self.guard.exhausted:
            self.exhausted.set()

    def _end_episode(self, lease_id: str) -> None:
        episode = self._episodes.pop(lease_id, None)
        if episode is not None:
            self.counters.occupied_seconds += time.monotonic() - episode.started

    async def _make_ready(self, reset: Reset) -> None:
        life = self.config.lifecycle
        slot = self.slots[reset.slot]
        attempt = 0
        while True:
            try:
                await slot.make_ready(rebuild=reset.rebuild, verify=life.verify, timeout=life.reset_timeout)
            except StartingError as error:
                self.guard.explain(reset, str(error))
                self.changed.set()
                await asyncio.sleep(backoff(attempt))
                attempt += 1
            except NoRoomError as error:
                logger.warning("no room for a slot", extra={"slot": reset.slot, "reason": str(error)})
                self.guard.no_room(reset, str(error))
                break
            except Exception as error:
                logger.warning("slot quarantined", extra={"slot": reset.slot, "reason": str(error)})
                self.counters.last_error = str(error)
                self.guard.reset_failed(reset, str(error))
                break
            else:
                self.guard.reset_done(reset, self.clock())
                break
        self.changed.set()
