"""The example's RLJob, fitted to a cluster."""

from __future__ import annotations

from typing import Any

import yaml

from e2e.providers import Cluster
from e2e.providers.base import Json
from e2e.providers.examples import EXAMPLE

NAME = "frozenlake"
FIRST_STEP_SECONDS = 900.0
"""Two engines and a trainer load their libraries at once: a minute alone, many on a machine that others use."""


def example(cluster: Cluster, namespace: str, **trainer: Any) -> Json:
    """The main example's manifest with this cluster's volume and model; `trainer` replaces fields of its trainer."""
    job: Json = yaml.safe_load(EXAMPLE.read_text())
    job["metadata"]["namespace"] = namespace
    job["spec"]["storage"] = cluster.storage(namespace)
    job["spec"]["model"]["source"] = cluster.model(namespace)
    job["spec"]["trainer"].update(trainer)
    return job


def status(cluster: Cluster, namespace: str) -> Json:
    """The job's status."""
    return dict(cluster.get("rljob", NAME, namespace).get("status", {}))


def step(cluster: Cluster, namespace: str) -> int:
    """Steps that the job has done."""
    return int(status(cluster, namespace).get("step", 0))
