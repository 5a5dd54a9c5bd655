"""Runs the parts of an operator together: reflectors, queues, workers, background tasks, leadership.

Everything runs in one task group, so a part that fails unexpectedly ends the process (which is then started
again with clean caches) instead of leaving an operator that looks alive and does half of its work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from shoal.engine.busy import Busy
from shoal.engine.clock import Clock, SystemClock
from shoal.engine.keys import ObjectKey
from shoal.engine.leader import LeaderElector, LeadershipLostError
from shoal.engine.metrics import Metrics
from shoal.engine.reflector import Reflector
from shoal.engine.workqueue import QueueClosedError, WorkQueue
from shoal.kube.client import KubeClient
from shoal.kube.errors import ApiError

R = TypeVar("R", bound=Reflector[Any])
log = logging.getLogger(__name__)

RECONCILE_SECONDS = 120.0
"""A reconcile that hangs would hold its worker and its key for ever."""
GRACE_SECONDS = 10.0
"""What a running reconcile gets at the end, before Kubernetes' 30 s for the whole pod are over."""
NOT_LEADING_SECONDS = 1.0
REST_FACTOR = 9.0
"""After a pass its key rests this many times as long as the pass kept the processor: of a pool of thousands every pod's
every change asks for a pass, and without a rest nothing would be left for reading those changes. A single change, after
a rest that is over, waits for nothing."""
SHORT_PASS_SECONDS = 0.002
LONGEST_REST_SECONDS = 2.0
"""Shorter passes need no rest; a longer rest would be felt by whoever waits for a pool to follow."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a reconcile leaves behind: None, or in how many seconds to look again (a deadline brings no event).

    `refused` is what the API server would not have; the reconcile has seen to a pause itself.
    """

    requeue_after: float | None = None
    refused: ApiError | None = None


class Reconciler(Protocol):
    """Brings one object to what its spec says; called with the key alone and never twice at once for one key."""

    async def reconcile(self, key: ObjectKey) -> Result:
        """Look at everything afresh and act. An exception has it called again with back-off."""
        ...


