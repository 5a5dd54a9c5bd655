"""A learner's weights and moments, whole and by name: the same for any number of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from shoal_workers.trainer.sharding import like, local, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

State = dict[str, Tensor]


def weights(model: nn.Module, dtype: torch.dtype | None = None) -> State:
    """All weights and kept buffers on the CPU, floating ones in `dtype` (None: their own).

    Tied weights stay one tensor: two copies would be two different values of one parameter. Every process of the gang
    must ask at the same time.
    """
    names = {id(value): name for name, value in model.named_parameters()}
    tied = {name: names[id(value)] for name, value in model.named_parameters(remove_duplicate=False)}
    given: State = {}
    for name, value in model.state_dict(keep_vars=True).items():
        first = tied.get(name, name)
        if first not in given:
            part = whole(value)
            given[first] = part.to("cpu", dtype if dtype and part.is_floating_point() else part.dtype, copy=True)
        given[name] = given[first]
    return given


def of(model: PreTrainedModel, optimizer: Optimizer) -> dict[str, Any]:
    """Weights and the optimizer's moments by the weights' names."""
    moments = {
        name: {key: _kept(part) for key, part in optimizer.state[value].items()}
        for name, value in model.named_parameters()
        if value in optimizer.state
    }
    return {"model": weights(model), "moments": moments}


@torch.no_grad()
def load(model: PreTrainedModel, optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Go on from what `of` gave; raises ValueError where it is of another model."""
    parameters = dict(model.named_parameters())
    _compare(model, saved["model"])
    for name, value in model.state_dict(keep_vars=True).items():
        local(value).copy_(local(like(saved["model"][name].to(value.dtype), value)))
    moments = saved["moments"] if "moments" in saved else _by_name(model, saved["optimizer"])
    optimizer.state.clear()
    for name, parts in moments.items():
        given = parameters[name]
        optimizer.state[given] = {
            key: like(part.to(given.dtype), given).clone() if part.dim() else part.clone()
            for key, part in parts.items()
        }


def _compare(model: nn.Module, saved: State) -> None:
    own = {name: tuple(value.shape) for name, value in model.state_dict(keep_vars=True).items()}
    other = {name: tuple(value.shape) for name, value in saved.items()}
    wrong = sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{len(wrong)} of {len(own.keys() | other.keys())} weights differ, first {name}: the model has"
            f" {own.get(name, 'none')}, the checkpoint {other.get(name, 'none')}"
        )


def _by_name(model: nn.Module, saved: dict[str, Any]) -> dict[str, State]:
    """The moments of a checkpoint of an earlier release, which numbered the weights."""
    names = [name for name, _ in model.named_parameters()]
    return {names[number]: parts for number, parts in saved["state"].items()}


def _kept(part: Tensor) -> Tensor:
    return whole(part).to("cpu", copy=True)
