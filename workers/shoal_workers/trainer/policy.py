"""The model as the learner uses it: rows in, log-probs of their sampled tokens out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from shoal_workers.configuration import ConfigurationError
from shoal_workers.trainer.packing import MicroBatch
from shoal_workers.trainer.vocabulary import Head, Reference, Terms, vocabulary_terms

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE_TOKENS = 12
ALIKE = 1e-3
"""Relative difference that rounding explains in float32; a wrong formula's is of order 1."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What was measured of a model: how its logits follow from its output layer, and whether packed rows stay apart."""

    scale: float
    cap: float
    packs: bool


class Policy(nn.Module):
    """A causal language model whose logits are never whole; `traits` are measured where not given.

    `checkpointing`: each layer keeps its input alone, and the rest is computed again backward.

    Everything goes through `forward`, so that what gathers sharded weights around a module's forward finds it there.
    """

    def __init__(self, model: PreTrainedModel, temperature: float, traits: Traits | None = None) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.checkpointing = False
        self.traits = traits or measure(model)

    def forward(self, micro: MicroBatch, reference: Reference | None, hidden_only: bool) -> tuple[Tensor, ...]:
        """Log-probs, entropies and divergences [m] of the sampled tokens, or the hidden states [m, D] before them."""
        states = hidden_states(self.model, micro.token_ids, micro.position_ids)
        states = states.reshape(-1, states.shape[-1]).index_select(0, micro.places)
        if hidden_only:
            return (states,)
        terms = vocabulary_terms(states, self.head(), micro.targets, self.temperature, reference)
        return terms.logprobs, terms.entropy, terms.divergence if terms.divergence is not None else terms.entropy

    def terms(self, micro: MicroBatch, reference: Reference | None = None) -> Terms:
        """The terms of the micro-batch's sampled tokens."""
        logprobs, entropy, divergence = self(micro, reference, False)
        return Terms(logprobs, entropy, divergence if reference is not None else None)

    def hidden(self, micro: MicroBatch) -> Tensor:
        """The last hidden states [m, D] before the micro-batch's sampled tokens."""
        states: Tensor = self(micro, None, True)[0]
        return states

    def head(self) -> Head:
        """The output layer with the weights as they are at this moment."""
        layer: Any = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return Head(layer.weight, getattr(layer, "bias", None), self.traits.scale, self.traits.cap)


def hidden_states(model: PreTrainedModel, token_ids: Tensor, position_ids: Tensor | None) -> Tensor:
    """The last hidden states [n, T, D]. Padding is on the right of a causal model: it changes nothing before it."""
    arguments: dict[str, Any] = {"input_ids": token_ids, "use_cache": False}
    if position_ids is not None:
        arguments["position_ids"] = position_ids
    states: Tensor = model.base_model(**arguments)[0]
    return states


@torch.no_grad()
def measure(model: PreTrainedModel) -> Traits:
    """Compare the model's own logits with its output layer's; raises ConfigurationError where these are not it."""
    layer: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if layer is None or model.base_model is model:
        raise ConfigurationError("model", f"{type(model).__name__} is no causal language model: it has no output layer")
    words = int(layer.weight.shape[0])
    tokens = (torch.arange(PROBE_TOKENS, device=layer.weight.device) * 7 + 3) % words
    own = model(input_ids=tokens[None], use_cache=False).logits[0].float()
    states = hidden_states(model, tokens[None], None)[0]
    raw = nn.functional.linear(states, layer.weight, getattr(layer, "bias", None)).float()
    text_config: Any = model.config.get_text_config()
    cap = float(getattr(text_config, "final_logit_softcapping", None) or 0.0)
    linear = cap * torch.atanh((own / cap).clamp(-0.999, 0.999)) if cap else own
    inside = own.abs() < 0.9 * cap if cap else torch.ones_like(own, dtype=torch.bool)
    scale = float((raw * linear)[inside].sum() / (raw * raw)[inside].sum().clamp(min=1e-30))
    scale = 1.0 if abs(scale - 1.0) < ALIKE else float(f"{scale:.5g}")
    ours = Head(layer.weight, getattr(layer, "bias", None), scale, cap).logits(states)
    if not _alike(ours, own):
        gap = float((ours - own).abs().max())
        raise ConfigurationError(
            "model",
            f"the logits of {type(model).__name__} are not its output layer times a scale, with a cap: they differ by"
            f" up to {gap:.2g}, and log-probs computed in chunks would be wrong",
        )
    return Traits(scale, cap, _packs(model, tokens, states))


def _packs(model: PreTrainedModel, tokens: Tensor, alone: Tensor) -> bool:
    """Whether a row's hidden states stay the same behind another row in one sequence."""
    packed = torch.cat([tokens.flip(0), tokens])[None]
    positions = torch.arange(len(tokens), device=tokens.device).repeat(2)[None]
    try:
        states = hidden_states(model, packed, positions)[0, len(tokens) :]
    except TypeError:
        return False
    return _alike(states, alone)


def _alike(one: Tensor, other: Tensor) -> bool:
    return bool(torch.linalg.vector_norm(one - other) <= ALIKE * torch.linalg.vector_norm(other) + 1e-6)
