"""A team applies the example and gets a better policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.providers import Cluster
from e2e.scenarios.jobs import NAME, example, status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_the_example_learns(cluster: Cluster, namespace: str, evidence: Path) -> None:
    cluster.apply(example(cluster, namespace))
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Complete", f"rljob/{NAME}", "--timeout=1200s")
    found = status(cluster, namespace)
    evaluation = found["evaluation"]
    print(f"success {evaluation['initial']} -> {evaluation['final']}, {found['step']} steps, {found['trajectories']}")
    assert float(evaluation["final"]) >= 0.9
    assert float(evaluation["final"]) - float(evaluation["initial"]) >= 0.4
    assert found["step"] == found["steps"] == found["weightVersion"]

    ttl = '{"spec": {"ttlSecondsAfterFinished": 1}}'
    cluster.kubectl("-n", namespace, "patch", f"rljob/{NAME}", "--type=merge", f"--patch={ttl}")
    cluster.until(lambda: not cluster.get("rljob", NAME, namespace), "the finished job goes when its time is over", 60)
    cluster.until(lambda: not cluster.list("pods", namespace), "its pods go with it", 120)
