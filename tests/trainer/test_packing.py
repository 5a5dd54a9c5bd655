"""Micro-batches hold every row once, keep to their budget, and compute little for nothing."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.services.trajectories import Batch, TrainGroup
from shoal_workers.tokens.arrays import from_batch
from shoal_workers.trainer.algorithm.advantages import Grpo
from shoal_workers.trainer.batching import TrainRows, make_rows
from shoal_workers.trainer.packing import lay_out, plan
from tests.trainer.fakes import trajectory

LENGTHS = st.lists(st.integers(2, 60), min_size=1, max_size=40)


@given(lengths=LENGTHS, budget=st.integers(1, 200), packed=st.booleans())
def test_every_row_goes_once_within_the_budget(lengths: list[int], budget: int, packed: bool) -> None:
    planned = plan(lengths, range(len(lengths)), budget, packed)
    assert sorted(row for bins in planned for rows in bins for row in rows) == list(range(len(lengths)))
    for bins in planned:
        width = max(sum(lengths[row] for row in rows) for rows in bins)
        assert width * len(bins) <= budget or [len(rows) for rows in bins] == [1]
        assert packed or all(len(rows) == 1 for rows in bins)


@given(lengths=LENGTHS, most=st.integers(1, 5))
def test_no_more_rows_than_allowed_lie_side_by_side(lengths: list[int], most: int) -> None:
    planned = plan(lengths, range(len(lengths)), 10_000, packed=False, most=most)
    assert max(len(bins) for bins in planned) <= most


@pytest.mark.parametrize("spread", [0.6, 1.0, 1.4])
@pytest.mark.parametrize("budget", [2048, 8192])
def test_most_of_what_is_computed_is_tokens(spread: float, budget: int) -> None:
    dice = random.Random(0)
    lengths = [min(2000, 40 + int(200 * math.exp(dice.gauss(0, spread)))) for _ in range(256)]
    planned = plan(lengths, range(256), budget)
    computed = sum(len(bins) * max(sum(lengths[row] for row in rows) for rows in bins) for bins in planned)
    assert sum(lengths) / computed >= 0.95


def _batch(answers: list[int]) -> TrainRows:
    rows = [
        trajectory(str(place), float(place), [3, 4], list(range(10, 10 + length)), [-1.0] * length)
        for place, length in enumerate(answers)
    ]
    groups = [TrainGroup(id="g", task_id="t", trajectories=rows)]
    return make_rows(from_batch(Batch(id="b", groups=groups, expires_at=0)), Grpo(), 128)


def test_a_sampled_token_is_found_by_the_place_before_it() -> None:
    batch = _batch([3, 1, 2])
    micro = lay_out(batch, [[2, 1], [0]])
    assert micro.token_ids.tolist() == [[3, 4, 10, 11, 3, 4, 10], [3, 4, 10, 11, 12, 0, 0]]
    assert micro.position_ids is not None
    assert micro.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 4, 0, 1]]
    assert micro.tokens.tolist() == [4, 5, 3, 0, 1, 2]
    assert torch.equal(batch.token_ids[batch.sampled][micro.tokens], micro.targets)
    assert torch.equal(micro.token_ids.reshape(-1)[micro.places + 1], micro.targets)
    assert (micro.used, micro.computed) == (12, 14)
    assert lay_out(batch, [[0], [1]]).position_ids is None
