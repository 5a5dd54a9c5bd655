"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.kubernetes import Kubernetes, KubernetesServer, ProgramsMissingError, find_programs, running_server
from tests.parallel import FolderScheduling, place_of

# How long an example takes is the machine's affair; on a busy one the default limits fail sound tests.
settings.register_profile("shoal", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shoal")

# The tests start some hundred Python processes; where bytecode is forbidden each would compile its imports again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 4 * 2**30
"""A run in several processes keeps up to 2 GB in its folders; with less room the disk has to do."""


def pytest_configure() -> None:
    """Keep the tests' folders in memory where there is room: etcd and SQLite wait for every write to reach a disk."""
    if _roomy(MEMORY):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In one of several processes: the slow folders first."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: place_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FolderScheduling:
    """Share the tests by folders."""
    return FolderScheduling(config, log)


def _roomy(folder: Path) -> bool:
    """Whether tests can write their files to this folder and run programs from it."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    flags = os.statvfs(folder).f_flag
    return not flags & os.ST_NOEXEC and shutil.disk_usage(folder).free >= MEMORY_BYTES


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
