"""What a step's batch looked like, and whether engine and trainer agree on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from shoal.api.services.trajectories import TrainGroup
from shoal_workers.trainer.batching import TrainRows
from shoal_workers.trainer.scoring import Passes, score
from shoal_workers.trainer.sharding import Snapshot, swapped

VERIFY_ROWS = 64
"""Rows of an older version that are scored again under it: the gap of a fault shows in any of them, and scoring all
would cost as much as a forward pass of the whole batch in every step."""


def summary(groups: Sequence[TrainGroup], batch: TrainRows, weights: Tensor, version: int) -> dict[str, float]:
    """Rewards, staleness in versions, and how even the importance weights [N] are; 0 for a mean or maximum of nothing.

    `effective_share` is Kish's effective sample size over the size, (sum w)^2 / (n sum w^2): 1 where all weigh alike.
    """
    rewards = torch.tensor([trajectory.reward for group in groups for trajectory in group.trajectories])
    flat = [len({trajectory.reward for trajectory in group.trajectories}) == 1 for group in groups]
    ages = (version - batch.versions[batch.sampled]).float()
    squares = float((weights**2).sum())
    return {
        "reward": float(rewards.float().mean()),
        "trajectories": float(len(rewards)),
        "flat_groups": sum(flat) / len(flat),
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
) -> tuple[dict[str, float], dict[int, float]]:
    """Greatest |trainer - engine| log-prob over the sampled tokens, each under exactly the version that sampled it; as
    figures, and by version.

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
        gap = (own - behaviour)[compared].abs().nan_to_num(nan=float("inf")).max()
        gaps[version] = float(gap)
        checked += int(compared.sum())
    figures = {"logprob_gap": max(gaps.values(), default=0.0), "logprob_checked": checked / max(1, len(versions))}
    return figures, gaps


def _rows_of(batch: TrainRows, version: int) -> Tensor:
    """The first rows with a token of the version, at most as many as are worth scoring again."""
    row = torch.repeat_interleave(torch.arange(batch.rows), batch.lengths)
    rows: Tensor = torch.unique(row[batch.versions == version])
    return rows[:VERIFY_ROWS]
