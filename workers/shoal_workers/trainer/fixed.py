"""The fixed prompt whose log-probs go with every published version, for engines to compare their own with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from shoal.api.services.models import FixedPrompt

# Enough for rows from all over the embeddings and the output layer, and a single short forward pass.
LENGTH = 64
# A prime larger than any vocabulary's common factors, so that the tokens are spread over it without a pattern.
_STRIDE = 7919


def fixed_tokens(vocabulary: int, longest: int) -> list[int]:
    """The prompt: token ids spread over the vocabulary, at most half of what the model can hold."""
    return [(_STRIDE * (index + 1)) % vocabulary for index in range(max(2, min(LENGTH, longest // 2)))]


@torch.no_grad()
def fixed_prompt(folder: Path) -> FixedPrompt | None:
    """The log-probs that the model in `folder` gives the prompt; None where they are not finite (engines say why).

    The model is read back from what was written, on the CPU: so the proof is of the files, and needs nothing of a
    learner whose weights are spread over processes, or are kept in another type than they are published in.
    """
    import transformers

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    model.eval()
    config = model.config.get_text_config()
    tokens = fixed_tokens(int(config.vocab_size), int(getattr(config, "max_position_embeddings", 2 * LENGTH)))
    logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, :-1].float()
    chosen = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(tokens)[1:, None])[:, 0].tolist()
    if not all(math.isfinite(value) for value in chosen):
        return None
    return FixedPrompt(token_ids=tokens, logprobs=chosen, dtype=str(model.dtype).removeprefix("torch."))
