"""How many tokens go through the model at once: found by what a few of them were measured to take."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from shoal_workers.trainer.packing import MicroBatch
from shoal_workers.trainer.scoring import Passes
from shoal_workers.trainer.sharding import computing, local, settled

logger = logging.getLogger(__name__)

PROBES = (256, 1024)
"""Tokens of the two measured passes: their difference is what a token takes, free of what a pass takes anyway."""
MOST_TOKENS = 65_536
CPU_TOKENS = 8_192
"""More at once is no faster: matrices are at full speed from a few hundred rows, and caches hold ever less of them."""
SPARE = 0.8
"""Share of the free memory that is planned with; fragments, and rows longer than were measured, take the rest."""
MOMENT_BYTES = 8
"""Adam's two float32 moments of a weight, which come with the first update."""


def fitting_tokens(passes: Passes, longest: int) -> int:
    """Tokens of a micro-batch that fit into the memory that is free now, by two measured passes.

    `longest`: tokens that the model takes. Where memory cannot be measured it is a number that fits most machines.
    """
    most = MOST_TOKENS if passes.gang.device.type == "cuda" else CPU_TOKENS
    sizes = [min(size, longest) for size in PROBES]
    if sizes[0] == sizes[1]:
        return most
    _peak(passes, sizes[0])  # Once for what is allocated once: libraries' workspaces, and the gradients.
    peaks = [_peak(passes, size) for size in sizes]
    free = _free(passes.gang.device)
    if free is None or any(peak is None for peak in peaks):
        return most
    small, large = (float(peak or 0) for peak in peaks)
    per_token = max(1.0, (large - small) / (sizes[1] - sizes[0]))
    once = max(0.0, small - per_token * sizes[0])
    moments = MOMENT_BYTES * sum(local(value).numel() for value in passes.policy.parameters() if value.requires_grad)
    tokens = int((SPARE * (free - moments) - once) / per_token)
    tokens = passes.gang.least(max(1, min(most, tokens)))
    extra = {"bytes_per_token": int(per_token), "free_bytes": int(free), "tokens": tokens}
    logger.info("measured what a token takes", extra=extra)
    if tokens < longest:
        needed = int((per_token * longest + once) / SPARE + moments)
        logger.warning("the longest sequence may not fit into memory", extra=extra | {"needed_bytes": needed})
    return tokens


def _peak(passes: Passes, tokens: int) -> int | None:
    """Bytes that a forward and backward pass of a row of `tokens` takes above what was there before."""
    device = passes.gang.device
    ids = torch.arange(tokens, device=device) % 7
    places = torch.arange(tokens - 1, device=device)
    micro = MicroBatch(ids[None], None, places, ids[1:], places, tokens)
    before = _start(device)
    with computing(passes.policy, passes.gang, passes.dtype):
        terms = passes.policy.terms(micro)
    (terms.logprobs.sum() * 0.0).backward()  # type: ignore[no-untyped-call]
    after = _end(device)
    settled(passes.policy)
    return None if before is None or after is None else after - before


def _start(device: torch.device) -> int | None:
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _end(device: torch.device) -> int | None:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def _free(device: torch.device) -> int | None:
    """Bytes that can still be had: of the device, or of this machine within the limit of this process's container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - used)
