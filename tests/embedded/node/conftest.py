"""A node on a real kube-apiserver: one for all tests, and one that a test may kill."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shoal.kube import KubeClient, NotFoundError, kubeconfig_source
from shoal.kube.resources import PODS
from tests.embedded.node.running import SCHEDULER, NodeProcess, PodClient
from tests.kubernetes import Kubernetes, KubernetesServer


def _running(server: KubernetesServer, folder: Path, *arguments: str) -> Iterator[NodeProcess]:
    node = NodeProcess(
        server.kubeconfig, folder / "node", f"node-{uuid.uuid4().hex[:8]}", NodeProcess.arguments + arguments
    )
    node.start()
    try:
        yield node
    finally:
        node.clean()


@pytest.fixture(scope="package")
def shared_node(kubernetes_server: KubernetesServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node for all tests that leave it alone; it binds pods that ask for `SCHEDULER`."""
    # A scheduler's name of its own: the server is everybody's, and other tests' pods must not become processes.
    yield from _running(kubernetes_server, tmp_path_factory.mktemp("shared"), "--scheduler", SCHEDULER)


@pytest.fixture
def own_node(kubernetes_server: KubernetesServer, tmp_path: Path) -> Iterator[NodeProcess]:
    """A node that the test may kill."""
    yield from _running(kubernetes_server, tmp_path, "--scheduler", "")


@pytest.fixture
async def client(kubernetes: Kubernetes) -> AsyncIterator[KubeClient]:
    """A client of the API server."""
    async with KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client:
        yield client


@pytest.fixture
async def pods(client: KubeClient, kubernetes: Kubernetes, shared_node: NodeProcess) -> AsyncIterator[PodClient]:
    """Pods for the shared node, in a namespace of their own; they end with the test."""
    yield PodClient(client, kubernetes.namespace, shared_node.name)
    for pod in (await client.list(PODS, kubernetes.namespace)).items:
        with contextlib.suppress(NotFoundError):
            await client.delete(PODS, pod["metadata"]["name"], kubernetes.namespace, grace_seconds=0)


@pytest.fixture
def own_pods(client: KubeClient, kubernetes: Kubernetes, own_node: NodeProcess) -> PodClient:
    """Pods for the node that the test may kill."""
    return PodClient(client, kubernetes.namespace, own_node.name)
