"""The model as an episode sees it: tokens in, tokens out, through the gateway."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from shoal.api.services.common import VersionSpan
from shoal_workers.agent.patience import patiently
from shoal_workers.service import ServiceClient

CALL_SECONDS = 600.0
"""A call queues while every engine loads weights or starts."""


@dataclass(frozen=True)
class Answer:
    """Tokens that the policy sampled, their log-probs under the distribution that each was drawn from (temperature,
    nucleus), and the versions that sampled them.
    """

    token_ids: list[int]
    logprobs: list[float]
    versions: list[VersionSpan]
    finish_reason: str


@dataclass
class Model:
    """One episode's model calls. They take the weights of `run` alone ("" takes any), of `min_version` or newer.

    `seconds` counts the time spent waiting for answers.
    """

    client: ServiceClient
    session: str
    temperature: float
    top_p: float
    stop_token_ids: tuple[int, ...]
    min_version: int | None = None
    run: str = ""
    seconds: float = 0.0
    calls: int = field(default=0)
    clock: Callable[[], float] = time.monotonic

    async def generate(self, prompt: list[int], max_tokens: int) -> Answer:
        """Sample up to `max_tokens` tokens after `prompt`. Raises ProblemError when no engine can answer for long."""
        body: dict[str, Any] = {
            "request_id": uuid4().hex,
            "session": self.session,
            "prompt_token_ids": prompt,
            "sampling": {
                "max_tokens": max_tokens,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "stop_token_ids": self.stop_token_ids,
            },
        }
        if self.min_version is not None:
            body["min_version"] = self.min_version
        if self.run:
            body["run"] = self.run
        began = self.clock()
        try:
            # Sampling anew is safe: nothing of an answer that was lost on the way is used.
            answer = await patiently(lambda: self._sampled(body), self.clock)
        finally:
            self.seconds += self.clock() - began
        self.calls += 1
        return Answer(
            token_ids=answer["token_ids"],
            logprobs=answer["logprobs"],
            versions=[VersionSpan(**span) for span in answer["versions"]],
            finish_reason=answer["finish_reason"],
        )

    async def _sampled(self, body: dict[str, Any]) -> Any:
        reply = await self.client.call("POST", "/generate", body, timeout=CALL_SECONDS, idempotent=True)
        return reply.json()
