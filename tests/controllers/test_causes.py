"""Causes on a real API server: each is made as a cluster makes it, and read from the resource's condition."""

import asyncio
from typing import Any

import pytest

from shoal.controllers import podevents
from shoal.engine.recorder import Reference
from shoal.kube.resources import (
    CORE_EVENTS,
    ENVIRONMENT_POOLS,
    PODS,
    RL_JOBS,
    ROLLOUT_FLEETS,
    SECRETS,
    SERVICES,
    Resource,
)
from tests.api.samples import FLEET, JOB, POOL
from tests.controllers.test_operator import Bench, operating
from tests.kubernetes import Kubernetes

Json = dict[str, Any]
PLANES = [(ENVIRONMENT_POOLS, POOL, "broker"), (ROLLOUT_FLEETS, FLEET, "gateway"), (RL_JOBS, JOB, "data")]
QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")


async def degraded(bench: Bench, resource: Resource, reason: str, *words: str) -> None:
    async def told() -> bool:
        seen = await bench.condition(resource, "Degraded")
        return seen.get("reason") == reason and all(word in seen["message"] for word in words)

    await bench.until(told, f"Degraded for {reason}, not {await bench.condition(resource, 'Degraded')}", seconds=30)


async def quota(bench: Bench, **hard: str) -> None:
    """As an administrator sets one; its controller does not run, so its status is written here."""
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": hard}}
    await bench.client.create(QUOTAS, body, bench.namespace)
    status = {"hard": hard, "used": dict.fromkeys(hard, "0")}
    await bench.client.patch_status(QUOTAS, "few", status, bench.namespace)


@pytest.mark.parametrize(("resource", "body", "role"), PLANES)
@pytest.mark.parametrize(("hard", "kind"), [("services", "Service"), ("secrets", "Secret"), ("pods", "pod")])
async def test_a_quota_is_told_whatever_it_refuses(
    kubernetes: Kubernetes, resource: Resource, body: Json, role: str, hard: str, kind: str
) -> None:
    async with operating(kubernetes) as bench:
        await quota(bench, **{hard: "0"})
        await bench.apply(resource, body)
        await degraded(bench, resource, "CreateRefused", kind, "exceeded quota")
        assert await bench.pods(role) == []
        await bench.client.delete(QUOTAS, "few", bench.namespace)

        async def made() -> bool:
            return len(await bench.pods(role)) == 1

        await bench.until(made, f"the {role} is made once the quota is gone", seconds=45)


@pytest.mark.parametrize(("resource", "body", "role"), PLANES)
async def test_a_strangers_pod_under_a_childs_name_is_told_and_left(
    kubernetes: Kubernetes, resource: Resource, body: Json, role: str
) -> None:
    async with operating(kubernetes) as bench:
        name = f"sample-{role}"
        theirs = {"metadata": {"name": name, "labels": {"rl.shoal.dev/role": "none"}}}
        spec = {"containers": [{"name": "c", "image": "x"}]}
        made = await bench.client.create(
            PODS, {"apiVersion": "v1", "kind": "Pod", **theirs, "spec": spec}, bench.namespace
        )
        await bench.apply(resource, body)
        await degraded(bench, resource, "NameTaken", f"Pod {name}")
        still = await bench.client.get(PODS, name, bench.namespace)
        assert still["metadata"]["uid"] == made["metadata"]["uid"]


async def test_a_mount_that_fails_is_told_from_its_event(
    kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podevents, "FIRST_SECONDS", 0.5)
    monkeypatch.setattr(podevents, "LOOK_SECONDS", 1.0)
    async with operating(kubernetes) as bench:
        bench.kubelet.stuck.add("environment")
        await bench.apply(ENVIRONMENT_POOLS, POOL)

        async def bound() -> bool:
            found = await bench.pods("environment")
            return bool(found) and bool(found[0]["spec"].get("nodeName"))

        await bench.until(bound, "a member has a node")
        pod = (await bench.pods("environment"))[0]["metadata"]
        about = Reference("v1", "Pod", bench.namespace, pod["name"], pod["uid"]).to_json()
        stamp = pod["creationTimestamp"]
        event = {"metadata": {"name": "mount"}, "involvedObject": about, "type": "Warning", "reason": "FailedMount"}
        event |= {"message": 'MountVolume.SetUp failed for volume "creds": secret "creds" not found'}
        event |= {"firstTimestamp": stamp, "lastTimestamp": stamp, "apiVersion": "v1", "kind": "Event"}
        await bench.client.create(CORE_EVENTS, event, bench.namespace)
        await degraded(bench, ENVIRONMENT_POOLS, "ConfigurationMissing", pod["name"], 'secret "creds" not found')


async def test_a_label_that_somebody_takes_away_neither_loses_nor_multiplies_children(kubernetes: Kubernetes) -> None:
    async with operating(kubernetes) as bench:
        await bench.apply(ENVIRONMENT_POOLS, POOL)

        async def whole() -> bool:
            return len(await bench.pods("environment")) == 1 and len(await bench.pods("broker")) == 1

        await bench.until(whole, "the pool is filled")
        gone = {"metadata": {"labels": {"app.kubernetes.io/managed-by": "platform"}}}
        for resource in (PODS, SECRETS, SERVICES):
            for each in (await bench.client.list(resource, bench.namespace, labels="rl.shoal.dev/pool=sample")).items:
                await bench.client.patch(resource, each["metadata"]["name"], gone, bench.namespace)

        async def restored() -> bool:
            found = (await bench.client.list(SECRETS, bench.namespace, labels="rl.shoal.dev/pool=sample")).items
            return {each["metadata"]["labels"]["app.kubernetes.io/managed-by"] for each in found} == {"shoal"}

        await bench.until(restored, "the Secrets have their label again")
        await asyncio.sleep(1.0)
        assert await whole()
