"""What a step's batch looked like, and whether engine and trainer agree on it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from shoal_workers.tokens.arrays import TokenArrays
from shoal_workers.trainer.batching import TrainRows
from shoal_workers.trainer.scoring import Passes, score
from shoal_workers.trainer.sharding import Snapshot, swapped

VERIFY_ROWS = 64
"""Rows of an older version that are scored again under it: the gap of a fault shows in any of them, and scoring all
would cost as much as a forward pass of the whole batch in every step."""

NO_NUMBER = 1e9
"""The gap of a log-prob that is not finite: figures travel as JSON, which has no word for infinity."""
FLOAT32_GAP = 1e-3
"""A hundred times what float32 rounding was seen to make, and far below what one missed update makes."""
SHORT_GAP = 1.0
"""In bfloat16 and float16 a logit of 20 is rounded by up to 0.08, and the worst of many tokens differs by several times
that; weights of another version, or an output layer of one, differ by more."""


def summary(arrays: TokenArrays, batch: TrainRows, weights: Tensor, version: int) -> dict[str, float]:
    """Rewards, staleness in versions, and how even the importance weights [N] are; 0 for a mean or maximum of nothing.

    `effective_share` is Kish's effective sample size over the size, (sum w)^2 / (n sum w^2): 1 where all weigh alike.
    """
    rewards = arrays.rewards
    flat = [np.ptp(rewards[start:end]) == 0 for start, end in pairwise(arrays.group_trajectories) if end > start]
    ages = (version - batch.versions[batch.sampled]).float()
    squares = float((weights**2).sum())
    return {
        "reward": float(rewards.mean()) if len(rewards) else 0.0,
        "trajectories": float(len(rewards)),
        "flat_groups": float(np.mean(flat)) if flat else 0.0,
        "tokens": float(batch.sampled.sum()),
        "turns": float(batch.turn.max() + 1) if batch.rows else 0.0,
        "segments_too_long": float(batch.too_long),
        "staleness_mean": float(ages.mean()) if len(ages) else 0.0,
        "staleness_max": float(ages.max()) if len(ages) else 0.0,
        "off_policy_share": float((ages > 0).float().mean()) if len(ages) else 0.0,
        "weight_mean": float(weights.mean()) if len(weights) else 0.0,
        "effective_share": float(weights.sum()) ** 2 / (len(weights) * squares) if squares else 0.0,
    }


def mismatch(batch: TrainRows, old_logprobs: Tensor) -> dict[str, float]:
    """How far the trainer's weights at the start of the step [N] are from those (and the program) that sampled.

    `mismatch_kl` estimates KL(behaviour || trainer) as the mean of exp(d) - d - 1 with d = log trainer - log behaviour;
    `second_moment` is the mean of d squared, which M2PO (arXiv 2510.01161) bounds.
    """
    difference = old_logprobs.cpu() - batch.behaviour[batch.sampled]
    return {
        "mismatch_kl": float((difference.exp() - difference - 1).mean()),
        "second_moment": float((difference**2).mean()),
    }


def logprob_gap(
    passes: Passes, batch: TrainRows, known: Mapping[int, Snapshot], scored: Mapping[int, Tensor]
) -> dict[str, float]:
    """Greatest |trainer - engine| log-prob over the sampled tokens, each under exactly the version that sampled it, and
    the version where it is greatest.

    `known` are weights by version; `scored` are log-probs [N] of the whole batch under a version, where they are there
    already. Tokens of other versions are not compared; `logprob_checked` is the share that was. In float32 the gap is
    rounding (1e-6 to 1e-5): a missed update or a stale key-value cache shows as a gap orders of magnitude larger.
    """
    versions = batch.versions[batch.sampled]
    behaviour = batch.behaviour[batch.sampled]
    gaps: dict[int, float] = {}
    checked = 0
    for version in torch.unique(versions).tolist():
        compared = versions == version
        if version in scored:
            own = scored[version].cpu()
        elif version in known:
            rows = _rows_of(batch, version)
            compared &= batch.of_tokens(torch.isin(torch.arange(batch.rows), rows))
            with swapped(passes.policy, known[version]):
                own = score(passes, batch, rows.tolist()).logprobs.cpu()
        else:
            continue
        # A difference that is no number would pass for small in a comparison.
        gap = (own - behaviour)[compared].abs().nan_to_num(nan=NO_NUMBER, posinf=NO_NUMBER).max()
        gaps[version] = float(gap)
        checked += int(compared.sum())
    worst = max(gaps, key=lambda version: gaps[version], default=-1)
    return {
        "logprob_gap": gaps.get(worst, 0.0),
        "logprob_gap_version": float(worst),
        "logprob_checked": checked / max(1, len(versions)),
    }


def gap_bound(dtype: torch.dtype, top_p: float) -> float:
    """The greatest gap that rounding explains; engines of another program round differently.

    With `top_p` below 1 engines report log-probs of the truncated distribution, and there is no bound.
    """
    if top_p < 1:
        return float("inf")
    return FLOAT32_GAP if dtype is torch.float32 else SHORT_GAP


def _rows_of(batch: TrainRows, version: int) -> Tensor:
    """The first rows with a token of the version, at most as many as are worth scoring again."""
    row = torch.repeat_interleave(torch.arange(batch.rows), batch.lengths)
    rows: Tensor = torch.unique(row[batch.versions == version])
    return rows[:VERIFY_ROWS]
