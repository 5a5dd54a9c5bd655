"""When a failed request may be sent again, and how long to wait before."""

from __future__ import annotations

import random
from dataclasses import dataclass

from shoal.kube.errors import ApiError, TooManyRequestsError, UnavailableError


class NotSentError(UnavailableError):
    """The connection could not be made, so the server has certainly not done the request."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Full-jitter exponential back-off (each wait uniform in 0 … min(cap, base * 2^n)), in seconds.

    Full jitter, because many clients that fail together must not come back together.
    """

    attempts: int = 5
    base: float = 0.1
    cap: float = 5.0
    longest_retry_after: float = 30.0
    """A server that asks for more than this is not waited for: the work queue's back-off takes over."""

    def delay(self, error: ApiError, attempt: int, *, safe: bool) -> float | None:
        """Return the seconds to wait before attempt number `attempt` + 1 (attempts count from 1), or None to give up.

        `safe` says that doing the request twice is the same as once. A request that the server refused with 429, or
        that never left, is repeated even when it is not safe.
        """
        if attempt >= self.attempts:
            return None
        if isinstance(error, TooManyRequestsError | NotSentError):
            pass
        elif not (safe and isinstance(error, UnavailableError)):
            return None
        if error.retry_after is not None:
            if error.retry_after > self.longest_retry_after:
                return None
            return error.retry_after * (1.0 + 0.1 * random.random())
        return random.uniform(0.0, min(self.cap, self.base * 2.0 ** (attempt - 1)))
