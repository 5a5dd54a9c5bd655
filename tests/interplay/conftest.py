"""A real API server of this folder's own, because its tests install and remove definitions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.embedded.apiserver.conftest import embedded
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
        server.start_controller_manager()
        yield server


@pytest.fixture
def cluster(own_server: KubernetesServer) -> Kubernetes:
    """A namespace of that server that belongs to this test alone."""
    return Kubernetes(own_server, own_server.new_namespace())
