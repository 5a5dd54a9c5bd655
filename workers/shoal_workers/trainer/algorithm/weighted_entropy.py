"""Tokens where the policy was unsure and much was at stake."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from shoal_workers.trainer.algorithm.selectors import StepSelector


class AdvantageEntropyTop(StepSelector):
    """The `fraction` of tokens of greatest |A| * H.

    Source: D3S, dynamic selection of tokens. `fraction: 1` is `all`; ties go to the earlier token.
    """

    fraction: float = Field(0.5, gt=0, le=1)

    def select(self, entropy: Tensor, turn: Tensor, advantages: Tensor) -> Tensor:
        """At least one token where there are any."""
        mask = torch.zeros_like(turn, dtype=torch.bool)
        if not len(turn):
            return mask
        wanted = max(1, round(self.fraction * len(turn)))
        order = torch.argsort(advantages.abs() * entropy.detach(), descending=True, stable=True)
        return mask.index_fill_(0, order[:wanted], True)
