"""What is trained on: random Qwen3 models of the published sizes, and rollouts of a long-tailed length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from shoal.api.services.common import VersionSpan
from shoal.api.services.trajectories import EpisodeOutcome, Segment, TrainGroup, TrainTrajectory

VOCABULARY = 151_936


@dataclass(frozen=True)
class Size:
    """The shape of a model."""

    name: str
    hidden: int
    middle: int
    layers: int
    heads: int
    key_value_heads: int = 8
    head: int = 128
    vocabulary: int = VOCABULARY
    tied: bool = True


SIZES = {
    size.name: size
    for size in (
        Size("0.6B", 1024, 3072, 28, 16),
        Size("1.7B", 2048, 6144, 28, 16),
        Size("4B", 2560, 9728, 36, 32),
        Size("tiny", 64, 128, 2, 2, 1, 32, 2048),
    )
}


@dataclass(frozen=True)
class Load:
    """One step's rollouts: `groups` of `size` rows; a prompt, then a sampled answer of log-normal length."""

    groups: int = 8
    size: int = 8
    prompt: int = 256
    median: int = 600
    spread: float = 1.0
    longest: int = 4096

    def make(self, seed: int, vocabulary: int) -> list[TrainGroup]:
        """The groups; log-probs are those of a uniform policy, which a random model nearly is."""
        random = np.random.default_rng(seed)
        return [self._group(random, number, vocabulary) for number in range(self.groups)]

    def _group(self, random: np.random.Generator, number: int, vocabulary: int) -> TrainGroup:
        prompt = random.integers(0, vocabulary, self.prompt)
        rows = []
        for index in range(self.size):
            drawn = int(self.median * math.exp(self.spread * random.standard_normal()))
            length = min(max(1, drawn), self.longest - self.prompt)
            ids = [*prompt.tolist(), *random.integers(0, vocabulary, length).tolist()]
            start, end = self.prompt, self.prompt + length
            segment = Segment(
                token_ids=ids,
                loss_mask=[0] * start + [1] * length,
                logprobs=[0.0] * start + [-math.log(vocabulary)] * length,
                versions=[VersionSpan(version=0, start=start, end=end)],
            )
            reward = float(random.random() < 0.5)
            name = f"{number}-{index}"
            rows.append(TrainTrajectory(id=name, segments=[segment], reward=reward, outcome=EpisodeOutcome.OK, turns=1))
        return TrainGroup(id=str(number), task_id=str(number), trajectories=rows)


def make_model(size: Size, device: torch.device) -> Any:
    """A model of random float32 weights, made where it is used."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config: Any = Qwen3Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.middle,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
        head_dim=size.head,
        max_position_embeddings=8192,
        tie_word_embeddings=size.tied,
    )
    config._attn_implementation = "sdpa"
    made: Any = Qwen3ForCausalLM
    torch.manual_seed(0)
    with device:
        return made(config).eval()


def useful_flops(size: Size, groups: list[TrainGroup]) -> float:
    """Floating-point operations that one pass forward and backward over the groups needs, no recomputation counted.

    Six for each weight of a layer and token, and for each weight of the output layer and sampled token; attention is
    causal: 12 * layers * heads * head dimension * length squared / 2 for each row.
    """
    attention = size.hidden * size.head * (2 * size.heads + 2 * size.key_value_heads)
    body = size.layers * (attention + 3 * size.hidden * size.middle)
    total = 0.0
    for group in groups:
        for trajectory in group.trajectories:
            length, sampled = len(trajectory.segments[0].token_ids), sum(trajectory.segments[0].loss_mask)
            total += 6.0 * body * length + 6.0 * size.hidden * size.vocabulary * sampled
            total += 6.0 * size.layers * size.heads * size.head * length**2
    return total


def tokens_of(groups: list[TrainGroup]) -> int:
    """Tokens of all rows, prompts included."""
    return sum(len(segment.token_ids) for group in groups for row in group.trajectories for segment in row.segments)
