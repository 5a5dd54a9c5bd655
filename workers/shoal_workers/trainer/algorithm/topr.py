"""Policy gradient for off-policy data: what was good is imitated, what was bad is unlearned as far as it is likely."""

from __future__ import annotations

import torch

from shoal_workers.trainer.algorithm.losses import Loss, LossResult, LossTokens
from shoal_workers.trainer.algorithm.ppo_clip import with_terms


class Topr(Loss):
    """L = -sum share * c * A * log pi, with c = 1 where A > 0 and min(w, 1) elsewhere.

    Source: Le Roux et al., Tapered Off-Policy REINFORCE (arXiv 2503.14286). w is the corrector's weight: its level says
    whether a bad trajectory's ratio is of tokens or of the whole (the paper's). Gradients of bad trajectories vanish as
    the policy leaves them, so that no KL term is needed. On-policy (w = 1) it is REINFORCE with the advantages.
    """

    def compute(self, tokens: LossTokens) -> LossResult:
        """See the class."""
        tapered = torch.where(tokens.advantages > 0, torch.ones_like(tokens.weights), tokens.weights.clamp(max=1.0))
        policy = -(tokens.share * tapered * tokens.advantages * tokens.logprobs).sum()
        return with_terms(LossResult(policy, {"policy_loss": policy.detach()}), tokens, 0.0, 0.0)
