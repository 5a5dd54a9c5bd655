"""A node on each API server: one for all tests, and one that a test may kill."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shoal.kube import KubeClient, NotFoundError, kubeconfig_source
from shoal.kube.resources import NAMESPACES, PODS
from shoal_embedded.supervisor.programs import write_kubeconfig
from tests.embedded.node.running import SCHEDULER, NodeProcess, PodClient
from tests.kubernetes import KubernetesServer, free_ports


@contextlib.contextmanager
def embedded_apiserver(folder: Path) -> Iterator[Path]:
    """Run the embedded API server for the block; gives a kubeconfig."""
    if importlib.util.find_spec("shoal_embedded.apiserver.__main__") is None:
        pytest.skip("the embedded API server is not there")
    port = free_ports(1)[0]
    kubeconfig = folder / "kubeconfig"
    write_kubeconfig(kubeconfig, f"http://127.0.0.1:{port}", "none")
    command = [sys.executable, "-m", "shoal_embedded.apiserver", "--data", str(folder), "--listen", f"127.0.0.1:{port}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/version", timeout=2).close()
                break
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        yield kubeconfig
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="package", params=["embedded", "kube-apiserver"])
def api_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The kubeconfig of each of the two API servers in turn."""
    if request.param == "embedded":
        with embedded_apiserver(tmp_path_factory.mktemp("apiserver")) as kubeconfig:
            yield kubeconfig
    else:
        server: KubernetesServer = request.getfixturevalue("kubernetes_server")
        yield server.kubeconfig


@contextlib.contextmanager
def running_node(kubeconfig: Path, folder: Path, scheduler: str) -> Iterator[NodeProcess]:
    """Run a node for the block; afterwards nothing of it is left."""
    arguments = (*NodeProcess.arguments, "--scheduler", scheduler)
    node = NodeProcess(kubeconfig, folder / "node", f"node-{uuid.uuid4().hex[:8]}", arguments)
    node.start()
    try:
        yield node
    finally:
        node.clean()


@pytest.fixture(scope="package")
def shared_node(api_server: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node for all tests that leave it alone; it binds pods that ask for `SCHEDULER`."""
    # A scheduler's name of its own: the server is everybody's, and other tests' pods must not become processes.
    with running_node(api_server, tmp_path_factory.mktemp("shared"), SCHEDULER) as node:
        yield node


@pytest.fixture
def own_node(api_server: Path, tmp_path: Path) -> Iterator[NodeProcess]:
    """A node that the test may kill."""
    with running_node(api_server, tmp_path, "") as node:
        yield node


@pytest.fixture
async def client(api_server: Path) -> AsyncIterator[KubeClient]:
    """A client of the API server."""
    async with KubeClient(kubeconfig_source(api_server)) as client:
        yield client


@pytest.fixture
async def namespace(client: KubeClient) -> str:
    """A namespace that belongs to this test alone."""
    name = f"node-{uuid.uuid4().hex[:8]}"
    await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


@pytest.fixture
async def pods(client: KubeClient, namespace: str, shared_node: NodeProcess) -> AsyncIterator[PodClient]:
    """Pods for the shared node, in a namespace of their own; they end with the test."""
    yield PodClient(client, namespace, shared_node.name)
    for pod in (await client.list(PODS, namespace)).items:
        with contextlib.suppress(NotFoundError):
            await client.delete(PODS, pod["metadata"]["name"], namespace, grace_seconds=0)


@pytest.fixture
def own_pods(client: KubeClient, namespace: str, own_node: NodeProcess) -> PodClient:
    """Pods for the node that the test may kill."""
    return PodClient(client, namespace, own_node.name)
