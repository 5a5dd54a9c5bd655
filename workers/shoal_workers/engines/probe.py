"""The proof that an engine works: a sampled call checked against itself, and a fixed prompt against the trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count

from shoal.api.services.models import FixedPrompt, SamplingParameters
from shoal_workers.engines.core import Call, Core, Finished

PROBE_TOKENS = 4
# Mean difference of log-probs over the fixed prompt. Two programs that compute in float32 differ by 1e-5 (measured
# 6e-6); in half precision by 0.013 to 0.017. An update that came through only in part differs by what training changed.
EXACT = 0.005
ROUNDED = 0.15


class ProbeError(Exception):
    """A sampled call gave something impossible, or the weights are not the published ones: they must not serve."""


class Probe:
    """Calls to a core that has nothing else to do, and their judge.

    One is sampled, because some faults (an attention shape without a kernel, a sampler that does not compile) pass a
    health check and a greedy call. `tolerance` is the greatest difference allowed between a token's log-probability
    when it was decoded and when it is scored as a prompt: a cache kept from other weights differs by whole units,
    rounding by far less. At temperature 1 the two are of one distribution.

    The other is the fixed prompt that the trainer scored with the weights it published: only it sees weights that are
    consistent and yet not those, such as an output layer that was left as it was.
    """

    def __init__(self, prompt: Sequence[int] = (1, 2, 3), tolerance: float = 0.5) -> None:
        self.prompt = tuple(prompt)
        self.tolerance = tolerance
        self._seeds = count()

    def run(self, core: Core, version: int, published: FixedPrompt | None = None) -> float:
        """The greatest difference found; raises ProbeError. In the core's thread, while the core has no calls.

        The fixed prompt comes first: weights that give no finite log-probs are no case for a sampler.
        """
        difference = 0.0 if published is None else compare(published, core.score(published.token_ids), core.rounding)
        finished = self._sample(core)
        scores = core.score([*self.prompt, *finished.tokens])
        return max(difference, self.judge(finished, scores, version))

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

    def _sample(self, core: Core) -> Finished:
        key = f"probe-{next(self._seeds)}"
        sampling = SamplingParameters(max_tokens=PROBE_TOKENS, temperature=1.0, seed=next(self._seeds))
        core.add(Call(key, self.prompt, sampling))
        while core.unfinished:
            for finished in core.step():
                if finished.key == key:
                    return finished
        raise ProbeError("the probe got no answer")


def compare(published: FixedPrompt, scores: Sequence[float], rounding: float) -> float:
    """Mean difference between the trainer's log-probs and the engine's; raises ProbeError above what rounding explains.

    Args:
        published: the trainer's.
        scores: the engine's, of the same tokens.
        rounding: mean difference that the engine's own arithmetic explains (see Core.rounding).
    """
    if len(scores) != len(published.logprobs):
        raise ProbeError(f"fixed_prompt has {len(published.logprobs)} log-probs for {len(scores)} tokens")
    if not all(math.isfinite(value) for value in scores):
        raise ProbeError("the weights give log-probs that are not finite")
    error = math.fsum(abs(one - other) for one, other in zip(scores, published.logprobs, strict=True)) / len(scores)
    allowed = max(rounding, EXACT if published.dtype == "float32" else ROUNDED)
    if not error <= allowed:
        raise ProbeError(
            f"log-probs of the fixed prompt differ from the trainer's by {error:.3g} on average, above {allowed:g}: "
            "these are not the weights that were published"
        )
    return error
