"""One slot: an environment instance on its own thread, watched by a clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any, TypeVar

from shoal_workers.environment.adapter import (
    Backend,
    EnvironmentAdapter,
    GraderError,
    InvalidActionError,
    LostError,
    NoRoomError,
    Observation,
    StartingError,
    Step,
)
from shoal_workers.environment.threads import SlotThread
from shoal_workers.service.config import ConfigurationError

ResultT = TypeVar("ResultT")

_PASSED_ON = (InvalidActionError, GraderError, StartingError, NoRoomError, ConfigurationError)


class EnvironmentFailedError(Exception):
    """The instance broke: `reason` is `exception`, `hung`, `lost` (its process or connection is gone) or `broken` (it
    broke before).
    """

    def __init__(self, detail: str, reason: str) -> None:
        super().__init__(detail)
        self.reason = reason


class SlotRuntime:
    """Runs an instance's calls. After a failure every call fails until `make_ready` has built a new instance."""

    def __init__(self, index: int, backend: Backend) -> None:
        self.index = index
        self.active_seconds = 0.0
        self.schemas: Mapping[str, Any] | None = None
        self._backend = backend
        self._adapter: EnvironmentAdapter | None = None
        self._thread = SlotThread(f"slot-{index}")

    async def reset(self, seed: int | None, task: Mapping[str, Any], timeout: float) -> Observation:
        """Start an episode."""
        adapter = self._instance()
        return await self._run("reset", lambda: adapter.reset(seed, task), timeout)

    async def step(self, action: Mapping[str, Any], timeout: float, evaluate_timeout: float) -> Step:
        """Do one action, and compute its reward where the environment does that apart; raises GraderError for that."""
        adapter = self._instance()
        step = await self._run("step", lambda: adapter.step(action), timeout)
        if step.evaluate is None:
            return step
        try:
            reward = await self._run("evaluate", step.evaluate, evaluate_timeout)
        except EnvironmentFailedError as error:
            raise GraderError(str(error)) from error
        return replace(step, reward=reward, evaluate=None)

    async def state(self, timeout: float) -> Mapping[str, Any]:
        """The instance's own state fields."""
        adapter = self._instance()
        return await self._run("state", adapter.state, timeout)

    async def mcp(self, request: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:
        """The answer to a request of MCP."""
        adapter = self._instance()
        return await self._run("mcp", lambda: adapter.mcp(request), timeout)

    @property
    def alive(self) -> bool:
        """Whether an idle instance can still be used, as far as is known at once."""
        return self._adapter is None or self._adapter.alive()

    async def make_ready(self, *, rebuild: bool, verify: bool, timeout: float) -> None:
        """Make the slot fit for a new holder: recycle the instance, or replace it; raises what went wrong."""
        if rebuild or self._adapter is None:
            self._discard()
            self._adapter = await self._run("start", self._backend.create, timeout)
        else:
            await self._run("recycle", self._adapter.recycle, timeout)
        if verify:
            await self._run("verify", self._instance().verify, timeout)
        if self.schemas is None:
            self.schemas = await self._run("schemas", self._instance().schemas, timeout)

    def close(self) -> None:
        """Close the instance and end the thread, without waiting."""
        self._discard()
        self._thread.end()

    def _instance(self) -> EnvironmentAdapter:
        if self._adapter is None:
            raise EnvironmentFailedError("the environment is broken since an earlier failure", "broken")
        return self._adapter

    def _discard(self) -> None:
        adapter, self._adapter = self._adapter, None
        if adapter is not None:
            closing = self._thread.submit(_quiet(adapter.close))
            closing.add_done_callback(lambda done: done.exception())

    async def _run(self, what: str, call: Callable[[], ResultT], timeout: float) -> ResultT:
        start = perf_counter()
        future = self._thread.submit(call)
        try:
            async with asyncio.timeout(timeout):
                result, seconds = await asyncio.shield(future)
        except TimeoutError:
            if future.done():
                raise self._failed(what, future.exception() or TimeoutError()) from None
            self.active_seconds += perf_counter() - start
            self._abandon(future)
            raise EnvironmentFailedError(f"{what} did not end within {timeout:g} s", "hung") from None
        except _PASSED_ON:
            self.active_seconds += perf_counter() - start
            raise
        except Exception as error:
            self.active_seconds += perf_counter() - start
            raise self._failed(what, error) from error
        self.active_seconds += seconds
        return result

    def _failed(self, what: str, error: BaseException) -> EnvironmentFailedError:
        self._discard()
        if isinstance(error, LostError):
            return EnvironmentFailedError(f"{what}: {error}", "lost")
        return EnvironmentFailedError(f"{what}: {type(error).__name__}: {error}", "exception")

    def _abandon(self, future: asyncio.Future[Any]) -> None:
        # A thread cannot be stopped: leave it and its instance behind, and go on with a new one.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._adapter is not None:
            with contextlib.suppress(Exception):
                self._adapter.abort()
        self._discard()
        self._thread.end()
        self._thread = SlotThread(f"slot-{self.index}")


def _quiet(call: Callable[[], None]) -> Callable[[], None]:
    def quietly() -> None:
        with contextlib.suppress(Exception):
            call()

    return quietly
