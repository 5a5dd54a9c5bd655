"""Advantages against the densest part of a group's rewards."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from shoal_workers.trainer.algorithm.advantages import AdvantageEstimator, Vector


class Gapo(AdvantageEstimator):
    """A_i = (r_i - Q) / sqrt(sum (r - Q)^2 / (G - 1)), Q the median of the shortest window with `coverage` of rewards.

    Source: GAPO (group adaptive policy optimization for rewards with outliers). A wild reward moves a mean, and not the
    densest window. Of two windows of one length the lower counts. Where the median of that window is the group's mean,
    as for rewards that lie evenly around it, A is `grpo`'s.
    """

    coverage: float = Field(0.5, gt=0, le=1)
    epsilon: float = Field(1e-4, gt=0)

    def advantages(self, rewards: Vector) -> Vector:
        """A group of one, or of equal rewards, has advantages 0."""
        size = len(rewards)
        if size < 2:
            return np.zeros_like(rewards)
        ordered = np.sort(rewards)
        width = max(1, math.ceil(self.coverage * size))
        start = int(np.argmin(ordered[width - 1 :] - ordered[: size - width + 1]))
        distance: Vector = rewards - np.median(ordered[start : start + width])
        return distance / float(np.sqrt((distance**2).sum() / (size - 1)) + self.epsilon)
