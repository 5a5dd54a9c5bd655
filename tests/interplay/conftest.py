"""A real API server of this folder's own, because its tests install and remove definitions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.embedded.apiserver.conftest import embedded
from tests.interplay.neighbours import install
from tests.interplay.stage import install_shoal, operator_account
from tests.kubernetes import Kubernetes, KubernetesServer, ProgramsMissingError, find_programs, running_server

__all__ = ["embedded"]


@pytest.fixture(scope="package")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    """kube-apiserver, etcd and kube-controller-manager; skips where the programs are absent."""
    try:
        find_programs()
    except ProgramsMissingError as reason:
        pytest.skip(str(reason))
    with running_server(tmp_path_factory.mktemp("interplay")) as server:
        install_shoal(server)
        server.start_controller_manager()
        yield server


@pytest.fixture
def cluster(own_server: KubernetesServer) -> Kubernetes:
    """A namespace of that server that belongs to this test alone."""
    return Kubernetes(own_server, own_server.new_namespace())


@pytest.fixture(scope="package")
def settled_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    """A server where those that make pods for us were installed before kube-controller-manager began.

    Its garbage collector looks for new kinds every 30 s only, and until it has seen one it deletes nothing of it.
    """
    try:
        find_programs()
    except ProgramsMissingError as reason:
        pytest.skip(str(reason))
    with running_server(tmp_path_factory.mktemp("settled")) as server:
        install_shoal(server)
        install(server, "agent-sandbox", "leaderworkerset")
        server.start_controller_manager()
        yield server


@pytest.fixture
def settled(settled_server: KubernetesServer) -> Kubernetes:
    """A namespace of that server that belongs to this test alone, and takes no pod that is not restricted."""
    namespace = settled_server.new_namespace()
    settled_server.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    return Kubernetes(settled_server, namespace)


@pytest.fixture(scope="package")
def account(settled_server: KubernetesServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of an account that may do there what the chart's roles let the operator do."""
    path = tmp_path_factory.mktemp("account") / "kubeconfig"
    return operator_account(settled_server, "operator", path, "agent-sandbox", "leaderworkerset")
