"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeTimer:
    """A call scheduled on a `FakeClock`."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class FakeClock:
    """Time in a test. `advance` runs what falls due, in order."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._heap: list[tuple[float, int, FakeTimer]] = []
        self._sequence = 0

    def now(self) -> float:
        return self._now

    def wall(self) -> datetime:
        return START + timedelta(seconds=self._now)

    def call_later(self, seconds: float, call: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(call)
        self._sequence += 1
        heapq.heappush(self._heap, (self._now + seconds, self._sequence, timer))
        return timer

    async def sleep(self, seconds: float) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, lambda: None if done.done() else done.set_result(None))
        try:
            await done
        finally:
            timer.cancel()

    def jump(self, seconds: float) -> None:
        """Move the time without giving tasks a turn in between."""
        until = self._now + seconds
        while self._heap and self._heap[0][0] <= until:
            self._now, _, timer = heapq.heappop(self._heap)
            if timer.call is not None:
                timer.call()
        self._now = until

    async def advance(self, seconds: float, step: float = 0.5) -> None:
        """Move the time in steps and let tasks act after each."""
        left = seconds
        while left > 0:
            self.jump(min(step, left))
            left -= step
            for _ in range(20):
                await asyncio.sleep(0)