@dataclass(slots=True)
class Controller:
    """A reconciler with its queue."""

    name: str
    reconciler: Reconciler
    workers: int
    queue: WorkQueue[ObjectKey]
    needs: Sequence[Reflector[Any]] | None = None
    """The caches it reads, which must be complete before it begins; None for all."""
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared while the controller is held: its keys wait in the queue."""
    failing: dict[ObjectKey, str] = field(default_factory=dict)
    """The last error of each key whose last reconcile failed."""


class Manager:
    """Register parts first, then await `run`; `stop` from elsewhere (or cancellation) ends it."""

    def __init__(
        self,
        client: KubeClient,
        *,
        elector: LeaderElector | None = None,
        metrics: Metrics | None = None,
        clock: Clock | None = None,
        reconcile_seconds: float = RECONCILE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self.client = client
        self.metrics = metrics or Metrics()
        self.working = asyncio.Event()
        """Set while this process reconciles everything: it leads, and every cache is complete."""
        self._elector = elector
        self._clock = clock or SystemClock()
        self._reconcile_seconds = reconcile_seconds
        self._grace_seconds = grace_seconds
        self._reflectors: list[Reflector[Any]] = []
        self._controllers: list[Controller] = []
        self._background: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._stop = asyncio.Event()
        self._troubles: list[Callable[[], list[str]]] = []
        self._explained: list[Callable[[Exception], bool]] = []
        client.observe(self.metrics.observe_request)
        if elector is not None:
            client.fence(elector.fence)
        self.metrics.leading.read(lambda: float(self.leading))

    # --- registering

    def add_reflector(self, reflector: R) -> R:
        """Run this reflector; no reconcile begins before its cache is complete."""
        self._reflectors.append(reflector)
        name = str(reflector.resource)
        self.metrics.cached_objects.read(lambda: len(reflector.store), name)
        self.metrics.relists.read(lambda: reflector.stats.lists, name)
        return reflector

    def add_controller(
        self,
        name: str,
        reconciler: Reconciler,
        *,
        workers: int = 4,
        needs: Sequence[Reflector[Any]] | None = None,
    ) -> Controller:
        """Run `workers` workers of this reconciler once the caches that it `needs` (None: all) are complete.

        Feed the queue of what is returned.
        """
        controller = Controller(name, reconciler, workers, WorkQueue(clock=self._clock), needs)
        controller.open.set()
        self._controllers.append(controller)
        self.metrics.queue_depth.read(lambda: len(controller.queue), name)
        self.metrics.queue_delayed.read(lambda: controller.queue.delayed, name)
        return controller

    def add_background(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run something else for as long as the manager (an event recorder, a scraper), leader or not."""
        self._background.append((name, run))

    def add_troubles(self, source: Callable[[], list[str]]) -> None:
        """Have `source` asked what stands in the way of this process; while it names anything, it is not ready."""
        self._troubles.append(source)

    def explain(self, knows: Callable[[Exception], bool]) -> None:
        """Have `knows` asked of each error of a reconcile; one that it has told of is not logged again."""
        self._explained.append(knows)

    def hold(self, names: Collection[str]) -> None:
        """Let the controllers of these names rest, and no others: their keys wait until a later call leaves them out.

        A pass that runs goes on to its end.
        """
        for controller in self._controllers:
            if controller.name in names:
                controller.open.clear()
            else:
                controller.open.set()

    # --- state

    @property
    def reflectors(self) -> Sequence[Reflector[Any]]:
        """Every reflector registered."""
        return tuple(self._reflectors)

    @property
    def controllers(self) -> Sequence[Controller]:
        """Every controller registered."""
        return tuple(self._controllers)

    @property
    def troubles(self) -> list[str]:
        """What stands in the way of this process, in words."""
        return [trouble for source in self._troubles for trouble in source()]

    @property
    def leading(self) -> bool:
        """Whether this process may act: always, without an elector."""
        return self._elector is None or self._elector.leading

    @property
    def synced(self) -> bool:
        """Whether every cache is complete."""
        return all(reflector.synced.is_set() for reflector in self._reflectors)

    @property
    def failing(self) -> dict[str, str]:
        """Controller and key of every object whose last reconcile failed, with the error."""
        return {
            f"{controller.name} {key}": error
            for controller in self._controllers
            for key, error in controller.failing.items()
        }

    # --- running

    async def run(self) -> None:
        """Run until `stop`; then let running reconciles end and give the lease up.

        Raises the error of a part that failed; `LeadershipLostError` when another process may lead by now.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(reflector.run(), name=str(reflector.resource)) for reflector in self._reflectors
                ]
                tasks += [group.create_task(_run(run), name=name) for name, run in self._background]
                work = group.create_task(self._lead(), name="work")
                await self._stop.wait()
                await self._finish(work)
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as errors:
            # One part failed and took the others along: its own error says more than the group.
            raise _first(errors) from errors
        finally:
            self.working.clear()
            self._close_queues()

    def stop(self) -> None:
        """End `run` gracefully."""
        self._stop.set()

    # --- inside

    async def _finish(self, work: asyncio.Task[None]) -> None:
        self._close_queues()
        try:
            async with asyncio.timeout(self._grace_seconds):
                await asyncio.gather(*(controller.queue.join() for controller in self._controllers))
        except TimeoutError:
            log.warning("some reconciles did not end within %g s and are cancelled", self._grace_seconds)
        work.cancel()
        await asyncio.wait({work})

    def _close_queues(self) -> None:
        for controller in self._controllers:
            controller.queue.close()

    async def _lead(self) -> None:
        if self._elector is None:
            await self._work()
        else:
            await self._elector.run(self._work)

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                caught_up = {
                    id(reflector): group.create_task(self._catch_up(reflector), name=f"first {reflector.resource}")
                    for reflector in self._reflectors
                }
                waiting = {controller.name for controller in self._controllers}
                for controller in self._controllers:
                    group.create_task(self._start(controller, caught_up, group, waiting))
            # The workers have gone home because the queues were closed; the lease is held until `stop` is through.
            await asyncio.Event().wait()
        finally:
            self.working.clear()
            self._close_queues()

    async def _catch_up(self, reflector: Reflector[Any]) -> None:
        if self._elector is not None and reflector.synced.is_set():
            await reflector.refresh()
        await reflector.synced.wait()

    async def _start(
        self,
        controller: Controller,
        caught_up: dict[int, asyncio.Task[None]],
        group: asyncio.TaskGroup,
        waiting: set[str],
    ) -> None:
        """Begin as soon as the caches that this controller reads are complete: others may never be."""
        needs = self._reflectors if controller.needs is None else controller.needs
        if needs:
            await asyncio.wait([caught_up[id(reflector)] for reflector in needs])
        log.info("reconciling %s", controller.name)
        waiting.discard(controller.name)
        if not waiting:
            self.working.set()
        for number in range(controller.workers):
            group.create_task(self._worker(controller), name=f"{controller.name} {number}")

    async def _worker(self, controller: Controller) -> None:
        while True:
            await controller.open.wait()
            try:
                key = await controller.queue.get()
            except QueueClosedError:
                return
            rest = 0.0
            try:
                if self.leading and controller.open.is_set():
                    rest = await self._reconcile(controller, key)
                else:
                    # The renewal is overdue, and the elector is about to say so; or the controller was held a moment
                    # ago: do nothing, forget nothing.
                    controller.queue.add_after(key, NOT_LEADING_SECONDS)
            finally:
                controller.queue.done(key, rest)

    async def _reconcile(self, controller: Controller, key: ObjectKey) -> float:
        """Do one pass; returns for how many seconds its key should rest."""
        started = self._clock.now()
        result = "error"
        busy = Busy(controller.reconciler.reconcile(key))
        try:
            async with asyncio.timeout(self._reconcile_seconds):
                outcome = await busy
            controller.queue.forget(key)
            if outcome.refused is not None:
                self._log_failure(controller, key, outcome.refused, outcome.requeue_after or 0.0)
            else:
                result = "success"
                if controller.failing.pop(key, None) is not None:
                    log.info("%s %s: succeeded again", controller.name, key)
            if outcome.requeue_after is not None:
                controller.queue.add_after(key, outcome.requeue_after)
        except Exception as error:
            self._failed(controller, key, error)
        finally:
            self.metrics.reconciles.add(controller.name, result)
            self.metrics.reconcile_seconds.observe(self._clock.now() - started, controller.name)
        return min(LONGEST_REST_SECONDS, REST_FACTOR * busy.seconds) if busy.seconds > SHORT_PASS_SECONDS else 0.0

    def _failed(self, controller: Controller, key: ObjectKey, error: Exception) -> None:
        self._log_failure(controller, key, error, controller.queue.add_rate_limited(key))

    def _log_failure(self, controller: Controller, key: ObjectKey, error: Exception, seconds: float) -> None:
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, TimeoutError):
            text = f"no end after {self._reconcile_seconds:g} s"
        known = controller.failing.get(key)
        controller.failing[key] = text
        # Once per key and error: a failure that repeats every minute would bury everything else.
        explained = any(knows(error) for knows in self._explained)
        level = logging.DEBUG if explained or known == text else logging.WARNING
        # What the API server refuses needs no stack to be understood; anything else is a bug.
        trace = None if isinstance(error, ApiError | TimeoutError | LeadershipLostError) else error
        log.log(level, "%s %s: %s (again in %.3g s)", controller.name, key, text, seconds, exc_info=trace)


async def _run(run: Callable[[], Awaitable[None]]) -> None:
    await run()


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
