"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.kubernetes import Kubernetes, KubernetesServer, ProgramsMissingError, find_programs, running_server

# How long an example takes is the machine's affair; on a busy one the default limits fail sound tests.
settings.register_profile("shoal", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shoal")


@pytest.fixture(scope="session")
def kubernetes_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    """One real kube-apiserver and etcd for the whole session; skips where the programs are absent."""
    try:
        find_programs()
    except ProgramsMissingError as reason:
        pytest.skip(str(reason))
    with running_server(tmp_path_factory.mktemp("kubernetes")) as server:
        yield server


@pytest.fixture
def kubernetes(kubernetes_server: KubernetesServer) -> Kubernetes:
    """The real API server with a namespace that belongs to this test alone."""
    return Kubernetes(kubernetes_server, kubernetes_server.new_namespace())


@pytest.fixture
def kubernetes_controllers(kubernetes: Kubernetes) -> Kubernetes:
    """As `kubernetes`, with kube-controller-manager running (garbage collection, namespaces, service accounts)."""
    try:
        kubernetes.server.start_controller_manager()
    except ProgramsMissingError as reason:
        pytest.skip(str(reason))
    return kubernetes
