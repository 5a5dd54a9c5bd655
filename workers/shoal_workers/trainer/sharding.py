"""Weights spread over the processes of a gang by PyTorch's FSDP2, with float32 masters and compute in another type."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from shoal_workers.trainer.gang import Gang, settle
from shoal_workers.trainer.policy import Policy


def prepare(policy: Policy, gang: Gang, dtype: torch.dtype) -> None:
    """Make the policy ready to train: weights in float32, products in `dtype`.

    Where several processes train, or one on an accelerator in another type, FSDP2 shards the float32 weights and
    gathers layer by layer in `dtype`, so that no second copy of the model is whole.
    """
    for layer in layers(policy.model):
        layer.forward = functools.partial(_layer, policy, layer.forward)
    if gang.size == 1 and (dtype is torch.float32 or gang.device.type == "cpu"):
        return
    settle(gang)
    precision = MixedPrecisionPolicy() if dtype is torch.float32 else MixedPrecisionPolicy(dtype, torch.float32)
    for layer in layers(policy.model):
        fully_shard(layer, mp_policy=precision)
    fully_shard(policy, mp_policy=precision)


def _layer(policy: Policy, forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """A layer's forward pass; where the policy asks for it, only its input is kept for the way back."""
    if not policy.checkpointing or not torch.is_grad_enabled():
        return forward(*arguments, **named)
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **named)


def layers(model: nn.Module) -> list[nn.Module]:
    """The model's blocks, as its class names them; none where it names none."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def computing(policy: Policy, gang: Gang, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Forward passes inside compute in `dtype`; FSDP2 does so by itself."""
    if isinstance(policy, FSDPModule) or dtype is torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(gang.device.type, dtype)


def settled(policy: Policy) -> None:
    """Drop gathered weights: after a pass without backward, or after the weights were changed, they are of the past."""
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local(value: Tensor) -> Tensor:
    """This process's part of a weight, without gradient; the memory is the weight's own."""
    part = value.detach()
    return part.to_local() if isinstance(part, DTensor) else part


def whole(value: Tensor) -> Tensor:
    """The whole of a weight, without gradient; every process of the gang must ask at the same time."""
    value = value.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, given: Tensor) -> Tensor:
    """`value`, whole, spread as `given` is."""
    value = value.to(given.device)
    return distribute_tensor(value, given.device_mesh, given.placements) if isinstance(given, DTensor) else value


Snapshot = dict[str, Tensor]
"""This process's parts of all weights, in the CPU's memory."""


def snapshot(policy: Policy, dtype: torch.dtype) -> Snapshot:
    """The weights as they are, in the type that passes compute in: more would never be seen."""
    return {name: local(value).to("cpu", dtype, copy=True) for name, value in policy.model.named_parameters()}


@contextlib.contextmanager
def swapped(policy: Policy, other: Snapshot) -> Iterator[None]:
    """The policy has the weights `other` inside the block, and its own again after it."""
    own = {name: local(value).to("cpu", copy=True) for name, value in policy.model.named_parameters()}
    _assign(policy, other)
    try:
        yield
    finally:
        _assign(policy, own)


@torch.no_grad()
def _assign(policy: Policy, values: Snapshot) -> None:
    for name, value in policy.model.named_parameters():
        local(value).copy_(values[name])
    settled(policy)
