"""From groups of trajectories to rectangular tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shoal.api.services.trajectories import Segment, TrainGroup
from shoal_workers.trainer.algorithm import AdvantageEstimator


@dataclass(frozen=True, slots=True)
class TrainRows:
    """A batch, padded on the right: B rows (trajectory segments) of at most T tokens.

    `sampled` [B, T] is true exactly at tokens that the policy chose; `behaviour` [B, T] are their log-probs and
    `versions` [B, T] the weight versions that sampled them (-1 elsewhere). `turn` [B, T] numbers the model calls of the
    batch from 0, ascending. `advantages` [B] and `trajectory` [B] belong to the row; N counts sampled tokens. B may be
    0. `too_long` counts segments that are not among the rows because the model does not take so many tokens.
    """

    token_ids: Tensor
    sampled: Tensor
    behaviour: Tensor
    versions: Tensor
    turn: Tensor
    advantages: Tensor
    trajectory: Tensor
    lengths: Tensor
    too_long: int = 0

    @property
    def rows(self) -> int:
        """B."""
        return int(self.token_ids.shape[0])

    def of_tokens(self, values: Tensor) -> Tensor:
        """Values [B] of rows, repeated for each sampled token: [N]."""
        return values.repeat_interleave(self.sampled.sum(1))


@dataclass(frozen=True, slots=True)
class _Row:
    segment: Segment
    trajectory: int
    advantage: float


def make_rows(groups: Sequence[TrainGroup], estimator: AdvantageEstimator, max_length: int) -> TrainRows:
    """The batch's tensors, in the groups' order.

    Segments without a sampled token are left out. The first token of a segment cannot be scored, as nothing precedes
    it, and counts as not sampled. Segments of more than `max_length` tokens are left out and counted: a batch that was
    refused would come back again and again. Their trajectory's reward counts in its group all the same.
    """
    rows = []
    number = too_long = 0
    for group in groups:
        rewards = np.array([trajectory.reward for trajectory in group.trajectories], dtype=np.float64)
        for trajectory, advantage in zip(group.trajectories, estimator.advantages(rewards), strict=True):
            for segment in trajectory.segments:
                if len(segment.token_ids) > max_length:
                    too_long += 1
                elif any(segment.loss_mask[1:]):
                    rows.append(_Row(segment, number, float(advantage)))
            number += 1
    return _pad(rows, too_long)


def _pad(rows: Sequence[_Row], too_long: int) -> TrainRows:
    lengths = [len(row.segment.token_ids) for row in rows]
    shape = (len(rows), max(lengths, default=0))
    token_ids, versions = np.zeros(shape, dtype=np.int64), np.full(shape, -1, dtype=np.int64)
    sampled, behaviour = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.float32)
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        token_ids[index, :length] = row.segment.token_ids
        sampled[index, 1:length] = np.asarray(row.segment.loss_mask[1:], dtype=bool)
        behaviour[index, :length] = row.segment.logprobs
        for span in row.segment.versions:
            versions[index, span.start : span.end] = span.version
    versions[~sampled] = -1
    behaviour[~sampled] = 0.0
    return TrainRows(
        token_ids=torch.from_numpy(token_ids),
        sampled=torch.from_numpy(sampled),
        behaviour=torch.from_numpy(behaviour),
        versions=torch.from_numpy(versions),
        turn=torch.from_numpy(_turns(sampled)),
        advantages=torch.tensor([row.advantage for row in rows], dtype=torch.float32),
        trajectory=torch.tensor([row.trajectory for row in rows], dtype=torch.int64),
        lengths=torch.tensor(lengths, dtype=torch.int64),
        too_long=too_long,
    )


def _turns(sampled: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Each stretch of sampled tokens is one model call; -1 outside."""
    before = np.zeros_like(sampled)
    before[:, 1:] = sampled[:, :-1]
    starts = sampled & ~before
    numbers = np.cumsum(starts.ravel()).reshape(sampled.shape) - 1
    return np.where(sampled, numbers, -1).astype(np.int64)
