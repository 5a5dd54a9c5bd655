"""A generation that several engines may have worked on, joined to one result."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson

from shoal.api.services.common import VersionSpan
from shoal.api.services.models import FinishReason, GenerateRequest, GenerateResult
from shoal_workers.tokens.spans import joined


@dataclass(slots=True)
class Pieces:
    """What has been generated for a request so far; each further piece continues the prompt with all before it."""

    request: GenerateRequest
    parts: list[GenerateResult] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Tokens generated so far."""
        return sum(len(part.token_ids) for part in self.parts)

    def remaining(self) -> GenerateRequest | None:
        """The request for the rest; None where nothing is left to generate."""
        if not self.done:
            return self.request
        left = self.request.sampling.max_tokens - self.done
        if left <= 0:
            return None
        prompt = self.request.prompt_token_ids + [token for part in self.parts for token in part.token_ids]
        # A seed would draw for the rest what it drew for the beginning, so each piece has its own.
        seed = self.request.sampling.seed
        sampling = self.request.sampling.model_copy(
            update={"max_tokens": left, "seed": None if seed is None else seed + self.done}
        )
        return self.request.model_copy(update={"prompt_token_ids": prompt, "sampling": sampling})

    def add(self, part: GenerateResult) -> None:
        """Take what an engine generated."""
        self.parts.append(part)

    def result(self) -> GenerateResult:
        """The whole, with every token's weight version as its engine reported it."""
        spans: list[VersionSpan] = joined((len(part.token_ids), part.versions) for part in self.parts)
        last = self.parts[-1]
        reason = last.finish_reason
        if reason is FinishReason.ABORT and self.done >= self.request.sampling.max_tokens:
            reason = FinishReason.LENGTH
        return GenerateResult(
            token_ids=[token for part in self.parts for token in part.token_ids],
            logprobs=[value for part in self.parts for value in part.logprobs],
            versions=spans,
            finish_reason=reason,
            engine=last.engine,
        )


def encode_request(request: GenerateRequest) -> bytes:
    """The request as JSON."""
    sampling = request.sampling
    return orjson.dumps(
        {
            "request_id": request.request_id,
            "session": request.session,
            "prompt_token_ids": request.prompt_token_ids,
            "sampling": {
                "max_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "stop_token_ids": sampling.stop_token_ids,
                "seed": sampling.seed,
            },
            "min_version": request.min_version,
            "run": request.run,
        }
    )
