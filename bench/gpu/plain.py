"""The baseline: GRPO as a plain PyTorch loop that keeps the log-probs of the whole vocabulary.

Float32 weights, autocast, AdamW, rows padded on the right in the order in which they came; the loss is the same clipped
policy gradient. The number of rows at once is the largest that fits, found by trying.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shoal.api.services.trajectories import TrainGroup

ROWS_AT_ONCE = (8, 4, 2, 1)


@dataclass(frozen=True)
class PlainResult:
    """Of the timed steps: seconds of the fastest, peak bytes, and the rows that fit."""

    seconds: float
    peak: int
    rows: int


def run(model: torch.nn.Module, batches: list[list[TrainGroup]], dtype: torch.dtype, rate: float) -> PlainResult | None:
    """Time the loop; None where not even one row at a time fits."""
    for rows in ROWS_AT_ONCE:
        try:
            return _timed(model, batches, dtype, rate, rows)
        except torch.OutOfMemoryError:
            model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
    return None


def _timed(
    model: torch.nn.Module, batches: list[list[TrainGroup]], dtype: torch.dtype, rate: float, rows: int
) -> PlainResult:
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=device.type == "cuda")
    seconds = []
    reset(device)
    for batch in batches:
        wait(device)
        began = time.perf_counter()
        _step(model, optimizer, batch, dtype, rows)
        wait(device)
        seconds.append(time.perf_counter() - began)
    return PlainResult(min(seconds[1:]), peak(device), rows)


def _step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, groups: list[TrainGroup], dtype: torch.dtype, rows: int
) -> None:
    device = next(model.parameters()).device
    items = []
    for group in groups:
        rewards = np.array([row.reward for row in group.trajectories])
        advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
        for row, advantage in zip(group.trajectories, advantages, strict=True):
            items.append((row.segments[0], float(advantage)))
    count = sum(sum(segment.loss_mask) for segment, _ in items)
    for start in range(0, len(items), rows):
        part = items[start : start + rows]
        width = max(len(segment.token_ids) for segment, _ in part)
        ids = torch.zeros(len(part), width, dtype=torch.long)
        mask = torch.zeros(len(part), width)
        for index, (segment, _) in enumerate(part):
            ids[index, : len(segment.token_ids)] = torch.tensor(segment.token_ids)
            mask[index, : len(segment.token_ids)] = torch.tensor(segment.loss_mask, dtype=torch.float32)
        advantage = torch.tensor([value for _, value in part], device=device)[:, None]
        loss = _loss(model, ids.to(device), mask.to(device), advantage, dtype) / count
        loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _loss(model: torch.nn.Module, ids: Tensor, mask: Tensor, advantage: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.autocast(ids.device.type, dtype):
        logits = model(input_ids=ids, use_cache=False).logits
    logprobs = torch.log_softmax(logits[:, :-1].float(), dim=-1).gather(-1, ids[:, 1:, None])[..., 0]
    ratio = (logprobs - logprobs.detach()).exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
    return -(gain * mask[:, 1:]).sum()


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def reset(device: torch.device) -> None:
    """Count peak memory from here."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: torch.device) -> int:
    """Greatest memory since `reset`; 0 where the device does not say."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
