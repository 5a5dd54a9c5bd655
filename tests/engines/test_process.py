"""Engine and gateway processes as pods: wrong configuration, start, stop."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shoal.api.services.roles.engine import EngineConfig
from shoal_workers.engines.vllm_flags import check_arguments, known_flags
from shoal_workers.engines.vllm_settings import arguments, openmp_library, required_environment
from tests.engines.processes import start
from tests.models import write_model, write_tokenizer

ARGUMENTS_OF_ALL_FORMS = [
    *("--max_num_seqs=4", "--no-enable-prefix-caching", "--compilation-config.level=0", "-tp=2"),
    *("--gpu-memory-util", "0.5", "--limit-mm-per-prompt.image=1"),
]


def run(role: str, config: dict[str, Any], words: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SHOAL_CONFIG": json.dumps(config), "SHOAL_TERMINATION_LOG": str(words)}
    command = [sys.executable, "-m", f"shoal_workers.{role}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("role", "config", "reason"),
    [
        ("engines", {"model": "/does/not/exist"}, "/does/not/exist: no such folder"),
        ("engines", {"model": "{empty}"}, "config.json: No such file"),
        ("engines", {"model": "{broken}"}, "not JSON"),
        ("engines", {"model": "{model}", "type": "Magic"}, "SHOAL_CONFIG.type"),
        ("engines", {"model": "{model}", "type": "Reference", "args": ["--x"]}, "takes no arguments"),
        ("engines", {"model": "{model}", "type": "Reference", "max_model_len": 100_000}, "max_model_len 100000"),
        pytest.param(
            "engines",
            {"model": "{model}", "args": ["--max-num-seqs=4", "--no-such-flag=1"]},
            "SHOAL_CONFIG.args.1: vLLM has no argument --no-such-flag",
            marks=pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
        ),
        ("gateway", {"model": "{empty}"}, "tokenizer.json"),
        ("gateway", {"policy": "Guess"}, "SHOAL_CONFIG.policy"),
    ],
)
def test_wrong_configuration_is_one_line(tmp_path: Path, role: str, config: dict[str, Any], reason: str) -> None:
    folders = {name: tmp_path / name for name in ("empty", "broken", "model")}
    for folder in folders.values():
        folder.mkdir()
    (folders["broken"] / "config.json").write_text("{")
    write_model(folders["model"])
    if isinstance(config.get("model"), str):
        config = {**config, "model": config["model"].format(**folders)}
    words = tmp_path / "words"
    done = run(role, {"port": 0, **config}, words)
    assert done.returncode == 2
    assert reason in words.read_text()
    assert words.read_text().strip() == done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_no_argument_of_vllm_is_refused_early() -> None:
    check_arguments([*ARGUMENTS_OF_ALL_FORMS, *sorted(known_flags())])


def test_reference_engine_serves_and_stops(tmp_path: Path) -> None:
    engine = start({"model": str(write_model(tmp_path)), "type": "Reference", "max_model_len": 64, "dtype": "float32"})
    try:
        engine.wait_ready(60)
        result = engine.generate([5, 6, 7], 4, temperature=0.0, stop_token_ids=[0])
        assert len(result.logprobs) == len(result.token_ids)
        assert engine.status().weight_version == 0
        engine.process.send_signal(signal.SIGTERM)
        assert engine.process.wait(60) == 0
    finally:
        engine.process.kill()
        engine.process.wait()


LOSES_ITS_CORE = """
import asyncio
from shoal.api.services.models import GenerateRequest
from shoal_workers.engines.engine import Engine
from shoal_workers.engines.server import _on_core_lost
from tests.engines.fakes import FakeCore

async def main():
    core = FakeCore()
    engine = Engine("e", core, on_failure=_on_core_lost)
    await engine.start()
    core.fail_step = True
    try:
        await engine.generate(GenerateRequest(request_id="r", prompt_token_ids=[1]))
    except Exception as error:
        print(error, flush=True)
    await asyncio.sleep(30)

asyncio.run(main())
"""


def test_a_process_without_its_core_ends_after_telling_its_callers(tmp_path: Path) -> None:
    """A pod whose core is dead but whose process lives would never be restarted."""
    words = tmp_path / "words"
    environment = {**os.environ, "SHOAL_TERMINATION_LOG": str(words)}
    command = [sys.executable, "-c", LOSES_ITS_CORE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "engine-dead: e lost its core" in done.stdout
    assert "kernel fault" in words.read_text()


def test_gateway_process_starts_small_and_stops(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    gateway = start({"model": str(tmp_path)}, role="gateway")
    try:
        gateway.wait_ready(30)
        resident = Path(f"/proc/{gateway.process.pid}/status").read_text().split("VmRSS:")[1].split()[0]
        assert int(resident) < 120 * 1024
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(60) == 0
    finally:
        gateway.process.kill()
        gateway.process.wait()


def test_vllm_environment_leaves_what_is_set() -> None:
    added = required_environment({"OMP_NUM_THREADS": "8"}, cpu=True, local_model=True)
    assert "OMP_NUM_THREADS" not in added
    assert added["HF_HUB_OFFLINE"] == "1"
    on_gpu = required_environment({}, cpu=False, local_model=False)
    assert not {"OMP_NUM_THREADS", "TORCHDYNAMO_DISABLE", "HF_HUB_OFFLINE"} & set(on_gpu)


def test_openmp_is_preloaded_once(tmp_path: Path) -> None:
    assert openmp_library({}, str(tmp_path)) is None
    (tmp_path / "lib").mkdir()
    library = tmp_path / "lib" / "libiomp5.so"
    library.touch()
    assert openmp_library({}, str(tmp_path)) == str(library)
    assert openmp_library({"LD_PRELOAD": "/x.so"}, str(tmp_path)) == f"/x.so:{library}"
    assert openmp_library({"LD_PRELOAD": str(library)}, str(tmp_path)) is None


def test_user_arguments_come_after_defaults_and_before_what_shoal_needs() -> None:
    config = EngineConfig(
        model="m", args=["--block-size=64", "--worker-extension-cls=other", "--logprobs-mode=raw_logprobs"]
    )
    argv = arguments(config, cpu=True, seed=1)
    assert argv.index("--block-size") < argv.index("--block-size=64")
    assert argv.index("--worker-extension-cls=other") < argv.index("--worker-extension-cls")
    assert argv.index("--logprobs-mode=raw_logprobs") < argv.index("--logprobs-mode")
    assert argv[argv.index("--logprobs-mode") + 1] == "processed_logprobs"
    assert "--enforce-eager" not in arguments(config, cpu=False, seed=1)
