"""The model's log-probs of what an engine generated, by one plain forward pass."""

from __future__ import annotations

from pathlib import Path

import torch

from shoal_workers.trainer.model import load_model


def trainer_logprobs(model: Path, prompt: list[int], tokens: list[int], temperature: float) -> list[float]:
    """Of `tokens` after `prompt`, at the temperature, in float32."""
    with torch.no_grad():
        logits = load_model(str(model), "float32")(torch.tensor([[*prompt, *tokens]])).logits[0]
    every = torch.log_softmax(logits.float() / temperature, -1)
    return [float(every[len(prompt) - 1 + index, token]) for index, token in enumerate(tokens)]
