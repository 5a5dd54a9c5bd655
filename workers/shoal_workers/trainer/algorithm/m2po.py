"""A bound on the second moment of the importance ratios of a batch."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from shoal_workers.trainer.algorithm.correctors import OffPolicyCorrector


class SecondMomentMask(OffPolicyCorrector):
    """w = pi_trainer / pi_behaviour, but 0 for the tokens of greatest (log ratio)^2, as few as bring the mean of the
    others' to `bound` or below.

    Source: M2PO (arXiv 2510.01161): rare tokens far from their sampler bring in most of the variance of stale data, and
    a clip takes many others with them. A batch within the bound is not touched: then w is `tis` without its cap.
    """

    bound: float = Field(0.04, gt=0)

    def weights(self, trainer: Tensor, behaviour: Tensor, row: Tensor) -> Tensor:
        """The mean of (log w)^2 over tokens of w > 0 is at most `bound`."""
        difference = (trainer - behaviour).detach()
        squares, order = torch.sort(difference**2)
        counts = torch.arange(1, len(squares) + 1, device=squares.device)
        # The mean of the k smallest rises with k, so those within the bound are a prefix.
        kept = order[squares.cumsum(0) / counts <= self.bound]
        mask = torch.zeros_like(difference).index_fill_(0, kept, 1.0)
        return torch.where(mask > 0, difference.exp(), mask)
