"""The trainer's log-probs of what an engine generated."""

from __future__ import annotations

from pathlib import Path

import torch

from shoal.api.services.common import VersionSpan
from shoal.api.services.trajectories import EpisodeOutcome, Segment, TrainGroup, TrainTrajectory
from shoal_workers.trainer.algorithm.advantages import Grpo
from shoal_workers.trainer.batching import make_rows
from shoal_workers.trainer.model import load_model
from shoal_workers.trainer.scoring import distribution, picked


def trainer_logprobs(model: Path, prompt: list[int], tokens: list[int], temperature: float) -> list[float]:
    """As a step of the trainer scores `tokens` after `prompt`, in float32."""
    start, end = len(prompt), len(prompt) + len(tokens)
    segment = Segment(
        token_ids=[*prompt, *tokens],
        loss_mask=[0] * start + [1] * len(tokens),
        logprobs=[0.0] * end,
        versions=[VersionSpan(version=0, start=start, end=end)],
    )
    row = TrainTrajectory(id="t", segments=[segment], reward=0.0, outcome=EpisodeOutcome.OK, turns=1)
    batch = make_rows([TrainGroup(id="g", task_id="t", trajectories=[row])], Grpo(), end)
    with torch.no_grad():
        of_all, of_tokens = distribution(load_model(str(model), "float32"), batch, torch.tensor([0]), temperature)
    return [float(value) for value in picked(of_all, of_tokens)]
