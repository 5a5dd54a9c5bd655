"""From groups of trajectories to the flat arrays of a training batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shoal_workers.tokens.arrays import NOT_SAMPLED, ROOT, TokenArrays, offsets
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


def make_rows(arrays: TokenArrays, estimator: AdvantageEstimator, max_length: int) -> TrainRows:
    """The batch's rows, in the arrays' order: each segment behind the prefix that it shares.

    Only a segment's own sampled tokens are trained, its prefix is context: what several branches share is trained once,
    where it stands. Segments without a sampled token are left out. The first token of a sequence cannot be scored, as
    nothing precedes it, and counts as not sampled. Sequences of more than `max_length` tokens are left out and counted:
    a batch that was refused would come back again and again. Their trajectory's reward counts in its group all the
    same.
    """
    advantages = _advantages(arrays, estimator)
    group = np.repeat(np.arange(len(arrays.group_trajectories) - 1), np.diff(arrays.group_trajectories))
    rows: list[_Row] = []
    too_long = 0
    for trajectory, (first, end) in enumerate(pairwise(arrays.trajectory_segments.tolist())):
        for row in _sequences(arrays, first, end):
            if len(row.token_ids) > max_length:
                too_long += 1
            elif row.sampled.any():
                rows.append(replace(row, trajectory=trajectory, group=int(group[trajectory])))
    return _flatten(rows, advantages, too_long)


@dataclass(frozen=True, slots=True)
class _Row:
    """A whole sequence of T tokens, [T] each."""

    token_ids: NDArray[np.int32]
    sampled: NDArray[np.bool_]
    behaviour: NDArray[np.float32]
    versions: NDArray[np.int32]
    trajectory: int = 0
    group: int = 0


def _advantages(arrays: TokenArrays, estimator: AdvantageEstimator) -> NDArray[np.float64]:
    """Of each trajectory: [T]."""
    parts = [estimator.advantages(arrays.rewards[start:end]) for start, end in pairwise(arrays.group_trajectories)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _sequences(arrays: TokenArrays, first: int, end: int) -> Iterator[_Row]:
    """The whole sequences of a trajectory's segments; nothing of a shared prefix is sampled."""
    whole: list[NDArray[np.int32]] = []
    for number in range(first, end):
        parent, shared = int(arrays.segment_parent[number]), int(arrays.segment_shared[number])
        prefix = whole[parent][:shared] if parent != ROOT else np.zeros(0, np.int32)
        own = slice(*arrays.segment_offsets[number : number + 2].tolist())
        whole.append(np.concatenate([prefix, arrays.token_ids[own]]))
        before = len(prefix)
        sampled = np.concatenate([np.zeros(before, bool), arrays.loss_mask[own].astype(bool)])
        sampled[:1] = False
        behaviour = np.concatenate([np.zeros(before, np.float32), arrays.logprobs[own]])
        versions = np.concatenate([np.full(before, NOT_SAMPLED, np.int32), arrays.token_versions[own]])
        yield _Row(whole[-1], sampled, np.where(sampled, behaviour, 0), np.where(sampled, versions, NOT_SAMPLED))


def _flatten(rows: Sequence[_Row], advantages: NDArray[np.float64], too_long: int) -> TrainRows:
    trajectory = np.array([row.trajectory for row in rows], np.int64)
    sampled = _flat([row.sampled for row in rows], bool)
    return TrainRows(
        token_ids=torch.from_numpy(_flat([row.token_ids for row in rows], np.int64)),
        sampled=torch.from_numpy(sampled),
        behaviour=torch.from_numpy(_flat([row.behaviour for row in rows], np.float32)),
        versions=torch.from_numpy(_flat([row.versions for row in rows], np.int64)),
        turn=torch.from_numpy(_turns(sampled)),
        starts=torch.from_numpy(offsets([len(row.token_ids) for row in rows])),
        advantages=torch.from_numpy(advantages[trajectory].astype(np.float32)),
        trajectory=torch.from_numpy(trajectory),
        group=torch.from_numpy(np.array([row.group for row in rows], np.int64)),
        too_long=too_long,
    )


def _flat(parts: Sequence[NDArray[Any]], kind: Any) -> NDArray[Any]:
    whole: NDArray[Any] = np.concatenate([np.zeros(0, kind), *parts]).astype(kind)
    return whole


def _turns(sampled: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Each stretch of sampled tokens is one model call; -1 outside. A row's first token is never sampled, so that no
    stretch reaches over two rows."""
    before = np.concatenate([[False], sampled[:-1]])
    return np.where(sampled, np.cumsum(sampled & ~before) - 1, -1).astype(np.int64)
