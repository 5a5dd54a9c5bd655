"""Driving a leased environment: the agent's side of OpenEnv's wire protocol."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp

from shoal.api.services.leases import StepResult
from shoal_workers.service import ServiceClient

# An environment may work for long; the member's own watchdog is what ends a hung one.
DEFAULT_TIMEOUT_SECONDS = 300.0


class EnvironmentClient:
    """One environment, addressed by a lease's `environment_url` or the base URL of any server with session state.

    Over keep-alive HTTP, so that episodes which share a `session` share connections and pay for no handshake.
    Raises ProblemError: `environment-error` and `grader-error` (the episode is worth nothing and its slot is broken),
    `lease-expired`, `unreachable`, `timeout`. A malformed action raises nothing, see `StepResult.invalid_action`.
    """

    def __init__(
        self, base_url: str, *, session: aiohttp.ClientSession | None = None, timeout: float = DEFAULT_TIMEOUT_SECONDS
    ) -> None:
        self._client = ServiceClient(base_url, timeout=timeout, retries=2, session=session)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def reset(
        self, seed: int | None = None, task: Mapping[str, Any] | None = None, episode_id: str | None = None
    ) -> StepResult:
        """Start an episode; its first observation."""
        body = {"seed": seed, "task": dict(task or {}), "episode_id": episode_id}
        return await self._client.post("/reset", body, StepResult)

    async def step(self, action: str | Mapping[str, Any]) -> StepResult:
        """Do one action: the text that a model wrote, or the environment's own form."""
        form = {"text": action} if isinstance(action, str) else dict(action)
        return await self._client.post("/step", {"action": form}, StepResult)

    async def state(self) -> dict[str, Any]:
        """Episode id, step count and the environment's own fields."""
        answer: dict[str, Any] = (await self._client.call("GET", "/state")).json()
        return answer

    async def close(self) -> None:
        """Let go of the connection, unless it is shared; the lease is released by the broker's client."""
        await self._client.close()
