"""The thread that steps a core: takes work between steps, hands results to the event loop in batches."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

from shoal_workers.engines.core import Call, Core, CoreError, Finished, Load, PromptError
from shoal_workers.engines.exchange import RefusedError, Weights, exchange
from shoal_workers.engines.probe import Probe, ProbeError

T = TypeVar("T")

# A step takes milliseconds to seconds; one that takes this long will not return, so the process must be replaced.
HUNG_SECONDS = 120.0

# The core works on after these; whoever asked for the work decides what they mean.
_DOCUMENTED = (CoreError, PromptError, ProbeError, RefusedError)

Results = list[tuple[str, Finished | Exception]]


@dataclass(frozen=True, slots=True)
class _Work:
    """Something to do between two steps; an exception the core does not document ends the thread."""

    work: Callable[[], Any]
    outcome: Future[Any]

    def run(self) -> None:
        try:
            self.outcome.set_result(self.work())
        except BaseException as error:
            self.outcome.set_exception(error)
            if not isinstance(error, _DOCUMENTED):
                raise


class Driver:
    """Owns the only thread that touches the core.

    `deliver` and `lost` are called on the event loop that called `start`: results of a step together, and the exception
    that ended the core. One step's results cost one wake-up of the loop, however many they are.
    """

    def __init__(self, core: Core, deliver: Callable[[Results], None], lost: Callable[[BaseException], None]) -> None:
        self._core = core
        self._deliver = deliver
        self._lost = lost
        self._inbox: queue.SimpleQueue[Call | _Work | None] = queue.SimpleQueue()
        self._ready: Future[None] = Future()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._main, name="engine-core")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._busy = 0.0
        self._step_began: float | None = None
        self.version = 0
        self.load = Load()

    def start(self) -> Future[None]:
        """Open the core in its thread; the future fails with CoreError."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self._ready

    def stop(self) -> None:
        """End the thread after the work it has; blocks."""
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def add(self, call: Call) -> None:
        """Have the core work on a call; its end is delivered."""
        self._inbox.put(call)

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Run something in the core's thread, between two steps."""
        outcome: Future[T] = Future()
        self._inbox.put(_Work(work, outcome))
        if self._ended.is_set():
            self._refuse_rest()
        return outcome

    def hand_over(self, finished: list[Finished]) -> None:
        """Deliver ends that did not come from a step (in the core's thread)."""
        self._post([(item.key, item) for item in finished])

    def exchange(
        self,
        probe: Probe,
        calls: Mapping[str, Call],
        keep: Callable[[Finished], None],
        new: Weights,
        old: Weights | None,
    ) -> float:
        """`exchange` of weights (in the core's thread), counted as busy."""
        begin = perf_counter()
        try:
            return exchange(self._core, probe, calls, keep, new, old)
        finally:
            self.version = self._core.version
            self._busy += perf_counter() - begin

    @property
    def busy_seconds(self) -> float:
        """Seconds with at least one call executing, up to now."""
        began = self._step_began
        return self._busy + (perf_counter() - began if began is not None else 0.0)

    @property
    def hung(self) -> bool:
        """Whether one step has been taking impossibly long."""
        began = self._step_began
        return began is not None and perf_counter() - began > HUNG_SECONDS

    def _main(self) -> None:
        try:
            self._core.open()
            self.version = self._core.version
        except BaseException as error:
            self._end()
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        try:
            self._serve()
        except BaseException as error:
            self._call_loop(self._lost, error)
        finally:
            self._end()
            self._core.close()

    def _end(self) -> None:
        self._ended.set()
        self._refuse_rest()

    def _refuse_rest(self) -> None:
        """Fail the work that no thread will do any more."""
        while True:
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(item, _Work):
                item.outcome.set_exception(CoreError("the core's thread has ended"))

    def _serve(self) -> None:
        while self._take_work():
            if self._core.unfinished:
                self._step_began = begin = perf_counter()
                finished = self._core.step()
                self._step_began = None
                self._busy += perf_counter() - begin
                if finished:
                    self.hand_over(finished)
            self.load = self._core.load()

    def _take_work(self) -> bool:
        """Take what is in the inbox; waits while there is nothing to step. False: stop."""
        refused: Results = []
        try:
            while True:
                item = self._inbox.get(block=not self._core.unfinished and not refused)
                if item is None:
                    return False
                if isinstance(item, Call):
                    try:
                        self._core.add(item)
                    except PromptError as error:
                        refused.append((item.key, error))
                else:
                    item.run()
                    self.load = self._core.load()
        except queue.Empty:
            return True
        finally:
            if refused:
                self._post(refused)

    def _post(self, results: Results) -> None:
        if results:
            self._call_loop(self._deliver, results)

    def _call_loop(self, function: Callable[[Any], None], argument: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, argument)


__all__ = ["Driver", "Results"]
