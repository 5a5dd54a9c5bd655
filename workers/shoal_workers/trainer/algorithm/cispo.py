"""A policy gradient whose importance ratios are clipped, and no token's gradient with them."""

from __future__ import annotations

from pydantic import Field

from shoal_workers.trainer.algorithm.losses import Loss, LossResult, LossTokens
from shoal_workers.trainer.algorithm.ppo_clip import with_terms


class Cispo(Loss):
    """L = -sum share * w * stop(min(pi / pi_old, 1 + clipHigh)) * A * log pi - entropy * H.

    Source: MiniMax-M1 (arXiv 2506.13585), eq. 4 and 5, with no lower bound as there. A clipped ratio of `ppo-clip` has
    no gradient, which silences the rare tokens that a step moved most; here they go on teaching with a bounded weight.
    At pi = pi_old the gradient is `ppo-clip`'s.
    """

    clip_high: float = Field(0.28, gt=0)
    entropy: float = Field(0.0, ge=0)

    def compute(self, tokens: LossTokens) -> LossResult:
        """See the class."""
        ratio = (tokens.logprobs - tokens.old_logprobs).detach().exp()
        bounded = ratio.clamp(max=1 + self.clip_high)
        policy = -(tokens.share * tokens.weights * bounded * tokens.advantages * tokens.logprobs).sum()
        held = (ratio > bounded).float()
        figures = {"policy_loss": policy.detach(), "clip_fraction": (tokens.share * held).sum()}
        return with_terms(LossResult(policy, figures), tokens, 0.0, self.entropy)
