"""Trajectories become tensors without losing which token is which."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.services.common import VersionSpan
from shoal.api.services.trajectories import Batch, EpisodeOutcome, Segment, TrainGroup, TrainTrajectory
from shoal_workers.tokens.arrays import from_batch
from shoal_workers.trainer import batching
from shoal_workers.trainer.algorithm import AdvantageEstimator
from shoal_workers.trainer.algorithm.advantages import Grpo, Rloo
from shoal_workers.trainer.batching import TrainRows
from tests.trainer.fakes import trajectory, two_armed


def make_rows(groups: list[TrainGroup], estimator: AdvantageEstimator, max_length: int) -> TrainRows:
    """The rows of the groups as they arrive."""
    return batching.make_rows(from_batch(Batch(id="b", groups=groups, expires_at=0)), estimator, max_length)


def _segment(mask: list[int]) -> Segment:
    spans = [VersionSpan(version=index % 3, start=index, end=index + 1) for index, one in enumerate(mask) if one]
    return Segment(
        token_ids=list(range(10, 10 + len(mask))),
        loss_mask=mask,
        logprobs=[-0.1 * index if one else 0.0 for index, one in enumerate(mask)],
        versions=spans,
    )


def _group(masks: list[list[int]], rewards: list[float]) -> TrainGroup:
    rows = [
        TrainTrajectory(id=f"t{index}", segments=[_segment(mask)], reward=reward, outcome=EpisodeOutcome.OK, turns=1)
        for index, (mask, reward) in enumerate(zip(masks, rewards, strict=True))
    ]
    return TrainGroup(id="g", task_id="t", trajectories=rows)


def test_two_turns_of_two_trajectories() -> None:
    batch = make_rows([_group([[0, 0, 1, 1, 0, 1], [0, 1]], [1.0, 0.0])], Rloo(), 128)
    assert batch.token_ids.tolist() == [10, 11, 12, 13, 14, 15, 10, 11]
    assert batch.starts.tolist() == [0, 6, 8]
    assert batch.sampled.tolist() == [False, False, True, True, False, True, False, True]
    assert batch.turn.tolist() == [-1, -1, 0, 0, -1, 1, -1, 2]
    assert batch.versions.tolist() == [-1, -1, 2, 0, -1, 2, -1, 1]
    assert batch.advantages.tolist() == [1.0, -1.0]
    assert batch.of_tokens(batch.trajectory).tolist() == [0, 0, 0, 1]


@given(masks=st.lists(st.lists(st.integers(0, 1), min_size=2, max_size=9), min_size=2, max_size=5))
def test_only_sampled_tokens_count(masks: list[list[int]]) -> None:
    masks[0][1] = 1
    batch = make_rows([_group(masks, [float(index) for index in range(len(masks))])], Grpo(), 128)
    kept = [mask for mask in masks if any(mask[1:])]
    assert batch.counts.tolist() == [sum(mask[1:]) for mask in kept]
    assert bool((batch.behaviour[~batch.sampled] == 0).all())
    assert bool((batch.versions[batch.sampled] >= 0).all())
    turns = batch.turn[batch.sampled]
    assert sorted(set(turns.tolist())) == list(range(int(turns.max()) + 1))
    assert torch.equal(turns, turns.sort().values)


def test_segments_of_one_trajectory_share_its_advantage() -> None:
    first = TrainTrajectory(
        id="a", segments=[_segment([0, 1]), _segment([0, 1, 1])], reward=1, outcome=EpisodeOutcome.OK, turns=2
    )
    group = TrainGroup(id="g", task_id="t", trajectories=[first, trajectory("b", 0.0, [1], [2], [-1.0])])
    batch = make_rows([group, group], Rloo(), 128)
    assert batch.trajectory.tolist() == [0, 0, 1, 2, 2, 3]
    assert batch.group.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.advantages.tolist() == [1.0, 1.0, -1.0] * 2


def test_a_branch_is_trained_behind_the_prefix_that_it_shares() -> None:
    root = _segment([0, 1, 1, 0, 1])
    branch = _segment([1, 1]).model_copy(update={"parent": 0, "shared": 3, "token_ids": [20, 21]})
    leaf = _segment([0, 1]).model_copy(update={"parent": 1, "shared": 4, "token_ids": [30, 31]})
    tree = TrainTrajectory(id="a", segments=[root, branch, leaf], reward=1, outcome=EpisodeOutcome.OK, turns=3)
    group = TrainGroup(id="g", task_id="t", trajectories=[tree, trajectory("b", 0.0, [1], [2], [-1.0])])
    batch = make_rows([group], Rloo(), 128)
    rows = [batch.token_ids[start:end].tolist() for start, end in pairwise(batch.starts.tolist())]
    assert rows == [[10, 11, 12, 13, 14], [10, 11, 12, 20, 21], [10, 11, 12, 20, 30, 31], [1, 2]]
    trained = [batch.sampled[start:end].tolist() for start, end in pairwise(batch.starts.tolist())]
    assert trained[1] == [False, False, False, True, True]
    assert trained[2] == [False] * 5 + [True]
    # Each token that was sampled is trained once, wherever it is context as well.
    assert batch.counts.tolist() == [3, 2, 1, 1]
    assert make_rows([group], Rloo(), 5).too_long == 1


def test_segments_longer_than_the_model_takes_are_left_out_and_counted() -> None:
    groups = [_group([[0, 1], [0, 0, 1], [0, 1, 1, 1]], [2.0, 1.0, 0.0])]
    batch = make_rows(groups, Rloo(), 3)
    assert batch.too_long == 1
    assert batch.lengths.tolist() == [2, 3]
    # Rewards are compared over the whole group: what was too long to learn from was played all the same.
    assert batch.advantages.tolist() == [1.5, 0.0]
    assert batch.trajectory.tolist() == [0, 1]
    assert make_rows(groups, Rloo(), 4).too_long == 0


@pytest.mark.parametrize(
    ("groups", "length", "too_long"),
    [(two_armed(0), 2, 4), ([_group([[0, 0], [1, 0]], [0.0, 1.0])], 128, 0), ([], 128, 0)],
)
def test_a_batch_without_a_token_to_learn_from_has_no_rows(
    groups: list[TrainGroup], length: int, too_long: int
) -> None:
    batch = make_rows(groups, Grpo(), length)
    assert (batch.rows, batch.too_long, int(batch.sampled.sum())) == (0, too_long, 0)
    assert batch.of_tokens(batch.advantages).tolist() == []
    assert batch.versions[batch.sampled].tolist() == []
