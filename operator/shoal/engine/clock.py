"""Time as an argument: the machinery takes a clock, so that tests decide when anything happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Make sure that the call does not happen."""
        ...


class Clock(Protocol):
    """Seconds that only grow, wall time for what others read, and wake-ups."""

    def now(self) -> float:
        """Seconds since some fixed point; never goes back."""
        ...

    def wall(self) -> datetime:
        """Time of day, with a time zone."""
        ...

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call `call` once after `seconds`."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        ...


class SystemClock:
    """The clock of the running event loop."""

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def wall(self) -> datetime:
        """Time of day in UTC."""
        return datetime.now(UTC)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Schedule on the running loop."""
        return asyncio.get_running_loop().call_later(seconds, call)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running loop."""
        await asyncio.sleep(seconds)
