"""All tokens renewed while a job trains: nothing is refused, and no pod restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.providers import Cluster
from e2e.providers.base import Feature, Json
from e2e.providers.chart import OVERLAP_SECONDS
from e2e.scenarios.jobs import FIRST_STEP_SECONDS, example, status, step
from e2e.scenarios.test_upgrade import pods

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.needs(Feature.CONTAINERS)]


def test_a_running_job_does_not_notice_that_all_tokens_are_renewed(
    cluster: Cluster, namespace: str, evidence: Path
) -> None:
    cluster.apply(example(cluster, namespace, steps=400))
    cluster.until(lambda: step(cluster, namespace) >= 1, "the first step", FIRST_STEP_SECONDS)
    before, faults = pods(cluster, namespace), status(cluster, namespace)["trajectories"]["faults"]
    first = tokens(cluster, namespace)
    assert len(first) == 8, sorted(first)  # the services' own, and those of members, engines and agents

    cluster.kubectl("-n", namespace, "annotate", "secret", "--all", "rl.shoal.dev/renew-token=now")
    cluster.until(lambda: not {*first.values()} & {*tokens(cluster, namespace).values()}, "new tokens", 60)
    seconds = cluster.until(
        lambda: not any(tokens(cluster, namespace, "previous").values()), "the old ones gone", 3 * OVERLAP_SECONDS
    )
    print(f"the tokens before were over after {seconds:.0f} s")

    at = step(cluster, namespace)
    cluster.until(lambda: step(cluster, namespace) >= at + 3, "steps with the new tokens alone", 300)
    assert pods(cluster, namespace) == before
    assert status(cluster, namespace)["trajectories"]["faults"] == faults, "a lease or a call was broken"


def tokens(cluster: Cluster, namespace: str, key: str = "token") -> dict[str, str]:
    """Secret -> what is in it."""
    found: list[Json] = cluster.list("secrets", namespace, "app.kubernetes.io/managed-by=shoal")
    return {secret["metadata"]["name"]: secret["data"].get(key, "") for secret in found}
