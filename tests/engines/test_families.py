"""Every family that vLLM serves here: after an update it serves what the trainer published, and nothing of before.

Each engine is a process of its own, so the whole takes minutes.
"""

from __future__ import annotations

import importlib.util
import json
import urllib.error
from pathlib import Path

import pytest
import torch

from shoal_workers.trainer import publish
from tests.engines.families import FAMILIES, build, write_family
from tests.engines.processes import start

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.slow,
    pytest.mark.timeout(400),
]
TOLERANCE = 1e-3
PROMPT = [5 + 3 * index % 40 for index in range(70)]


def gap(model: torch.nn.Module, tokens: list[int], logprobs: list[float]) -> float:
    """Greatest difference between the engine's log-probs and the model's."""
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT + tokens])).logits[0, :-1].float()
    own = torch.log_softmax(logits, -1)[len(PROMPT) - 1 :].gather(1, torch.tensor(tokens)[:, None])[:, 0]
    return float((own - torch.tensor(logprobs)).abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_an_update_serves_what_was_published(tmp_path: Path, family: str) -> None:
    source = write_family(tmp_path / "model", family)
    config = {"model": str(source), "max_model_len": 256, "dtype": "float32"}
    engine = start({**config, "args": ["--kv-cache-memory-bytes=64M", "--max-num-seqs=16"]}, tmp_path / "log")
    try:
        engine.wait_ready(300)
        companions = publish.companions_of(str(source))
        models = [build(family, seed) for seed in range(3)]
        for version, model in enumerate(models):
            if version:
                target = publish.publish(
                    tmp_path / "versions", model, model.state_dict(), companions, version, version, "run"
                )
                assert engine.post("/weights", target.model_dump(), 300)["probe_error"] < TOLERANCE
            answer = engine.generate(PROMPT, 24, stop_token_ids=[0])
            assert gap(model, answer.token_ids, answer.logprobs) < TOLERANCE
            others = [gap(other, answer.token_ids, answer.logprobs) for other in models if other is not model]
            # The prompts of the comparison see a difference at all.
            assert min(others) > 10 * TOLERANCE
        # Published by a trainer whose model is another one than lies in the folder.
        odd = publish.publish(tmp_path / "versions", models[0], models[0].state_dict(), companions, 3, 3, "run")
        manifest = json.loads((Path(odd.path) / "manifest.json").read_text())
        manifest["fixed_prompt"]["logprobs"][7] += 1.0
        (Path(odd.path) / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(urllib.error.HTTPError) as refused:
            engine.post("/weights", {**odd.model_dump(), "checksum": ""}, 300)
        assert "fixed prompt" in refused.value.read().decode()
        answer = engine.generate(PROMPT, 24, stop_token_ids=[0])
        assert {span.version for span in answer.versions} == {2}
        assert gap(models[2], answer.token_ids, answer.logprobs) < TOLERANCE
    finally:
        engine.process.kill()
        engine.process.wait()
