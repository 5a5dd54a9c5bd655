"""Advantage estimators: how much better than its group a trajectory was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from shoal_workers.strategies import NamedStrategy, Registry

Vector: TypeAlias = NDArray[np.float64]


class AdvantageEstimator(NamedStrategy, ABC):
    """From the rewards [G] of one group to its advantages [G]; every sampled token of a trajectory gets the same one.

    Invariants, checked by tests: a group of equal rewards has advantages 0; adding a constant to all rewards changes
    nothing; permuting the rewards permutes the advantages.
    """

    @abstractmethod
    def advantages(self, rewards: Vector) -> Vector:
        """The advantages of one group."""


ADVANTAGES: Registry[AdvantageEstimator] = Registry(
    "shoal.trainer.advantage", "algorithm.advantage", AdvantageEstimator
)


class Grpo(AdvantageEstimator):
    """Group-relative: A_i = (r_i - mean r) / (std r + epsilon), with the sample's std (of G - 1).

    Source: Shao et al., DeepSeekMath (arXiv 2402.03300), eq. 4; std and epsilon as TRL and verl compute them.
    `normalize: false` leaves the division out, as Dr. GRPO does (Liu et al., arXiv 2503.20783), so that easy and hard
    groups weigh by their spread.
    """

    normalize: bool = True
    epsilon: float = Field(1e-4, gt=0)

    def advantages(self, rewards: Vector) -> Vector:
        """Sum 0; the sample's standard deviation is about 1 where rewards differ and `normalize` is set."""
        centred: Vector = rewards - rewards.mean()
        if not self.normalize or len(rewards) < 2:
            return centred
        return centred / float(rewards.std(ddof=1) + self.epsilon)


class Rloo(AdvantageEstimator):
    """Leave-one-out: A_i = r_i - mean of the others = G/(G-1) * (r_i - mean r).

    Source: Ahmadian et al., Back to Basics (arXiv 2402.14740), section 3. The baseline of a trajectory does not depend
    on the trajectory itself, so the gradient is unbiased.
    """

    def advantages(self, rewards: Vector) -> Vector:
        """Sum 0; a group of one has advantage 0."""
        size = len(rewards)
        if size < 2:
            return np.zeros_like(rewards)
        advantages: Vector = (rewards - rewards.mean()) * (size / (size - 1))
        return advantages
