"""Which task comes next."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import Field

from shoal_workers.data.difficulty import TaskRecord
from shoal_workers.strategies import NamedStrategy, Registry


@dataclass(frozen=True)
class Draw:
    """What a sampler sees: how many tasks were drawn before, how many there are, the job's seed, and what is known of
    the task at an index.
    """

    drawn: int
    size: int
    seed: int
    record: Callable[[int], TaskRecord]


class TaskSampler(NamedStrategy, ABC):
    """The order of tasks. Invariants, checked by tests: an index below `size`; the same draw gives the same index."""

    @abstractmethod
    def next(self, draw: Draw) -> int:
        """The index of the next task."""


SAMPLERS: Registry[TaskSampler] = Registry("shoal.data.sampler", "data.sampler", TaskSampler)


class SequentialSampler(TaskSampler):
    """One after the other, from the start again after the last."""

    def next(self, draw: Draw) -> int:
        """The tasks' order."""
        return draw.drawn % draw.size


class UniformSampler(TaskSampler):
    """Each with the same chance, independently of what came before: the baseline of the others."""

    def next(self, draw: Draw) -> int:
        """Any index."""
        return random.Random(f"{draw.seed}/{draw.drawn}").randrange(draw.size)


class VadeSampler(TaskSampler):
    """The most informative of a few: p is drawn from each candidate's Beta distribution, the greatest p (1 - p) wins.

    p (1 - p) is the variance of a success, so the share of groups with equal rewards falls. Source: VADE, online
    Bayesian estimation of difficulty with Thompson sampling (its exact gain is not published; p (1 - p) is the usual
    proxy). Candidates are drawn uniformly, so that the cost does not grow with the number of tasks; one candidate is
    sampler `uniform`. Old episodes are discounted in the store of difficulty.
    """

    candidates: int = Field(8, ge=1, le=1024)

    def next(self, draw: Draw) -> int:
        """The best candidate."""
        source = random.Random(f"{draw.seed}/{draw.drawn}")
        best, index = -1.0, 0
        for _ in range(self.candidates):
            candidate = source.randrange(draw.size)
            known = draw.record(candidate)
            chance = source.betavariate(known.successes + 1, known.failures + 1)
            if chance * (1 - chance) > best:
                best, index = chance * (1 - chance), candidate
        return index
