"""Another version of the operator, and back, while a job runs: its pods stay, its leases hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.providers import Cluster
from e2e.providers.base import Feature
from e2e.providers.chart import NAMESPACE, RELEASE, Helm
from e2e.scenarios.jobs import FIRST_STEP_SECONDS, example, status, step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.needs(Feature.CONTAINERS)]

NEXT = {"podAnnotations": {"rl.shoal.dev/release": "next"}}
"""What changes the operator's own pods and nothing else, as a new image of it does."""


def test_upgrade_and_rollback_leave_a_running_job_alone(cluster: Cluster, namespace: str, evidence: Path) -> None:
    cluster.apply(example(cluster, namespace, steps=400))
    cluster.until(lambda: step(cluster, namespace) >= 1, "the first step", FIRST_STEP_SECONDS)
    before, faults = pods(cluster, namespace), status(cluster, namespace)["trajectories"]["faults"]
    assert isinstance(cluster.helm, Helm)

    operators = set(pods(cluster, NAMESPACE))
    cluster.helm.upgrade({**cluster.helm_values, **NEXT})
    assert not operators & set(pods(cluster, NAMESPACE)), "the upgrade replaced the operator"
    at = step(cluster, namespace)
    cluster.until(lambda: step(cluster, namespace) >= at + 2, "steps after the upgrade", 300)
    assert pods(cluster, namespace) == before

    cluster.helm("rollback", RELEASE, "--wait", "--timeout=180s")
    at = step(cluster, namespace)
    cluster.until(lambda: step(cluster, namespace) >= at + 2, "steps after the rollback", 300)
    assert pods(cluster, namespace) == before
    assert status(cluster, namespace)["trajectories"]["faults"] == faults, "a lease or a call was broken"


def pods(cluster: Cluster, namespace: str) -> dict[str, int]:
    """UID -> restarts of every pod."""
    return {
        pod["metadata"]["uid"]: sum(each["restartCount"] for each in pod["status"].get("containerStatuses", []))
        for pod in cluster.list("pods", namespace)
        if "deletionTimestamp" not in pod["metadata"]
    }
