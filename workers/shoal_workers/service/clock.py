"""A clock for deadlines: it reads like the wall clock and never jumps."""

import time
from collections.abc import Callable


class SteadyClock:
    """Seconds since the epoch as the wall clock had it when this was made, counted on by the monotonic clock.

    A wall clock that is set back or forward by an hour (NTP, a virtual machine that is resumed) would expire every
    lease at once, or none for an hour.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset = wall() - monotonic()

    def __call__(self) -> float:
        """Now."""
        return self._offset + self._monotonic()


steady_time = SteadyClock()
"""The process's clock."""
