"""One daemon thread per slot for an environment's blocking calls.

Not a ThreadPoolExecutor: the interpreter joins those at exit, so that one hung environment would keep the process from
ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")

_Job = tuple[Callable[[], Any], "asyncio.AbstractEventLoop", "asyncio.Future[tuple[Any, float]]"]


class SlotThread:
    """Runs calls one after the other, and tells for how many seconds each one really ran."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, call: Callable[[], ResultT]) -> asyncio.Future[tuple[ResultT, float]]:
        """Run the call; the future holds its result and its seconds, or its exception."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Any, float]] = loop.create_future()
        self._jobs.put((call, loop, future))
        return future

    def end(self) -> None:
        """End the thread after the calls that were submitted before."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, loop, future = job
            start = perf_counter()
            result: Any = None
            failure: BaseException | None = None
            try:
                result = call()
            except Exception as error:
                failure = error
            except BaseException as error:
                # `sys.exit` in an environment ends that environment: raised in the loop, it would end the process.
                failure = RuntimeError(f"{type(error).__name__}: {error}")
            seconds = perf_counter() - start
            # The loop may be gone when a hung call ends after the process began to stop.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, future, result, seconds, failure)


def _resolve(
    future: asyncio.Future[tuple[Any, float]], result: Any, seconds: float, failure: BaseException | None
) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result((result, seconds))
    elif isinstance(failure, StopIteration):  # which a future cannot hold
        future.set_exception(RuntimeError(f"StopIteration: {failure}"))
    else:
        future.set_exception(failure)
