"""Log-probs of given tokens under a causal language model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from shoal_workers.trainer.batching import TrainRows


def distribution(
    model: nn.Module, batch: TrainRows, rows: Tensor, temperature: float, state: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probs [n, V] of the vocabulary at the n sampled tokens of `rows`, and the tokens [n]; in float32, row by row.

    `temperature` (above 0) is the one that the tokens were drawn at: the policy that acted, and is trained, is
    softmax(logits / temperature). `state` scores with those weights in place of the model's own. Padding is on the
    right of a causal model, so it changes nothing before it and needs no attention mask.
    """
    length = int(batch.lengths[rows].max())
    token_ids = batch.token_ids[rows, :length]
    sampled = batch.sampled[rows, :length]
    device = next(model.parameters()).device
    arguments = {"input_ids": token_ids.to(device), "use_cache": False}
    if state is None:
        output = model(**arguments)
    else:
        placed = {name: value.to(device) for name, value in state.items()}
        output = torch.func.functional_call(model, placed, (), arguments)
    logits = output.logits[:, :-1][sampled[:, 1:].to(device)]
    # In place, on what indexing has just copied: another [n, V] would cost as much memory as the log-probs themselves.
    return torch.log_softmax(logits.float().div_(temperature), dim=-1), token_ids[sampled].to(device)


def picked(log_distribution: Tensor, tokens: Tensor) -> Tensor:
    """The log-probs [n] of the tokens [n]."""
    return log_distribution.gather(-1, tokens[:, None]).squeeze(-1)


def micro_batches(rows: Tensor, size: int) -> Iterator[Tensor]:
    """`rows` in parts of at most `size`."""
    yield from torch.split(rows, size)
