"""The clipped policy gradient."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from shoal_workers.trainer.algorithm.losses import Loss, LossResult, LossTokens, ReferenceKind


class PpoClip(Loss):
    """Clipped policy gradient with two bounds, importance weights, and optional KL and entropy terms.

    With ratio = pi / pi_old (pi_old: the trainer's weights at the start of the step) and w the corrector's weight,

        L = sum share * ( -w * min(ratio * A, clip(ratio, 1 - clipLow, 1 + clipHigh) * A) + kl * KL - entropy * H )

    Sources: PPO (arXiv 1707.06347) eq. 7; clip-higher 0.2/0.28 from DAPO (arXiv 2503.14476) eq. 10; the KL term from
    GRPO (arXiv 2402.03300). `klEstimator: full` takes KL(pi || pi_ref) over the whole vocabulary, `k3` the estimate
    exp(d) - d - 1, d = log pi_ref - log pi, at the sampled token.
    """

    clip_low: float = Field(0.2, gt=0, le=1)
    clip_high: float = Field(0.28, gt=0)
    kl: float = Field(0.0, ge=0)
    kl_estimator: Literal["full", "k3"] = "k3"
    entropy: float = Field(0.0, ge=0)

    @property
    def reference(self) -> ReferenceKind:
        """Only a KL term needs it."""
        if not self.kl:
            return "none"
        return "full" if self.kl_estimator == "full" else "sampled"

    def compute(self, tokens: LossTokens) -> LossResult:
        """See the class."""
        share = tokens.share
        ratio = (tokens.logprobs - tokens.old_logprobs).exp()
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        gain = torch.minimum(ratio * tokens.advantages, clipped * tokens.advantages)
        policy = -(share * tokens.weights * gain).sum()
        held = (clipped * tokens.advantages < ratio * tokens.advantages).float()
        figures = {"policy_loss": policy.detach(), "clip_fraction": (share * held).sum()}
        return with_terms(LossResult(policy, figures), tokens, self.kl, self.entropy)


def with_terms(result: LossResult, tokens: LossTokens, kl: float, entropy: float) -> LossResult:
    """The loss plus kl * KL - entropy * H, and the figures that every policy loss has."""
    share, loss = tokens.share, result.loss
    change = (tokens.logprobs - tokens.old_logprobs).detach()
    figures = {
        **result.figures,
        "entropy": (share * tokens.entropy.detach()).sum(),
        "step_kl": (share * (change.exp() - change - 1)).sum(),
    }
    if entropy:
        loss = loss - entropy * (share * tokens.entropy).sum()
    if kl:
        divergence = (share * divergences(tokens)).sum()
        loss = loss + kl * divergence
        figures["reference_kl"] = divergence.detach()
    return LossResult(loss, figures)


def divergences(tokens: LossTokens) -> Tensor:
    """KL of the policy from the original weights [N]: exact where the loss asked for it in full, else by k3."""
    if tokens.divergence is not None:
        return tokens.divergence
    if tokens.reference is None:
        raise ValueError("the loss has a KL term and was given no reference")
    difference = tokens.reference - tokens.logprobs
    return difference.exp() - difference - 1
