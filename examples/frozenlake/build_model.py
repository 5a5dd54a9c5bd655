"""Builds the policy that the FrozenLake example starts from: a tiny Qwen3 that knows the format and nothing else.

    python examples/frozenlake/build_model.py --out DIR

The folder is an ordinary Hugging Face model (config, safetensors, tokenizer with a chat template): about 90,000
parameters in float32, so that two engines, a trainer and everything else fit on a laptop. Nothing is downloaded.

The policy answers "state 7" by naming the state and then an action: "7 left". The warm start teaches this *format*
alone: supervised steps on made-up conversations whose states and whose (always valid) actions are drawn at random,
independently of each other. Which action is good in which state is left to learn from the environment's reward.
"""

from __future__ import annotations

import argparse
import hashlib
import json
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
RECIPE = "recipe.sha256"
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


def recipe(seed: int, states: int) -> str:
    """What a model is made by: this file and its arguments. The same recipe gives the same model."""
    return hashlib.sha256(Path(__file__).read_bytes() + f" {seed} {states}".encode()).hexdigest()


def recipe_of(folder: Path) -> str | None:
    """The recipe of the model in the folder, None where there is no model of this program."""
    try:
        return (folder / RECIPE).read_text()
    except OSError:
        return None


def save(folder: Path, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, made_by: str) -> None:
    """Write the model beside its place and move it there, so that a half-written model is never seen."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    (temporary / RECIPE).write_text(made_by)
    for file in temporary.iterdir():
        file.chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.replace(temporary, folder)


def main() -> None:
    """Build, warm up, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--states", type=int, default=16, help="states of the lake (16 for 4x4)")
    arguments = parser.parse_args()
    made_by = recipe(arguments.seed, arguments.states)
    if recipe_of(arguments.out) == made_by:
        print(json.dumps({"model": str(arguments.out), "built": False}))
        return
    torch.set_num_threads(1)
    words = vocabulary(arguments.states)
    model = build_model(words, arguments.seed)
    loss = warm_start(model, words, arguments.states, arguments.seed)
    save(arguments.out.absolute(), model, build_tokenizer(words), made_by)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"model": str(arguments.out), "parameters": parameters, "format_loss": round(loss, 3)}))


if __name__ == "__main__":
    main()
