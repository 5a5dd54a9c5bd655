"""The policy that the FrozenLake example starts from: network, tokenizer, and a warm start that teaches the format."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

PAD, START, END, UNKNOWN = "<|pad|>", "<|im_start|>", "<|im_end|>", "<|unk|>"
ACTIONS = ("left", "down", "right", "up")
ROLES = ("system", "user", "assistant")
VOCABULARY_SIZE = 96  # a multiple of 32; ids without a meaning get placeholder words, so that each decodes to something
MAX_LENGTH = 256
MAX_TURNS = 8
WARM_STEPS = 200
WARM_BATCH = 32
WARM_LEARNING_RATE = 2e-3

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|> ' + message['role'] + ' ' + message['content'] + ' <|im_end|> ' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|> assistant ' }}{%- endif -%}"
)


def vocabulary(states: int) -> list[str]:
    """All words, in the order of their ids."""
    words = [PAD, START, END, UNKNOWN, *ROLES, "state", *ACTIONS, *(str(number) for number in range(states))]
    if len(words) > VOCABULARY_SIZE:
        raise SystemExit(f"--states {states}: at most {VOCABULARY_SIZE - len(words) + states} states fit")
    return words + [f"<|unused_{index}|>" for index in range(VOCABULARY_SIZE - len(words))]


def build_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are words between spaces."""
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[START],
        model_max_length=MAX_LENGTH,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(words: list[str], seed: int) -> Qwen3ForCausalLM:
    """The network with random weights. head_dim 32 is the smallest that vLLM's CPU attention has a kernel for."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=False,
        # Far above the usual 0.02: states must look different enough to such a small network to be told apart quickly.
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=words.index(END),
        pad_token_id=words.index(PAD),
        dtype="float32",
    )
    model: Qwen3ForCausalLM = Qwen3ForCausalLM(config).float()  # type: ignore[no-untyped-call]
    return model


def random_conversations(
    words: list[str], states: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [WARM_BATCH, T] of conversations of MAX_TURNS turns, and the mask of what the assistant says."""
    ids = {word: index for index, word in enumerate(words)}
    ask, told = [ids[START], ids["user"], ids["state"]], [ids[END], ids[START], ids["assistant"]]
    rows, masks = [], []
    for _ in range(WARM_BATCH):
        row: list[int] = []
        mask: list[bool] = []
        for _ in range(MAX_TURNS):
            state = int(torch.randint(states, (1,), generator=generator))
            action = ACTIONS[int(torch.randint(len(ACTIONS), (1,), generator=generator))]
            row += [*ask, ids[str(state)], *told, ids[str(state)], ids[action], ids[END]]
            mask += [False] * 7 + [True] * 3
        rows.append(row)
        masks.append(mask)
    return torch.tensor(rows), torch.tensor(masks)


def warm_start(model: Qwen3ForCausalLM, words: list[str], states: int, seed: int) -> float:
    """Teach the format; returns the last loss in nats per token (ln 4 / 3 = 0.462 is all that there is to know)."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=WARM_LEARNING_RATE, weight_decay=0.0)
    loss = torch.zeros(())
    for _ in range(WARM_STEPS):
        ids, mask = random_conversations(words, states, generator)
        logits = model(ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits[mask[:, 1:]], ids[:, 1:][mask[:, 1:]])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return float(loss.detach())


def save(folder: Path, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, files: dict[str, str]) -> None:
    """Write the model and `files` beside their place and move them there: a half-written model is never seen."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    for name, text in files.items():
        (temporary / name).write_text(text)
    for file in temporary.iterdir():
        file.chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(temporary, folder)
    except OSError:
        # Somebody else's build of the same model came first.
        shutil.rmtree(temporary)
        if not (folder / "config.json").exists():
            raise
