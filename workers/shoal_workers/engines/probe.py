"""The proof that an engine works: one sampled call, checked against itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count

from shoal.api.services.models import GenerateRequest, SamplingParameters
from shoal_workers.engines.core import Finished

PROBE_TOKENS = 4


class ProbeError(Exception):
    """A sampled call gave something impossible; the engine must not serve."""


class Probe:
    """A sampled call and its judge.

    Sampled, because some faults (an attention shape without a kernel, a sampler that does not compile) pass a health
    check and a greedy call. `tolerance` is the greatest difference allowed between a token's log-probability when it
    was decoded and when it is scored as a prompt: a cache kept from other weights differs by whole units, rounding by
    far less. At temperature 1 the two are of one distribution.
    """

    def __init__(self, prompt: Sequence[int] = (1, 2, 3), tolerance: float = 0.5) -> None:
        self.prompt = tuple(prompt)
        self.tolerance = tolerance
        self._seeds = count()

    def request(self) -> GenerateRequest:
        """The call to make."""
        sampling = SamplingParameters(max_tokens=PROBE_TOKENS, temperature=1.0, seed=next(self._seeds))
        return GenerateRequest(request_id="probe", prompt_token_ids=list(self.prompt), sampling=sampling)

    def judge(self, finished: Finished, scores: Sequence[float], version: int) -> float:
        """The greatest difference found; raises ProbeError. `scores` are of prompt and tokens, without the first."""
        if not finished.tokens:
            raise ProbeError("the probe got no token")
        if not all(math.isfinite(value) and value <= 0 for value in finished.logprobs):
            raise ProbeError(f"the probe got log-probabilities {finished.logprobs}")
        versions = {span.version for span in finished.spans}
        if versions != {version}:
            raise ProbeError(f"the probe was answered by version {sorted(versions)} instead of {version}")
        expected = list(scores)[-len(finished.tokens) :]
        error = max(abs(one - other) for one, other in zip(finished.logprobs, expected, strict=True))
        if not error <= self.tolerance:
            raise ProbeError(f"the probe's log-probabilities differ by {error:.3g} between decoding and scoring")
        return error
