"""The learner on a GPU, beside a plain loop on the same model and rollouts: `python -m bench.gpu`, at most 8 minutes.

It drives the learner's own code (chunked log-probs, packing, FSDP2 with float32 weights, optimizer, publication) on
random Qwen3 models. It needs torch, transformers, numpy, safetensors, pydantic and orjson, and neither Ray nor vLLM nor
a network. `--tiny` runs all of it on any machine in seconds, to see that it runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.gpu import plain
from bench.gpu.workload import SIZES, Load, Size, make_model, tokens_of, useful_flops
from shoal.api.services.roles.trainer import TrainerConfig
from shoal_workers.trainer.algorithm.advantages import Grpo
from shoal_workers.trainer.algorithm.correctors import TruncatedImportanceSampling
from shoal_workers.trainer.algorithm.ppo_clip import PpoClip
from shoal_workers.trainer.algorithm.rule import LearningRule
from shoal_workers.trainer.algorithm.selectors import AllSteps
from shoal_workers.trainer.learner import Learner
from shoal_workers.trainer.publish import publish
from shoal_workers.trainer.vocabulary import Head, vocabulary_terms

RATE = 1e-6
STEPS = 3
"""Of each contestant: one to warm up, and the faster of two."""
HEAD_TOKENS = 4096
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16, by the maker's data sheets; a card that is not here has no utilisation."""
GIB = float(1 << 30)


@dataclass
class Row:
    """One model's figures; None: not measured, or it did not fit."""

    model: str
    parameters: float
    tokens_step: int
    shoal_seconds: float
    shoal_tokens_s: float
    shoal_mfu: float | None
    shoal_peak_gib: float
    tokens_at_once: int
    useful_share: float
    checkpointing: bool
    plain_seconds: float | None
    plain_tokens_s: float | None
    plain_mfu: float | None
    plain_peak_gib: float | None
    plain_rows: int | None
    head_mib_token: float | None
    plain_head_mib_token: float | None
    resident_gib: float
    publish_seconds: float
    publish_gib: float
    remember_seconds: float


def main() -> None:
    """Run every size that time allows; print a Markdown table and JSON, and write both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="0.6B,1.7B,4B", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--seconds", type=float, default=420.0, help="no further size is begun after that")
    parser.add_argument("--tiny", action="store_true", help="a smoke test on any machine")
    parser.add_argument("--out", type=Path, help="folder for gpu.md and gpu.json")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        print("bench.gpu: skipped, torch sees no CUDA device on this machine (--tiny runs it all the same)")
        return
    # Rows of many lengths would otherwise leave the memory in pieces too small for the next.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    began = time.monotonic()
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for name in ["tiny"] if options.tiny else options.sizes.split(","):
        if time.monotonic() - began > options.seconds:
            failed[name] = f"not begun: {options.seconds:.0f} s were over"
            continue
        try:
            rows.append(measure(SIZES[name], device, load(options.tiny)))
        except (torch.OutOfMemoryError, RuntimeError) as error:
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        clean(device)
        print(f"{name}: {asdict(rows[-1]) if rows and rows[-1].model == name else failed[name]}", file=sys.stderr)
    tell(rows, failed, device, options.out)
    if not rows:
        raise SystemExit("bench.gpu: no size was measured")


def load(tiny: bool) -> Load:
    """The step's rollouts."""
    return Load(groups=2, size=4, prompt=8, median=20, longest=64) if tiny else Load()


def measure(size: Size, device: torch.device, work: Load) -> Row:
    """The learner first, then the plain loop on a fresh copy of the same model."""
    batches = [work.make(seed, size.vocabulary) for seed in range(STEPS)]
    dtype = torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        ours = shoal(size, device, work, batches, Path(folder))
    clean(device)
    model = make_model(size, device)
    parameters = sum(value.numel() for value in model.parameters()) / 1e9
    if ours["checkpointing"]:
        # Both the same, or the comparison would be one of memory for time.
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    theirs = plain.run(model, batches, dtype, RATE)
    del model
    clean(device)
    tokens = min(tokens_of(batch) for batch in batches[1:])
    flops = min(useful_flops(size, batch) for batch in batches[1:])
    most = next((value for name, value in PEAK_FLOPS.items() if name in _card(device)), None)
    seconds = theirs.seconds if theirs else None
    heads = head_memory(size, device)
    return Row(
        model=size.name,
        parameters=parameters,
        tokens_step=tokens,
        shoal_tokens_s=tokens / ours["shoal_seconds"],
        shoal_mfu=flops / ours["shoal_seconds"] / most if most else None,
        plain_seconds=seconds,
        plain_tokens_s=tokens / seconds if seconds else None,
        plain_mfu=flops / seconds / most if seconds and most else None,
        plain_peak_gib=theirs.peak / GIB if theirs else None,
        plain_rows=theirs.rows if theirs else None,
        head_mib_token=heads[0],
        plain_head_mib_token=heads[1],
        **ours,
    )


