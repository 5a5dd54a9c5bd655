"""An engine over several pods: the engine's pod is the head of a Ray cluster, the others join it.

vLLM's Ray executor places one worker process on each GPU of that cluster. Ray has no password: the fleet's network
policy must keep everybody else from these pods.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, MutableMapping

from shoal.api.addresses import host_port
from shoal_workers.engines.core import CoreError

RAY_PORT = 6379
START_SECONDS = 120
"""Ray's head starts in a few seconds; one that takes this long does not start."""

HeadEnvironment = MutableMapping[str, str]


def ray_command(*args: str) -> list[str]:
    """Ray's command line under this interpreter, wherever its script was installed."""
    return [sys.executable, "-m", "ray.scripts.scripts", *args]


def start_arguments(address: str) -> list[str]:
    """What every node of the cluster is started with.

    Args:
        address: this pod's own address; left alone, Ray would take the first interface it finds.
    """
    return ["start", f"--node-ip-address={address}", "--disable-usage-stats"]


def start_head(environ: HeadEnvironment = os.environ, port: int = RAY_PORT) -> None:
    """Start Ray's head on this pod and have vLLM find it through `environ`; raises CoreError."""
    address = environ.get("POD_IP", "127.0.0.1")
    head = ["--head", f"--port={port}", "--include-dashboard=false"]
    done = _run([*start_arguments(address), *head], environ)
    if done.returncode != 0:
        raise CoreError(f"nodes: Ray's head does not start: {last_line(done.stdout)}")
    environ["RAY_ADDRESS"] = host_port(address, port)
    environ.setdefault("VLLM_HOST_IP", address)


def _run(args: list[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ray_command(*args),
            env=dict(environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CoreError(f"nodes: Ray's head does not start within {error.timeout:g} s") from None


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
