"""Waiting for a gateway that is away or busy."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shoal_workers.service import ProblemError, backoff

T = TypeVar("T")

PATIENCE_SECONDS = 120.0
"""How long an episode waits for a gateway that is away; a restart takes seconds, so this only ends a real outage."""
_PASSING = (429, 503, 504)
"""Statuses of problems that pass: a full queue, no engine that serves, a gateway that starts."""
FLEET_IN_USE = "fleet-in-use"
"""The problem that another job's run has the fleet: this may last as long as a job, so no episode waits for its end."""


async def patiently(call: Callable[[], Awaitable[T]], clock: Callable[[], float] = time.monotonic) -> T:
    """The call's answer, repeated while its problem is one that passes; raises the last ProblemError."""
    deadline, attempt = clock() + PATIENCE_SECONDS, 0
    while True:
        try:
            return await call()
        except ProblemError as error:
            if error.status not in _PASSING or error.name == FLEET_IN_USE or clock() > deadline:
                raise
        await asyncio.sleep(backoff(attempt))
        attempt += 1