def shoal(size: Size, device: torch.device, work: Load, batches: list[Any], folder: Path) -> dict[str, Any]:
    """The learner's steps, its memory, and one publication."""
    config = TrainerConfig(
        folder=str(folder),
        model=str(folder),
        dtype="bfloat16",
        max_model_len=work.longest,
        data_url="",
        gateway_url="",
        steps=1000,
        batch_groups=work.groups,
        optimizer={"learning_rate": RATE},
        verify_versions=1,
    )
    rule = LearningRule(Grpo(), TruncatedImportanceSampling(), PpoClip(), AllSteps())
    learner = Learner(make_model(size, device), rule, config)
    plain.reset(device)
    seconds = []
    figures: dict[str, float] = {}
    for step, batch in enumerate(batches):
        plain.wait(device)
        began = time.perf_counter()
        figures = learner.train(batch, step, step)
        plain.wait(device)
        seconds.append(time.perf_counter() - began)
    top = plain.peak(device)
    resident = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    began = time.perf_counter()
    learner.remember(1)
    remembered = time.perf_counter() - began
    began = time.perf_counter()
    target = publish(folder / "versions", learner.model, learner.weights(), {}, 1, 1, "bench")
    published = time.perf_counter() - began
    size_bytes = sum(path.stat().st_size for path in Path(target.path).iterdir())
    return {
        "shoal_seconds": min(seconds[1:]),
        "shoal_peak_gib": top / GIB,
        "tokens_at_once": learner.tokens_at_once,
        "useful_share": figures["useful_share"],
        "checkpointing": learner.checkpointing,
        "resident_gib": resident / GIB,
        "publish_seconds": published,
        "publish_gib": size_bytes / GIB,
        "remember_seconds": remembered,
    }


def head_memory(size: Size, device: torch.device) -> tuple[float | None, float | None]:
    """MiB above what was there that log-probs with their gradients take per sampled token: in chunks, and whole."""
    if device.type != "cuda":
        return None, None
    hidden = torch.randn(HEAD_TOKENS, size.hidden, device=device, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(size.vocabulary, size.hidden, device=device, dtype=torch.bfloat16, requires_grad=True)
    tokens = torch.randint(0, size.vocabulary, (HEAD_TOKENS,), device=device)

    def chunked() -> torch.Tensor:
        return vocabulary_terms(hidden, Head(weight), tokens, 1.0).logprobs

    def whole() -> torch.Tensor:
        logits = torch.nn.functional.linear(hidden, weight)
        return torch.log_softmax(logits.float(), -1).gather(-1, tokens[:, None])[:, 0]

    found: list[float | None] = []
    for compute in (chunked, whole):
        hidden.grad = weight.grad = None
        plain.reset(device)
        before = torch.cuda.memory_allocated()
        try:
            compute().sum().backward()  # type: ignore[no-untyped-call]
            plain.wait(device)
            found.append((plain.peak(device) - before) / HEAD_TOKENS / (1 << 20))
        except torch.OutOfMemoryError:
            found.append(None)
    return found[0], found[1]


def tell(rows: list[Row], failed: dict[str, str], device: torch.device, out: Path | None) -> None:
    """The table, the JSON, and the files."""
    import transformers

    machine = f"{_card(device)}, torch {torch.__version__}, transformers {transformers.__version__}"
    text = f"`python -m bench.gpu`, {machine}.\n\n{table(rows)}"
    text += "".join(f"\n* {name}: {why}" for name, why in failed.items())
    document = json.dumps({"machine": machine, "rows": [asdict(row) for row in rows], "failed": failed}, indent=2)
    print(text)
    print(document)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "gpu.md").write_text(text + "\n")
        (out / "gpu.json").write_text(document + "\n")


def table(rows: list[Row]) -> str:
    """One line a model: the learner, then the plain loop."""
    head = [
        "model",
        "tokens a step",
        "Shoal tokens/s",
        "MFU",
        "peak GiB",
        "tokens at once",
        "plain tokens/s",
        "MFU",
        "peak GiB",
        "Shoal / plain",
        "log-probs MiB/token, chunked",
        "whole",
        "publish s",
        "GiB",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        ratio = row.shoal_tokens_s / row.plain_tokens_s if row.plain_tokens_s else None
        cells = [
            f"{row.model} ({row.parameters:.2f} B)",
            str(row.tokens_step),
            f"{row.shoal_tokens_s:.0f}",
            _share(row.shoal_mfu),
            f"{row.shoal_peak_gib:.1f}",
            f"{row.tokens_at_once}{', checkpointed' if row.checkpointing else ''}",
            "does not fit" if row.plain_tokens_s is None else f"{row.plain_tokens_s:.0f} ({row.plain_rows} rows)",
            _share(row.plain_mfu),
            _number(row.plain_peak_gib, 1),
            _number(ratio, 2),
            _number(row.head_mib_token, 3),
            _number(row.plain_head_mib_token, 3),
            f"{row.publish_seconds:.1f}",
            f"{row.publish_gib:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def clean(device: torch.device) -> None:
    """Give the last contestant's memory back."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _card(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    main()
