"""A clipped policy gradient with one ratio for a whole sequence."""

from __future__ import annotations

import torch
from pydantic import Field

from shoal_workers.trainer.algorithm.losses import Aggregation, Loss, LossResult, LossTokens
from shoal_workers.trainer.algorithm.ppo_clip import with_terms


class Gspo(Loss):
    """L = sum share * ( -w * min(s A, clip(s, 1 - clipLow, 1 + clipHigh) A) ) - entropy * H.

    s is the geometric mean of pi / pi_old over the sequence's sampled tokens. Source: Zheng et al., GSPO (arXiv
    2507.18071), eq. 5 to 7, with its clip ranges. A reward is given to a sequence, so the ratio is of one, too; a
    sequence is one segment of a trajectory. With one sampled token each it is `ppo-clip`.
    """

    aggregation: Aggregation = "sequence"
    clip_low: float = Field(3e-4, gt=0, le=1)
    clip_high: float = Field(4e-4, gt=0)
    entropy: float = Field(0.0, ge=0)

    def compute(self, tokens: LossTokens) -> LossResult:
        """See the class."""
        ratio = tokens.of_rows(tokens.logprobs - tokens.old_logprobs).exp()
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        gain = torch.minimum(ratio * tokens.advantages, clipped * tokens.advantages)
        policy = -(tokens.share * tokens.weights * gain).sum()
        held = (clipped * tokens.advantages < ratio * tokens.advantages).float()
        figures = {"policy_loss": policy.detach(), "clip_fraction": (tokens.share * held).sum()}
        return with_terms(LossResult(policy, figures), tokens, 0.0, self.entropy)
