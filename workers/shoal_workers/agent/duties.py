"""The agent's side of the data manager: assignments claimed, renewed and answered, with a manager that may be away for
a while.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shoal.api.services.trajectories import (
    Accepted,
    Assignment,
    AssignmentRenewed,
    Claimed,
    ClaimRequest,
    EpisodeOutcome,
    FaultReport,
    HandBack,
    Prefix,
    TrajectoryRecord,
)
from shoal_workers.service import ProblemError, ServiceClient, backoff

T = TypeVar("T")
logger = logging.getLogger(__name__)

DETAIL_LIMIT = 4096
PATIENCE_CAP_SECONDS = 3.0
"""A data manager that restarts is back within seconds; every call here may be repeated, so it is waited for."""


class Duties:
    """One agent's calls. They wait as long as the data manager is away, so no episode is lost by its restart."""

    def __init__(self, client: ServiceClient, agent: str) -> None:
        self._client = client
        self._agent = agent

    async def claim(self, count: int, wait: float) -> Claimed:
        """Up to `count` assignments, waiting up to `wait` seconds."""
        request = ClaimRequest(agent=self._agent, count=count, wait=wait)
        return await _patiently(
            lambda: self._client.post("/assignments:claim", request, Claimed, timeout=wait + 20, idempotent=True)
        )

    async def renew(self, assignment: Assignment) -> bool:
        """Hold the assignment longer; False when it is no longer ours."""
        path, attempt = f"/assignments/{assignment.id}:renew", {"attempt": str(assignment.attempt)}
        try:
            await _patiently(lambda: self._client.post(path, None, AssignmentRenewed, params=attempt, idempotent=True))
        except ProblemError as error:
            logger.warning("assignment not renewed", extra={"assignment": assignment.id, "cause": str(error)})
            # Any other refusal says nothing of the assignment; the next renewal may be taken.
            return error.status not in (404, 409, 410)
        return True

    async def record(self, record: TrajectoryRecord) -> Accepted:
        """Hand the trajectory in; counts once however often it is repeated."""
        return await _patiently(lambda: self._client.post("/trajectories", record, Accepted, idempotent=True))

    async def fail(self, assignment: Assignment, outcome: EpisodeOutcome, detail: str) -> None:
        """Tell of a fault."""
        report = FaultReport(outcome=outcome, detail=detail[:DETAIL_LIMIT], attempt=assignment.attempt)
        path = f"/assignments/{assignment.id}:fail"
        await _patiently(lambda: self._client.post(path, report, Accepted, idempotent=True))

    async def hand_back(self, assignment: Assignment, prefix: Prefix) -> None:
        """Give the episode back; tried once, because a process that ends has no time, and the lease runs out anyway."""
        path = f"/assignments/{assignment.id}:return"
        message = HandBack(prefix=prefix, attempt=assignment.attempt)
        try:
            await self._client.post(path, message, Accepted, idempotent=True)
        except ProblemError as error:
            logger.warning("not handed back", extra={"assignment": assignment.id, "cause": str(error)})


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    attempt = 0
    while True:
        try:
            return await call()
        except ProblemError as error:
            if error.status < 500:
                raise
        await asyncio.sleep(backoff(attempt, cap=PATIENCE_CAP_SECONDS))
        attempt += 1
