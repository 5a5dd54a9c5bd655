"""Losses: from log-probs and advantages of sampled tokens to a number to descend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from shoal_workers.strategies import NamedStrategy, Registry

Aggregation = Literal["token", "sequence", "group", "constant"]
ReferenceKind = Literal["none", "sampled", "full"]


@dataclass(frozen=True, slots=True)
class LossTokens:
    """N sampled tokens of whole rows. Gradients flow through `logprobs`, `entropy`, `divergence`; all else is constant.

    `share` [N] is each token's part of the minibatch's mean (see `shares`): sums over it add up across micro-batches.
    `row` [N] numbers the rows (one sequence of tokens each; all of a row's tokens are here) from 0, ascending, and
    `trajectory` [N] the trajectories that they belong to. `entropy` [N] is the policy's, in nats. Of the original
    weights a loss gets what it asks for: `reference` [N], their log-probs (sampled), or `divergence` [N], the KL
    divergence of the policy from them over the whole vocabulary (full).
    """

    logprobs: Tensor
    entropy: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    weights: Tensor
    share: Tensor
    row: Tensor
    trajectory: Tensor
    reference: Tensor | None = None
    divergence: Tensor | None = None

    def of_rows(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean of `values` [N] over each token's row, repeated for its tokens [N]; weighted by `weights` [N]."""
        size = int(self.row.max()) + 1 if len(self.row) else 0
        ones = torch.ones_like(values) if weights is None else weights
        total = torch.zeros(size, dtype=values.dtype, device=values.device).index_add(0, self.row, values * ones)
        count = torch.zeros(size, dtype=values.dtype, device=values.device).index_add(0, self.row, ones)
        return (total / count.clamp(min=torch.finfo(values.dtype).tiny))[self.row]


@dataclass(frozen=True, slots=True)
class LossResult:
    """The part of the minibatch's loss that these tokens make up, and sums over `share` of what people look at."""

    loss: Tensor
    figures: dict[str, Tensor]


class Loss(NamedStrategy, ABC):
    """A policy loss. `aggregation` says what one minibatch's mean is taken over.

    `length` is the divisor of `aggregation: constant`, in tokens.
    """

    aggregation: Aggregation = "token"
    length: int = 1

    @property
    def reference(self) -> ReferenceKind:
        """What of the original weights the loss asks for."""
        return "none"

    @property
    def learns_without_advantage(self) -> bool:
        """Whether tokens of advantage 0 have a gradient by intent, as in imitation; a pull to the reference is none."""
        return False

    @abstractmethod
    def compute(self, tokens: LossTokens) -> LossResult:
        """The loss of some of the tokens of a minibatch."""


LOSSES: Registry[Loss] = Registry("shoal.trainer.loss", "algorithm.loss", Loss)


def shares(trajectory: Tensor, group: Tensor, aggregation: Aggregation, length: int = 1) -> Tensor:
    """Each token's part of a minibatch's mean [N]; `trajectory` [N] and `group` [N] number those it belongs to.

    `token` counts tokens alike (DAPO, arXiv 2503.14476, eq. 12); `sequence` counts trajectories alike (GRPO, arXiv
    2402.03300, eq. 3); `group` counts groups alike and tokens within a group; these sum to 1. `constant` divides by
    trajectories times `length` whatever their lengths are (Dr. GRPO, arXiv 2503.20783).
    """
    if aggregation == "token":
        return torch.full(trajectory.shape, 1.0 / max(1, len(trajectory)), device=trajectory.device)
    lengths = torch.bincount(trajectory)
    present = max(1, int((lengths > 0).sum()))
    if aggregation == "constant":
        return torch.full(trajectory.shape, 1.0 / (present * length), device=trajectory.device)
    if aggregation == "group":
        sizes = torch.bincount(group)
        return 1.0 / (sizes[group] * max(1, int((sizes > 0).sum())))
    return 1.0 / (lengths[trajectory] * present)
