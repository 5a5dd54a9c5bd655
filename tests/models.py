"""A tiny Qwen3 model on disk, made with numpy alone: real files for engines, tokenisers and trainers in a blink."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

SPECIAL = ("<pad>", "<bos>", "<|im_end|>", "<|im_start|>", "<unk>")
WORDS = ("system", "user", "assistant", "tool", "state", "left", "down", "right", "up", "go", "north", "south", "goal")
NUMBERS = tuple(str(number) for number in range(38))
VOCABULARY = {word: index for index, word in enumerate(SPECIAL + WORDS + NUMBERS)}
PAD, BOS, IM_END, IM_START, UNK = range(5)
HIDDEN, HEAD, LAYERS, MIDDLE, MAX_LENGTH = 64, 32, 2, 128, 512

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|> ' + m['role'] + ' ' + m['content'] + ' <|im_end|> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|> assistant ' }}{% endif %}"
)


def write_model(folder: Path, seed: int = 0, *, tied: bool = False) -> Path:
    """A complete Hugging Face folder: float32 weights, large enough to matter, tokeniser and chat template.

    `tied`: the output layer is the embeddings, as in most small models.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": len(VOCABULARY),
        "hidden_size": HIDDEN,
        "intermediate_size": MIDDLE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HIDDEN // HEAD,
        "num_key_value_heads": 1,
        "head_dim": HEAD,
        "max_position_embeddings": MAX_LENGTH,
        "tie_word_embeddings": tied,
        "bos_token_id": BOS,
        "eos_token_id": IM_END,
        "pad_token_id": PAD,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "dtype": "float32",
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_weights(folder, seed, tied=tied)
    return folder


def write_weights(folder: Path, seed: int, *, tied: bool = False) -> None:
    """Other random weights of the same shapes."""
    random = numpy.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> numpy.ndarray:
        return (random.standard_normal((rows, columns)) * 0.2).astype(numpy.float32)

    ones = {HIDDEN: numpy.ones(HIDDEN, numpy.float32), HEAD: numpy.ones(HEAD, numpy.float32)}
    weights = {"model.embed_tokens.weight": matrix(len(VOCABULARY), HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        weights[prefix + "self_attn.q_proj.weight"] = matrix(HIDDEN, HIDDEN)
        weights[prefix + "self_attn.k_proj.weight"] = matrix(HEAD, HIDDEN)
        weights[prefix + "self_attn.v_proj.weight"] = matrix(HEAD, HIDDEN)
        weights[prefix + "self_attn.o_proj.weight"] = matrix(HIDDEN, HIDDEN)
        weights[prefix + "self_attn.q_norm.weight"] = ones[HEAD].copy()
        weights[prefix + "self_attn.k_norm.weight"] = ones[HEAD].copy()
        weights[prefix + "mlp.gate_proj.weight"] = matrix(MIDDLE, HIDDEN)
        weights[prefix + "mlp.up_proj.weight"] = matrix(MIDDLE, HIDDEN)
        weights[prefix + "mlp.down_proj.weight"] = matrix(HIDDEN, MIDDLE)
        weights[prefix + "input_layernorm.weight"] = ones[HIDDEN].copy()
        weights[prefix + "post_attention_layernorm.weight"] = ones[HIDDEN].copy()
    weights["model.norm.weight"] = ones[HIDDEN].copy()
    if not tied:
        weights["lm_head.weight"] = matrix(len(VOCABULARY), HIDDEN)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_tokenizer(folder: Path, template: str = TEMPLATE) -> None:
    """A word-level tokeniser with its special tokens and chat template."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<|im_end|>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": MAX_LENGTH,
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
