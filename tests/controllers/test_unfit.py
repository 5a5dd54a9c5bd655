"""Objects that were stored before their definition said what it says now: each is told of, and the others go on."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shoal.api.tolerant import read_status
from shoal.api.v1alpha1.environmentpool import EnvironmentPoolStatus
from shoal.controllers.job import uses
from shoal.crdgen import generate
from shoal.engine.keys import ObjectKey
from shoal.engine.manager import Result
from shoal.kube.resources import CORE_EVENTS, ENVIRONMENT_POOLS, PODS, RL_JOBS, ROLLOUT_FLEETS, Resource
from tests.api.samples import FLEET, JOB, POOL, changed
from tests.controllers.watched import Watched, complaints, definition, install, operating, schema
from tests.kubernetes import Kubernetes
from tests.neighbours.fakes import neighbourhood

Json = dict[str, Any]
ANYTHING = {"x-kubernetes-preserve-unknown-fields": True}
CONDITION = {"type": "Available", "status": "True", "reason": "x", "lastTransitionTime": "2026-01-01T00:00:00Z"}


def lax(resource: Resource) -> Json:
    """The definition of a version that validated nothing."""
    body = definition(resource)
    version = body["spec"]["versions"][0]
    version["schema"]["openAPIV3Schema"].pop("x-kubernetes-validations", None)
    version["schema"]["openAPIV3Schema"].pop("required", None)
    version["subresources"].pop("scale", None)
    schema(body).update(spec=dict(ANYTHING), status=dict(ANYTHING))
    return body


def named(body: Json, name: str) -> Json:
    return {**body, "metadata": {"name": name}}


BAD = [
    (ENVIRONMENT_POOLS, named(changed("EnvironmentPool", "spec.environment.protocol", "Telnet"), "enum"), "protocol"),
    (ENVIRONMENT_POOLS, named(changed("EnvironmentPool", "spec.replicas", "many"), "type"), "spec.replicas"),
    (ENVIRONMENT_POOLS, named(changed("EnvironmentPool", "spec.environment", None), "field"), "spec.environment"),
    (ENVIRONMENT_POOLS, {key: POOL[key] for key in ("apiVersion", "kind")} | {"metadata": {"name": "none"}}, "spec"),
    (ROLLOUT_FLEETS, named(changed("RolloutFleet", "spec.model.source", 7), "number"), "spec.model.source"),
    (RL_JOBS, named(changed("RLJob", "spec.trainer.steps", "ten"), "job-type"), "spec.trainer.steps"),
    (RL_JOBS, named(changed("RLJob", "spec.environments", "all"), "job-shape"), "spec.environments"),
    (RL_JOBS, named(changed("RLJob", "spec.fleet", None), "job-field"), "spec.fleet"),
]


async def store(watched_by: Kubernetes) -> None:
    """Everything bad and one good object of each kind, as an older operator's users left them."""
    server, namespace = watched_by.server, watched_by.namespace
    install(server, *(lax(each) for each in (ENVIRONMENT_POOLS, ROLLOUT_FLEETS, RL_JOBS)))
    for resource, body, _ in BAD:
        await apply(watched_by, resource, body)
    for resource, body in ((ENVIRONMENT_POOLS, POOL), (ROLLOUT_FLEETS, FLEET), (RL_JOBS, named(JOB, "zulu"))):
        await apply(watched_by, resource, body)
    for status in ("text", {"conditions": [CONDITION, {"type": 7}], "replicas": "three", "endpoint": ["x"]}):
        name = "odd-text" if status == "text" else "odd-parts"
        await apply(watched_by, ENVIRONMENT_POOLS, named(POOL, name))
        patch = ["patch", "envpool", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})]
        server.kubectl(f"--namespace={namespace}", *patch)
    install(server, *generate.definitions())


async def apply(cluster: Kubernetes, resource: Resource, body: Json) -> None:
    """Store without the checks of a client; the definition may have come a moment ago."""
    for _ in range(50):
        said = cluster.kubectl("create", "--validate=false", "-f", "-", stdin=json.dumps(body), check=False)
        if "created" in said:
            return
        await asyncio.sleep(0.2)
    raise AssertionError(f"{resource}: {said}")


async def test_each_unfit_object_is_told_of_alone(cluster: Kubernetes, caplog: pytest.LogCaptureFixture) -> None:
    await store(cluster)
    async with operating(cluster) as watched:
        for resource, body, words in BAD:
            await watched.until_degraded(resource, "InvalidSpec", words, name=body["metadata"]["name"])
        for name in ("sample", "odd-text", "odd-parts"):
            await until_members(watched, name)
        assert watched.manager.failing == {}
        await until_waiting(watched, "zulu")
        events = (await watched.client.list(CORE_EVENTS, cluster.namespace)).items
        told = {event["involvedObject"]["name"] for event in events if event["reason"] == "InvalidSpec"}
        assert {body["metadata"]["name"] for _, body, _ in BAD} <= told
        counted = count_passes(watched)
        await asyncio.sleep(3)
        # A change of what a job uses may wake it once or twice; nothing is worked on again and again.
        assert all(counted[body["metadata"]["name"]] <= 3 for _, body, _ in BAD), counted
        assert complaints(caplog) == []


async def until_members(watched: Watched, pool: str) -> None:
    async def filled() -> bool:
        label = f"rl.shoal.dev/role=environment,rl.shoal.dev/pool={pool}"
        return len((await watched.client.list(PODS, watched.namespace, labels=label)).items) == 1

    await watched.until(f"pool {pool} has its member", filled)


async def until_waiting(watched: Watched, job: str) -> None:
    async def waits() -> bool:
        body = await watched.client.get(RL_JOBS, job, watched.namespace)
        return bool((body.get("status") or {}).get("conditions"))

    await watched.until(f"job {job} is worked on", waits)


def count_passes(watched: Watched) -> Counter[str]:
    """Count the passes over each object from now on."""
    counted: Counter[str] = Counter()
    for controller in watched.manager.controllers:
        inner = controller.reconciler.reconcile

        async def reconcile(key: ObjectKey, inner: Callable[[ObjectKey], Awaitable[Result]] = inner) -> Result:
            counted[key.name] += 1
            return await inner(key)

        controller.reconciler.reconcile = reconcile  # type: ignore[method-assign]
    return counted


def test_a_status_of_another_form_is_read_as_far_as_it_fits() -> None:
    stored = {"replicas": "three", "readyReplicas": 2, "conditions": [CONDITION, {"type": 7}, "x"]}
    status = read_status(EnvironmentPoolStatus, stored)
    assert (status.replicas, status.ready_replicas) == (0, 2)
    assert [each.type for each in status.conditions] == ["Available"]
    assert read_status(EnvironmentPoolStatus, {"conditions": "none", "variants": {"a": 1}}).conditions == []


@pytest.mark.parametrize(
    "spec", [None, "text", {}, {"fleet": None, "environments": [None, {"ref": "x"}]}, {"fleet": 1}]
)
def test_a_job_of_another_form_hides_no_other_from_what_changed(spec: Any) -> None:
    body = {"metadata": {"name": "job"}, "spec": spec}
    assert not uses("EnvironmentPool", body, "other")
    assert uses("RolloutFleet", body, "job-fleet")
    kuberay = next(each for each in neighbourhood().all if each.dependency == "RayCluster")
    assert kuberay.uses(body, "job-ray")
