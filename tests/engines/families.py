"""Tiny models of the families that people train, made with transformers from a configuration alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.models import BOS, HEAD, HIDDEN, IM_END, MAX_LENGTH, PAD, VOCABULARY, write_tokenizer

_SHAPE: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": HEAD,
    "max_position_embeddings": MAX_LENGTH,
    "initializer_range": 0.2,
    "bos_token_id": BOS,
    "eos_token_id": IM_END,
    "pad_token_id": PAD,
}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2.5": ("Qwen2", {"tie_word_embeddings": False}),
    "qwen2.5-tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": False}),
    "qwen3-tied": ("Qwen3", {"tie_word_embeddings": True}),
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "mistral": ("Mistral", {"tie_word_embeddings": False, "sliding_window": None}),
    "gemma": ("Gemma", {}),
    "gemma2": ("Gemma2", {"sliding_window": 512, "query_pre_attn_scalar": HEAD}),
    "gemma3": ("Gemma3", {"sliding_window": 512, "query_pre_attn_scalar": HEAD}),
    "phi3": ("Phi3", {"tie_word_embeddings": False}),
    "qwen3-moe": ("Qwen3Moe", {"tie_word_embeddings": False, **_EXPERTS}),
    "mixtral": ("Mixtral", {"tie_word_embeddings": False, "num_local_experts": 4, "num_experts_per_tok": 2}),
}


def build(family: str, seed: int) -> Any:
    """The model, with float32 weights drawn from `seed`."""
    import torch
    import transformers

    name, more = FAMILIES[family]
    config_class = getattr(transformers, f"{name}TextConfig", None) or getattr(transformers, f"{name}Config")
    # Gemma's scale of embeddings and norms makes large weights saturate its soft caps.
    settings = {**_SHAPE, **more}
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}ForCausalLM")(config_class(**settings))
    return model.float().eval()


def write_family(folder: Path, family: str, seed: int = 0) -> Path:
    """A model's folder, with its tokeniser."""
    build(family, seed).save_pretrained(folder)
    write_tokenizer(folder)
    return folder
