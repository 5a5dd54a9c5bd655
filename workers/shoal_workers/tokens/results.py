"""Generated tokens as engines and gateway answer with them."""

from __future__ import annotations

import orjson

from shoal.api.services.models import GenerateResult


def encode_result(result: GenerateResult) -> bytes:
    """The result as JSON, without a model's serialiser on the way."""
    return orjson.dumps(
        {
            "token_ids": result.token_ids,
            "logprobs": result.logprobs,
            "versions": [{"version": span.version, "start": span.start, "end": span.end} for span in result.versions],
            "finish_reason": result.finish_reason.value,
            "engine": result.engine,
        }
    )
