"""Losses: from log-probs and advantages of sampled tokens to a number to descend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from shoal_workers.strategies import NamedStrategy, Registry

Aggregation = Literal["token", "sequence"]
ReferenceKind = Literal["none", "sampled", "full"]


@dataclass(frozen=True, slots=True)
class LossTokens:
    """N sampled tokens. Gradients flow through `logprobs`, `log_distribution`; all others are constants.

    `share` [N] is each token's part of the minibatch's mean (see `shares`): sums over it add up across micro-batches.
    `log_distribution` [N, V] are the policy's log-probs of the whole vocabulary. `reference` are those of the original
    weights, of the kind that the loss asks for: [N, V] (full), [N] of the sampled tokens, or None.
    """

    logprobs: Tensor
    log_distribution: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    weights: Tensor
    share: Tensor
    reference: Tensor | None = None


@dataclass(frozen=True, slots=True)
class LossResult:
    """The part of the minibatch's loss that these tokens make up, and sums over `share` of what people look at."""

    loss: Tensor
    figures: dict[str, float]


class Loss(NamedStrategy, ABC):
    """A policy loss. `aggregation` says what one minibatch's mean is taken over."""

    aggregation: Aggregation = "token"

    @property
    def reference(self) -> ReferenceKind:
        """What `LossTokens.reference` must be."""
        return "none"

    @abstractmethod
    def compute(self, tokens: LossTokens) -> LossResult:
        """The loss of some of the tokens of a minibatch."""


LOSSES: Registry[Loss] = Registry("shoal.trainer.loss", "algorithm.loss", Loss)


def shares(row: Tensor, aggregation: Aggregation) -> Tensor:
    """Each token's part of a minibatch's mean, summing to 1: `token` counts tokens alike (DAPO, arXiv 2503.14476,
    eq. 12), `sequence` counts trajectories alike (GRPO, arXiv 2402.03300, eq. 3). `row` [N] numbers trajectories.
    """
    if aggregation == "token":
        return torch.full(row.shape, 1.0 / max(1, len(row)), device=row.device)
    lengths = torch.bincount(row)
    present = int((lengths > 0).sum())
    return 1.0 / (lengths[row] * max(1, present))


class PpoClip(Loss):
    """Clipped policy gradient with two bounds, importance weights, and optional pulls to the reference or to chaos.

    With ratio = pi / pi_old (pi_old: the trainer's weights at the start of the step) and w the corrector's weight,

        L = sum share * ( -w * min(ratio * A, clip(ratio, 1 - clipLow, 1 + clipHigh) * A) + kl * KL - entropy * H )

    Sources: PPO (arXiv 1707.06347) eq. 7; clip-higher 0.2/0.28 from DAPO (arXiv 2503.14476) eq. 10; the KL term from
    GRPO (arXiv 2402.03300). `klEstimator: full` takes KL(pi || pi_ref) over the whole vocabulary (needs N * V floats:
    for small vocabularies), `k3` the estimate exp(d) - d - 1, d = log pi_ref - log pi, at the sampled token.
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
        change = tokens.logprobs - tokens.old_logprobs
        ratio = change.exp()
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        gain = torch.minimum(ratio * tokens.advantages, clipped * tokens.advantages)
        share = tokens.share
        policy = -(share * tokens.weights * gain).sum()
        entropy = (share * entropies(tokens.log_distribution)).sum()
        loss = policy - self.entropy * entropy
        held = (clipped * tokens.advantages < ratio * tokens.advantages).float()
        constant = change.detach()
        figures = {
            "policy_loss": float(policy.detach()),
            "entropy": float(entropy.detach()),
            "clip_fraction": float((share * held).sum()),
            "step_kl": float((share * (ratio.detach() - constant - 1)).sum()),
        }
        if tokens.reference is not None:
            divergence = (share * self._divergence(tokens, tokens.reference)).sum()
            loss = loss + self.kl * divergence
            figures["reference_kl"] = float(divergence.detach())
        return LossResult(loss, figures)

    def _divergence(self, tokens: LossTokens, reference: Tensor) -> Tensor:
        if self.kl_estimator == "full":
            return (tokens.log_distribution.exp() * (tokens.log_distribution - reference)).sum(-1)
        difference = reference - tokens.logprobs
        return difference.exp() - difference - 1


def entropies(log_distribution: Tensor) -> Tensor:
    """Entropies [N] in nats of log-probs [N, V]."""
    return -(log_distribution.exp() * log_distribution).sum(-1)
