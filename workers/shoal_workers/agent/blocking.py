"""The environment for plain programs, which cannot await: the same methods, and they wait for their answers."""

import asyncio
import concurrent.futures
from collections.abc import Coroutine
from typing import Any

from shoal.api.services.leases import StepResult
from shoal_workers.agent.traced import TracedEnvironment


class BlockingEnvironment:
    """A view of the environment for a thread; the work is done on the loop on which this is made.

    A thread cannot be stopped. So `close` makes its calls, the one that waits included, raise asyncio.CancelledError,
    as an async program would see it: no `except Exception` keeps a program alive whose episode is over.
    """

    def __init__(self, environment: TracedEnvironment) -> None:
        self._environment = environment
        self._loop = asyncio.get_running_loop()
        self._calls: set[asyncio.Task[StepResult]] = set()
        self._closed = False

    def reset(self) -> StepResult:
        """Start the episode on its task; raises EpisodeFaultError."""
        return self._wait(self._environment.reset())

    def step(self, action: str | dict[str, Any]) -> StepResult:
        """Do one action; raises EpisodeFaultError."""
        return self._wait(self._environment.step(action))

    def close(self) -> None:
        """End every call, from the loop's thread."""
        self._closed = True
        for call in self._calls:
            call.cancel()

    def _wait(self, call: Coroutine[Any, Any, StepResult]) -> StepResult:
        try:
            return asyncio.run_coroutine_threadsafe(self._unless_closed(call), self._loop).result()
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError("the episode is over") from None

    async def _unless_closed(self, call: Coroutine[Any, Any, StepResult]) -> StepResult:
        # On the loop's thread, as `close` is: no call can slip between its look and its start.
        if self._closed:
            call.close()
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            return await call
        finally:
            self._calls.discard(task)
