"""The neighbours' real definitions, installed and removed by kubectl."""

import time
from pathlib import Path

import pytest
import yaml

from tests.kubernetes import KubernetesServer

DEFINITIONS = Path(__file__).resolve().parents[3] / "shared" / "kube" / "crds"
"""The files lie beside the checkout, as the programs do."""


def definitions(neighbour: str) -> Path:
    """The file with a neighbour's definitions; skips where it is not."""
    path = DEFINITIONS / f"{neighbour}.yaml"
    if not path.exists():
        pytest.skip(f"the definitions of {neighbour} are not beside the checkout")
    return path


def install(server: KubernetesServer, neighbour: str) -> None:
    """Install a neighbour's definitions and wait until they are served; quick where they are already."""
    path = str(definitions(neighbour))
    if _served(server, path):
        return
    server.kubectl("apply", "--server-side", "-f", path)
    wait = ("wait", "--for=condition=Established", "--timeout=30s", "-f", path)
    deadline = time.monotonic() + 60
    # kubectl refuses to wait for a condition of an object without any, and discovery follows a moment later.
    while "error" in server.kubectl(*wait, check=False) or not _served(server, path):
        assert time.monotonic() < deadline, f"{neighbour} is not served"
        time.sleep(0.1)


def _served(server: KubernetesServer, path: str) -> bool:
    return set(_groups(path)) <= set(server.kubectl("api-versions").split())


def _groups(path: str) -> list[str]:
    """The group versions of definitions, as `kubectl api-versions` writes them."""
    found = [body["spec"] for body in yaml.safe_load_all(Path(path).read_text()) if body]
    return [f"{spec['group']}/{version['name']}" for spec in found for version in spec["versions"] if version["served"]]


def remove(server: KubernetesServer, neighbour: str) -> None:
    """Remove a neighbour's definitions, and with them all of its objects."""
    path = str(definitions(neighbour))
    server.kubectl("delete", "--ignore-not-found", "--timeout=30s", "-f", path)
    deadline = time.monotonic() + 60
    while set(_groups(path)) & set(server.kubectl("api-versions").split()):
        assert time.monotonic() < deadline, f"{neighbour} is still served"
        time.sleep(0.1)
