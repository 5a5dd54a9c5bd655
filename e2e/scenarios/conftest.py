"""The cluster that scenarios share, and what each scenario needs of it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.providers import PROVIDERS, Cluster
from e2e.providers.base import Feature


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The provider's cluster, for the whole session."""
    name = request.config.getoption("--provider")
    if name is None:
        pytest.skip("run by `python -m e2e`")
    provider = PROVIDERS[name]
    reason = provider.unavailable()
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    with provider.cluster(tmp_path_factory.mktemp(name)) as cluster_:
        yield cluster_


@pytest.fixture(autouse=True)
def needs(request: pytest.FixtureRequest, cluster: Cluster) -> None:
    """Skip a scenario that names a feature which this cluster has not: `@pytest.mark.needs(Feature.AUDIT)`."""
    for mark in request.node.iter_markers("needs"):
        absent = sorted(set(mark.args) - cluster.features)
        if absent:
            pytest.skip(f"this cluster has no {', '.join(absent)}")


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace that takes restricted pods alone where pods are containers; it is gone afterwards."""
    name = f"e2e-{secrets.token_hex(3)}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    if Feature.CONTAINERS in cluster.features:
        body["metadata"] = {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(body))
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=true", "--timeout=180s")


@pytest.fixture
def evidence(request: pytest.FixtureRequest, cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Path]:
    """Where a scenario that failed leaves what the cluster had to say."""
    failures = request.session.testsfailed
    yield tmp_path
    if request.session.testsfailed > failures:
        for what in (["get", "pods,rlj,envpool,fleet", "-o", "wide"], ["get", "events"], ["describe", "pods"]):
            print(cluster.kubectl("-n", namespace, *what, check=False)[-4000:])
