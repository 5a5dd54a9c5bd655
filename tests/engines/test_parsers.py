"""Tool calls and reasoning, found by vLLM's own parsers in a real engine's process."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from shoal.api.services.models import ParsedAnswer
from shoal_workers.engines.core import CoreError
from shoal_workers.engines.vllm_parsers import ParserFlags, split_flags
from tests.engines.processes import start
from tests.models import write_model

MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<|im_end|>", "<|im_start|>", "<pad>")
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]


def write_bytes_tokenizer(folder: Path) -> Tokenizer:
    """A tokeniser of bytes, with the marks that Qwen's models have, in place of the model's own."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(mark, special=mark.startswith("<|") or mark == "<pad>") for mark in MARKS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer


def test_the_parsers_flags_are_not_the_engines() -> None:
    flags, rest = split_flags(["--tool-call-parser=hermes", "--enable-auto-tool-choice", "--max-num-seqs", "8"])
    assert (flags, rest) == (ParserFlags("hermes", True), ["--max-num-seqs", "8"])
    with pytest.raises(CoreError, match="requires --tool-call-parser"):
        split_flags(["--enable-auto-tool-choice"])


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllms_own_parsers_find_calls_and_thoughts(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    tokenizer = write_bytes_tokenizer(model)
    config = json.loads((model / "config.json").read_text()) | {"vocab_size": tokenizer.get_vocab_size()}
    (model / "config.json").write_text(json.dumps(config))
    args = ["--kv-cache-memory-bytes=64M", "--max-num-seqs=8", "--load-format=dummy"]
    flags = ["--enable-auto-tool-choice", "--tool-call-parser=hermes", "--reasoning-parser=qwen3"]
    engine = start({"model": str(model), "max_model_len": 256, "dtype": "float32", "args": [*args, *flags]})
    try:
        engine.wait_ready(300)
        assert engine.status().parsers == ["tools", "reasoning"]
        call = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'

        def parse(text: str, tools: list[dict[str, object]]) -> ParsedAnswer:
            body = {"token_ids": tokenizer.encode(text).ids, "tools": tools}
            return ParsedAnswer.model_validate(
                engine.post("/parse", {**body, "messages": [{"role": "user", "content": "x"}]})
            )

        both = parse(f"<think>\nso\n</think>\n\n{call}\n{call}<|im_end|>", TOOLS)
        assert both.reasoning is not None
        assert both.reasoning.strip() == "so"
        assert [(each.name, json.loads(each.arguments)) for each in both.tool_calls] == [("add", {"a": 1, "b": 2})] * 2
        assert len({each.id for each in both.tool_calls}) == 2
        plain = parse("<think>\nso\n</think>\n\nfour<|im_end|>", [])
        assert (plain.content or "").strip() == "four"
        assert plain.tool_calls == []
    finally:
        engine.process.kill()
        engine.process.wait()
