"""The chart's monitors and rules against Prometheus Operator's real definitions, and against the pods built."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.api.v1alpha1.rolloutfleet import RolloutFleetSpec
from shoal.builders import environment, fleet, job
from shoal.builders.images import Images
from tests.api.samples import FLEET, JOB, POOL
from tests.chart.helm import Helm, find_helm, of_kind
from tests.interplay.neighbours import install
from tests.kubernetes import Kubernetes, ProgramsMissingError

Json = dict[str, Any]

VALUES: Json = {
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
}
KINDS = ("ServiceMonitor", "PodMonitor", "PrometheusRule")


@pytest.fixture
def monitors(tmp_path: Path) -> list[Json]:
    try:
        rendered = Helm(find_helm(), tmp_path).render(VALUES)
    except ProgramsMissingError as reason:
        pytest.skip(str(reason))
    return [body for kind in KINDS for body in of_kind(rendered, kind)]


async def test_prometheus_operator_takes_them_field_by_field(cluster: Kubernetes, monitors: list[Json]) -> None:
    await asyncio.to_thread(install, cluster.server, "prometheus-operator")
    assert [body["kind"] for body in monitors] == list(KINDS)
    for body in monitors:
        body["metadata"]["namespace"] = cluster.namespace
        # Strict: a field that the definition does not know is refused, not dropped.
        stored = cluster.kubectl("create", "--validate=strict", "-o", "yaml", "-f", "-", stdin=yaml.safe_dump(body))
        assert yaml.safe_load(stored)["spec"] == body["spec"]


def pods() -> list[Json]:
    """One pod of every role."""
    images = Images()
    pool = EnvironmentPoolSpec.model_validate(POOL["spec"])
    engines = RolloutFleetSpec.model_validate(FLEET["spec"])
    training = RLJobSpec.model_validate(JOB["spec"])
    pools, fleets, jobs = (
        owner("sample", "n", "uid") for owner in (environment.pool_owner, fleet.fleet_owner, job.job_owner)
    )
    return [
        environment.build_broker(pools, pool, images),
        *environment.build_members(pools, pool, images).values(),
        fleet.build_gateway(fleets, engines, images),
        *fleet.build_engines(fleets, engines, images).values(),
        job.build_data(jobs, training, images),
        job.build_agent(jobs, training, images),
        job.build_trainer(jobs, training, images),
    ]


def test_every_role_is_scraped_where_it_listens(monitors: list[Json]) -> None:
    (monitor,) = of_kind(monitors, "PodMonitor")
    selector, (endpoint,) = monitor["spec"]["selector"], monitor["spec"]["podMetricsEndpoints"]
    for pod in pods():
        labels = pod["metadata"]["labels"]
        assert selector["matchLabels"].items() <= labels.items()
        assert all(each["operator"] == "Exists" and each["key"] in labels for each in selector["matchExpressions"])
        ports = [port["name"] for container in pod["spec"]["containers"] for port in container.get("ports", ())]
        assert ports.count(endpoint["port"]) == 1, labels
