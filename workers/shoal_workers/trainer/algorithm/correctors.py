"""Off-policy correction: how far a token counts that other weights, or another program, sampled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from shoal_workers.strategies import NamedStrategy, Registry

Level = Literal["token", "sequence", "geometric"]


class OffPolicyCorrector(NamedStrategy, ABC):
    """From log-probs of the same N tokens under the trainer's weights at the start of the step and under the weights
    (and program) that sampled them to weights [N], without gradient.

    `row` [N] numbers the trajectory of each token from 0. Invariant: equal log-probs give weights 1.
    """

    @property
    def local(self) -> bool:
        """Whether a token's weight depends on that token alone: then no pass over the whole batch is needed first."""
        return False

    @abstractmethod
    def weights(self, trainer: Tensor, behaviour: Tensor, row: Tensor) -> Tensor:
        """The factors [N] of the tokens' losses."""


CORRECTORS: Registry[OffPolicyCorrector] = Registry(
    "shoal.trainer.corrector", "algorithm.corrector", OffPolicyCorrector
)


def ratios(trainer: Tensor, behaviour: Tensor, row: Tensor, level: Level) -> Tensor:
    """pi_trainer / pi_behaviour [N]: per token, or per trajectory (the product or geometric mean of its tokens')."""
    difference = (trainer - behaviour).detach()
    if level == "token" or not len(row):
        return difference.exp()
    rows = int(row.max()) + 1
    total = torch.zeros(rows, dtype=difference.dtype, device=difference.device).index_add_(0, row, difference)
    if level == "geometric":
        total = total / torch.bincount(row, minlength=rows).clamp(min=1)
    return total[row].exp()


class Uncorrected(OffPolicyCorrector):
    """w = 1."""

    @property
    def local(self) -> bool:
        """Nothing is looked at."""
        return True

    def weights(self, trainer: Tensor, behaviour: Tensor, row: Tensor) -> Tensor:
        """Ones."""
        return torch.ones_like(trainer.detach())


class TruncatedImportanceSampling(OffPolicyCorrector):
    """w = min(pi_trainer / pi_behaviour, cap).

    Source: Yao et al., "Your efficient RL framework secretly brings you off-policy RL training" (2025); DART
    (arXiv 2509.23866) uses cap 1. The cap bounds the variance that one token can bring in; what is lost is bias only
    where the trainer has come to like a token much better than its sampler did.
    """

    cap: float = Field(2.0, gt=0)
    level: Level = "token"

    @property
    def local(self) -> bool:
        """Levels above the token look at whole trajectories."""
        return self.level == "token"

    def weights(self, trainer: Tensor, behaviour: Tensor, row: Tensor) -> Tensor:
        """Between 0 and `cap`."""
        return ratios(trainer, behaviour, row, self.level).clamp(max=self.cap)


class MaskedImportanceSampling(OffPolicyCorrector):
    """w = pi_trainer / pi_behaviour inside [1/cap, cap], 0 outside: what is too far off-policy is not trained on.

    Source: the masked twin of `tis` as FP8-RL and verl's rollout correction have it.
    """

    cap: float = Field(2.0, gt=1)
    level: Level = "token"

    @property
    def local(self) -> bool:
        """Levels above the token look at whole trajectories."""
        return self.level == "token"

    def weights(self, trainer: Tensor, behaviour: Tensor, row: Tensor) -> Tensor:
        """0, or between 1/cap and cap."""
        ratio = ratios(trainer, behaviour, row, self.level)
        return torch.where((ratio >= 1 / self.cap) & (ratio <= self.cap), ratio, torch.zeros_like(ratio))
