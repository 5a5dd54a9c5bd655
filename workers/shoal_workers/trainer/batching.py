"""From groups of trajectories to the flat arrays of a training batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shoal.api.services.trajectories import Segment, TrainGroup
from shoal_workers.trainer.algorithm import AdvantageEstimator


@dataclass(frozen=True, slots=True)
class TrainRows:
    """A batch: R rows (trajectory segments, each a whole sequence) of L tokens in all, one row after the other.

    Row i has tokens starts[i]:starts[i+1] of the flat arrays [L]. `sampled` is true exactly at tokens that the policy
    chose and that are trained; `behaviour` are their log-probs and `versions` the weight versions that sampled them (-1
    elsewhere). `turn` numbers the model calls of the batch from 0, ascending (-1 elsewhere). `advantages` [R],
    `trajectory` [R] and `group` [R] belong to the row. N counts sampled tokens; R may be 0. `too_long` counts segments
    that are not among the rows because the model does not take so many tokens.
    """

    token_ids: Tensor
    sampled: Tensor
    behaviour: Tensor
    versions: Tensor
    turn: Tensor
    starts: Tensor
    advantages: Tensor
    trajectory: Tensor
    group: Tensor
    too_long: int = 0

    @property
    def rows(self) -> int:
        """R."""
        return len(self.starts) - 1

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row: [R]."""
        return self.starts.diff()

    @property
    def counts(self) -> Tensor:
        """Sampled tokens of each row: [R]."""
        total = torch.cat([torch.zeros(1, dtype=torch.long), self.sampled.long().cumsum(0)])
        return total[self.starts[1:]] - total[self.starts[:-1]]

    def of_tokens(self, values: Tensor) -> Tensor:
        """Values [R] of rows, repeated for each sampled token: [N]."""
        return values.repeat_interleave(self.counts)


@dataclass(frozen=True, slots=True)
class _Row:
    segment: Segment
    trajectory: int
    group: int
    advantage: float


def make_rows(groups: Sequence[TrainGroup], estimator: AdvantageEstimator, max_length: int) -> TrainRows:
    """The batch's arrays, in the groups' order.

    Segments without a sampled token are left out. The first token of a segment cannot be scored, as nothing precedes
    it, and counts as not sampled. Segments of more than `max_length` tokens are left out and counted: a batch that was
    refused would come back again and again. Their trajectory's reward counts in its group all the same.
    """
    rows = []
    number = too_long = 0
    for place, group in enumerate(groups):
        rewards = np.array([trajectory.reward for trajectory in group.trajectories], dtype=np.float64)
        for trajectory, advantage in zip(group.trajectories, estimator.advantages(rewards), strict=True):
            for segment in trajectory.segments:
                if len(segment.token_ids) > max_length:
                    too_long += 1
                elif any(segment.loss_mask[1:]):
                    rows.append(_Row(segment, number, place, float(advantage)))
            number += 1
    return _flatten(rows, too_long)


def _flatten(rows: Sequence[_Row], too_long: int) -> TrainRows:
    starts = np.cumsum([0, *(len(row.segment.token_ids) for row in rows)])
    size = int(starts[-1])
    token_ids, versions = np.zeros(size, dtype=np.int64), np.full(size, -1, dtype=np.int64)
    sampled, behaviour = np.zeros(size, dtype=bool), np.zeros(size, dtype=np.float32)
    for row, start, end in zip(rows, starts[:-1], starts[1:], strict=True):
        token_ids[start:end] = row.segment.token_ids
        sampled[start:end] = row.segment.loss_mask
        sampled[start] = False
        behaviour[start:end] = row.segment.logprobs
        for span in row.segment.versions:
            versions[start + span.start : start + span.end] = span.version
    versions[~sampled] = -1
    behaviour[~sampled] = 0.0
    return TrainRows(
        token_ids=torch.from_numpy(token_ids),
        sampled=torch.from_numpy(sampled),
        behaviour=torch.from_numpy(behaviour),
        versions=torch.from_numpy(versions),
        turn=torch.from_numpy(_turns(sampled)),
        starts=torch.from_numpy(starts.astype(np.int64)),
        advantages=torch.tensor([row.advantage for row in rows], dtype=torch.float32),
        trajectory=torch.tensor([row.trajectory for row in rows], dtype=torch.int64),
        group=torch.tensor([row.group for row in rows], dtype=torch.int64),
        too_long=too_long,
    )


def _turns(sampled: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Each stretch of sampled tokens is one model call; -1 outside. A row's first token is never sampled, so that no
    stretch reaches over two rows."""
    before = np.concatenate([[False], sampled[:-1]])
    return np.where(sampled, np.cumsum(sampled & ~before) - 1, -1).astype(np.int64)
