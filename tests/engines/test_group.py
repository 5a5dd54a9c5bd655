"""An engine over several pods: what Ray and vLLM are told, with a program in Ray's place that only notes it."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.api.services.roles.engine import EngineConfig
from shoal_workers.engines.core import CoreError
from shoal_workers.engines.grouping import start_head
from shoal_workers.engines.vllm_settings import arguments, required_environment
from tests.models import write_model

FAKE = """
import os, sys, time
line = " ".join(sys.argv[1:])
with open(os.environ["NOTES"], "a") as notes:
    notes.write(line + "\\n")
if "broken" in os.environ:
    sys.exit("the port is taken")
while "--block" in sys.argv and not os.path.exists(os.environ["NOTES"] + ".end"):
    time.sleep(0.05)
sys.exit(3 if "--block" in sys.argv else 0)
"""


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """An environment in which `ray.scripts.scripts` is the fake."""
    package = tmp_path / "ray" / "scripts"
    package.mkdir(parents=True)
    (tmp_path / "ray" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "scripts.py").write_text(FAKE)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    return {**os.environ, "PYTHONPATH": path, "NOTES": str(tmp_path / "notes"), "POD_IP": "127.0.0.5"}


@pytest.fixture
def head() -> Iterator[socket.socket]:
    """A port on which the head's Ray would listen; it does not listen yet."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken


def noted(surroundings: dict[str, str]) -> str:
    notes = Path(surroundings["NOTES"])
    return notes.read_text() if notes.exists() else ""


def test_the_leader_starts_rays_head_on_its_own_address(surroundings: dict[str, str]) -> None:
    start_head(surroundings)
    assert "start --node-ip-address=127.0.0.5" in noted(surroundings)
    assert "--head --port=6379" in noted(surroundings)
    assert surroundings["RAY_ADDRESS"] == "127.0.0.5:6379"
    assert surroundings["VLLM_HOST_IP"] == "127.0.0.5"


def test_a_head_that_does_not_start_is_told_with_its_last_words(surroundings: dict[str, str]) -> None:
    with pytest.raises(CoreError, match="Ray's head does not start: the port is taken"):
        start_head(surroundings | {"broken": "1"})


def joining(surroundings: dict[str, str], **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "shoal_workers.engines.joining"]
    return subprocess.Popen(command, env=surroundings | more, stderr=subprocess.PIPE, text=True)


def until_noted(surroundings: dict[str, str]) -> str:
    deadline = time.monotonic() + 60
    while not noted(surroundings):
        assert time.monotonic() < deadline, "Ray was never started"
        time.sleep(0.05)
    return noted(surroundings)


def test_a_worker_waits_for_the_head_and_ends_with_its_node(surroundings: dict[str, str], head: socket.socket) -> None:
    port = str(head.getsockname()[1])
    with joining(surroundings, LWS_LEADER_ADDRESS="127.0.0.1", RAY_PORT=port) as worker:
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                worker.wait(1.5)
            assert noted(surroundings) == "", "nobody listens there yet"
            head.listen()
            line = until_noted(surroundings)
            assert "--node-ip-address=127.0.0.5" in line
            assert f"--address=127.0.0.1:{port} --block" in line
            Path(surroundings["NOTES"] + ".end").touch()
            assert worker.wait(30) == 1
        finally:
            worker.kill()
        assert worker.stderr is not None
        assert "has left the engine's cluster (exit code 3)" in worker.stderr.read()


def test_a_worker_leaves_at_once_when_told(surroundings: dict[str, str], head: socket.socket) -> None:
    head.listen()
    port = str(head.getsockname()[1])
    with joining(surroundings, LWS_LEADER_ADDRESS="127.0.0.1", RAY_PORT=port) as worker:
        try:
            until_noted(surroundings)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
        finally:
            worker.kill()


def test_a_worker_outside_of_a_group_says_so(surroundings: dict[str, str]) -> None:
    surroundings.pop("LWS_LEADER_ADDRESS", None)
    with joining(surroundings) as worker:
        assert worker.wait(30) == 2
        assert worker.stderr is not None
        assert "LWS_LEADER_ADDRESS is not set" in worker.stderr.read()


def test_vllm_spreads_layers_over_nodes_and_tensors_inside_them() -> None:
    config = EngineConfig(model="m", tensor_parallel=8, nodes=2)
    line = " ".join(arguments(config, cpu=False, seed=1))
    assert "--tensor-parallel-size 8" in line
    assert "--pipeline-parallel-size 2 --distributed-executor-backend ray" in line
    alone = " ".join(arguments(EngineConfig(model="m"), cpu=False, seed=1))
    assert "pipeline" not in alone
    assert "ray" not in alone


CHECK = """
import sys
from shoal.api.services.roles.engine import EngineConfig
from shoal_workers.engines.vllm_core import _parse
from shoal_workers.engines.vllm_settings import arguments, required_environment
from tests.models import write_model
from vllm.v1.executor.abstract import Executor

config = EngineConfig(model=sys.argv[1], nodes=2, tensor_parallel=2, max_model_len=256, dtype="float32")
made = _parse(arguments(config, cpu=True, seed=1)).create_engine_config()
executor = Executor.get_class(made)
print(executor.__name__, executor.supports_pp, made.parallel_config.world_size, made.scheduler_config.async_scheduling)
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_takes_the_arguments_and_chooses_its_ray_executor(tmp_path: Path) -> None:
    """As far as it goes without GPUs: vLLM's CPU build has no device that Ray could place workers on."""
    model = write_model(tmp_path / "model", seed=0)
    environment = os.environ | required_environment(os.environ, cpu=True, local_model=True)
    command = [sys.executable, "-c", CHECK, str(model)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)
    last = done.stdout.strip().rpartition("\n")[2]
    assert last.split() == ["RayExecutorV2", "True", "4", "False"], done.stderr[-2000:]
