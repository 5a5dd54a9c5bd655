"""Whole trajectories that another policy sampled are left out; the others' tokens are weighted."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from shoal_workers.trainer.algorithm.correctors import OffPolicyCorrector, ratios


class RejectAndReweight(OffPolicyCorrector):
    """w = min(ratio, cap) per token, but 0 for every token of a trajectory with a ratio below `veto`.

    Source: Sparse-RL's sequence rejection before weighting; the veto as ROLL and verl have it. One token that the
    trainer finds all but impossible shows that sampler and trainer saw different contexts: then no token of the
    trajectory is what it seems. Without such a token w is `tis`'s.
    """

    cap: float = Field(2.0, gt=0)
    veto: float = Field(1e-4, gt=0, lt=1)

    def weights(self, trainer: Tensor, behaviour: Tensor, row: Tensor) -> Tensor:
        """0 on rejected trajectories, else between `veto` and `cap`."""
        ratio = ratios(trainer, behaviour, row, "token")
        rejected = torch.unique(row[ratio < self.veto])
        return torch.where(torch.isin(row, rejected), torch.zeros_like(ratio), ratio.clamp(max=self.cap))
