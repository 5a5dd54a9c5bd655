"""Imitation: every sampled token becomes likelier, whatever its reward."""

from __future__ import annotations

from shoal_workers.trainer.algorithm.losses import Loss, LossResult, LossTokens
from shoal_workers.trainer.algorithm.ppo_clip import with_terms


class Sft(Loss):
    """L = -sum share * log pi: the cross-entropy of the sampled tokens; advantages and weights are not looked at."""

    @property
    def learns_without_advantage(self) -> bool:
        """A demonstration needs no reward."""
        return True

    def compute(self, tokens: LossTokens) -> LossResult:
        """See the class."""
        policy = -(tokens.share * tokens.logprobs).sum()
        return with_terms(LossResult(policy, {"policy_loss": policy.detach()}), tokens, 0.0, 0.0)
