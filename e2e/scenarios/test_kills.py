"""SIGKILL of one process of every role while a model learns: the job goes on, and trains whole groups alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from e2e.providers import Cluster
from e2e.providers.base import Feature
from e2e.providers.processes import kill
from e2e.scenarios.jobs import FIRST_STEP_SECONDS, example, status, step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.needs(Feature.PROCESSES)]

ROLES = ("environment", "engine", "data", "trainer", "broker", "gateway", "agent")
STEPS_BETWEEN = 2


def _reached(cluster: Cluster, namespace: str, number: int) -> bool:
    return step(cluster, namespace) >= number


def test_every_role_may_be_killed_once(cluster: Cluster, namespace: str, evidence: Path) -> None:
    # Longer than the scenario needs: it ends with the last victim, not with the job.
    cluster.apply(example(cluster, namespace, steps=400))
    cluster.until(lambda: step(cluster, namespace) >= 1, "the first step", FIRST_STEP_SECONDS)
    for role in ROLES:
        before = step(cluster, namespace)
        victims = cluster.list("pods", namespace, f"rl.shoal.dev/role={role}")
        kill(victims[0]["metadata"]["name"])
        reached = partial(_reached, cluster, namespace, before + STEPS_BETWEEN)
        seconds = cluster.until(reached, f"going on without the {role}", 300)
        print(f"{role}: {STEPS_BETWEEN} more steps after {seconds:.0f} s")
    found = status(cluster, namespace)
    conditions = {each["type"]: each["status"] for each in found["conditions"]}
    assert conditions.get("Failed") != "True", found["conditions"]
    assert found["trajectories"]["trained"] >= found["step"] * 64, "every step trains whole groups"
