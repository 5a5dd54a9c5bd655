"""What a step's batch looked like, and whether engine and trainer agree on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from shoal.api.services.trajectories import TrainGroup
from shoal_workers.trainer.batching import TrainRows
from shoal_workers.trainer.scoring import distribution, micro_batches, picked


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
        "weight_mean": float(weights.mean()) if len(weights) else 0.0,
        "effective_share": float(weights.sum()) ** 2 / (len(weights) * squares) if squares else 0.0,
    }


@torch.no_grad()
def logprob_gap(
    model: nn.Module,
    batch: TrainRows,
    known: Mapping[int, Mapping[str, Tensor]],
    scored: Mapping[int, Tensor],
    size: int,
    temperature: float,
) -> dict[str, float]:
    """Greatest |trainer - engine| log-prob over the sampled tokens, each under exactly the version that sampled it.

    `known` are weights by version; `scored` are log-probs [N] of the whole batch under a version, where they are there
    already. Scoring is at `temperature`, of `size` rows at once. Tokens of other versions are not compared;
    `logprob_checked` is the share that was. In float32 the gap is rounding (1e-6 to 1e-5): a missed update or a stale
    key-value cache shows as a gap orders of magnitude larger.
    """
    versions = batch.versions[batch.sampled]
    behaviour = batch.behaviour[batch.sampled]
    gap, checked = 0.0, 0
    for version in torch.unique(versions).tolist():
        of_version = versions == version
        if version in scored:
            own = scored[version].cpu()
        elif version in known:
            own = _scores(model, batch, version, known[version], size, temperature)
        else:
            continue
        gap = max(gap, float((own - behaviour)[of_version].abs().max()))
        checked += int(of_version.sum())
    return {"logprob_gap": gap, "logprob_checked": checked / max(1, len(versions))}


def _scores(
    model: nn.Module, batch: TrainRows, version: int, state: Mapping[str, Tensor], size: int, temperature: float
) -> Tensor:
    """Log-probs [N] under `state`, computed only for rows with tokens of `version` and 0 elsewhere."""
    scores = torch.zeros_like(batch.behaviour)
    wanted = torch.nonzero((batch.versions == version).any(1))[:, 0]
    for rows in micro_batches(wanted, size):
        log_distribution, tokens = distribution(model, batch, rows, temperature, state)
        part = torch.zeros(len(rows), batch.behaviour.shape[1])
        part[batch.sampled[rows]] = picked(log_distribution, tokens).cpu()
        scores[rows] = part
    return scores[batch.sampled]
