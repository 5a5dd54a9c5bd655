"""Two operators: when the leader is killed, the other one decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.providers import Cluster
from e2e.providers.base import Feature, Json
from e2e.providers.chart import NAMESPACE
from e2e.providers.processes import kill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECONDS = 20.0
"""DESIGN: a second replica takes over within this."""
POOL: Json = {
    "apiVersion": "rl.shoal.dev/v1alpha1",
    "kind": "EnvironmentPool",
    "metadata": {"name": "lake"},
    "spec": {"environment": {"protocol": "Gymnasium", "entrypoint": "FrozenLake-v1"}, "replicas": 1},
}


@pytest.mark.needs(Feature.CONTAINERS, Feature.PROCESSES)
def test_the_other_operator_decides_after_a_kill(cluster: Cluster, namespace: str, evidence: Path) -> None:
    pool = {**POOL, "metadata": {"name": "lake", "namespace": namespace}}
    cluster.apply(pool)
    members = "rl.shoal.dev/role=environment"
    cluster.until(lambda: len(cluster.list("pods", namespace, members)) == 1, "one member", 60)
    cluster.until(lambda: len(ready_operators(cluster)) >= 2, "two operators", 120)
    leader = holder(cluster)
    kill(leader)
    cluster.apply({**pool, "spec": {**pool["spec"], "replicas": 2}})
    seconds = cluster.until(lambda: len(cluster.list("pods", namespace, members)) == 2, "a decision", 60, pause=0.2)
    print(f"decided {seconds:.1f} s after the leader was killed")
    assert seconds <= SECONDS
    assert holder(cluster) != leader, "the operator that was killed came back and decided, and not the other one"
    assert len(cluster.list("pods", namespace, members)) == 2


def ready_operators(cluster: Cluster) -> list[Json]:
    """The operator's pods that run."""
    pods = cluster.list("pods", NAMESPACE, "app.kubernetes.io/name=shoal")
    return [pod for pod in pods if pod["status"].get("phase") == "Running"]


def holder(cluster: Cluster) -> str:
    """The pod that leads."""
    leases = cluster.list("leases", NAMESPACE)
    assert len(leases) == 1, leases
    return str(leases[0]["spec"]["holderIdentity"]).partition("_")[0]
