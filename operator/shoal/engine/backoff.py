"""Exponential back-off."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Delays that double from `base` to `cap` seconds, each shortened by up to `jitter` of itself; `reset` starts over.

    The jitter keeps watchers that a restarting API server dropped together from coming back together.
    """

    base: float
    cap: float
    jitter: float = 0.5
    failures: int = 0

    def next(self) -> float:
        """Return the seconds to wait now and count one more failure."""
        # The exponent is bounded because 2.0 ** 1024 overflows, which a server that stays away for days would reach.
        delay = min(self.cap, self.base * 2.0 ** min(self.failures, 60))
        self.failures += 1
        return delay * (1.0 - self.jitter * random.random())

    def reset(self) -> None:
        """Begin at `base` again."""
        self.failures = 0
