"""Step selection: which of the sampled tokens are trained on."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from pydantic import Field
from torch import Tensor

from shoal_workers.strategies import NamedStrategy, Registry


class StepSelector(NamedStrategy, ABC):
    """From the policy's entropies [N] (nats, at the start of the step), turns [N] and advantages [N] to a mask [N].

    `turn` numbers the turns (model calls) of the whole batch from 0, ascending.
    """

    @property
    def everything(self) -> bool:
        """Whether every token is chosen, whatever the batch: then no pass over it is needed first."""
        return False

    @abstractmethod
    def select(self, entropy: Tensor, turn: Tensor, advantages: Tensor) -> Tensor:
        """True where a token is trained on; at least one token where there are any."""


SELECTORS: Registry[StepSelector] = Registry("shoal.trainer.selection", "algorithm.selection", StepSelector)


class AllSteps(StepSelector):
    """Every sampled token."""

    @property
    def everything(self) -> bool:
        """Yes."""
        return True

    def select(self, entropy: Tensor, turn: Tensor, advantages: Tensor) -> Tensor:
        """All true."""
        return torch.ones_like(turn, dtype=torch.bool)


class EntropyTop(StepSelector):
    """The `fraction` of turns whose tokens have the highest mean entropy: where the policy decides something.

    Source: DART (arXiv 2509.23866), high-entropy step selection. `fraction: 1` is `all`.
    """

    fraction: float = Field(0.8, gt=0, le=1)

    def select(self, entropy: Tensor, turn: Tensor, advantages: Tensor) -> Tensor:
        """Whole turns; ties go to the earlier turn."""
        if not len(turn):
            return torch.ones_like(turn, dtype=torch.bool)
        turns = int(turn.max()) + 1
        total = torch.zeros(turns, dtype=entropy.dtype, device=entropy.device).index_add_(0, turn, entropy.detach())
        mean = total / torch.bincount(turn, minlength=turns).clamp(min=1)
        wanted = max(1, round(self.fraction * turns))
        chosen = torch.argsort(mean, descending=True, stable=True)[:wanted]
        mask = torch.zeros(turns, dtype=torch.bool, device=entropy.device)
        mask[chosen] = True
        return mask[turn]
