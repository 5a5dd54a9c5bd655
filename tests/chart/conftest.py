"""helm for every test of the chart, and a cluster to install it in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from shoal.crdgen import generate
from tests.chart.audit import write_audit_policy
from tests.chart.helm import Helm, find_helm
from tests.kubernetes import KubernetesServer, ProgramsMissingError, find_programs

DEFINITIONS = [definition["metadata"]["name"] for definition in generate.definitions()]


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """helm without a cluster; skips where it is absent."""
    try:
        return Helm(find_helm(), tmp_path_factory.mktemp("helm"))
    except ProgramsMissingError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    """A real API server of this folder's own, since helm refuses definitions that somebody else has installed.

    It writes down what service accounts ask for: `audited`.
    """
    try:
        programs = find_programs()
    except ProgramsMissingError as reason:
        pytest.skip(str(reason))
    folder = tmp_path_factory.mktemp("chart")
    flags = write_audit_policy(folder)
    running = KubernetesServer(programs=programs, folder=folder, apiserver_flags=flags)
    try:
        running.start()
        running.start_controller_manager()
        yield running
    finally:
        running.stop()


@pytest.fixture
def installed(helm: Helm, server: KubernetesServer) -> Iterator[Helm]:
    """helm for that server, without a release of another test; the definitions may be there."""
    here = replace(helm, kubeconfig=server.kubeconfig)
    yield here
    for release in json.loads(here.run("list", "--all-namespaces", "--output=json")):
        here.run("uninstall", release["name"], f"--namespace={release['namespace']}")
