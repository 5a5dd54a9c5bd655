"""Pools whose members are Sandboxes of kubernetes-sigs/agent-sandbox, with its real definition on a real API server."""

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec
from shoal.builders.environment import build_members, pool_owner
from shoal.builders.images import Images
from shoal.kube import discovery
from shoal.kube.client import KubeClient
from shoal.kube.resources import ENVIRONMENT_POOLS, PODS, Resource
from shoal.neighbours.sandbox.manifest import sandbox_of
from tests.api.samples import changed
from tests.interplay.neighbours import install, remove
from tests.interplay.stage import (
    Json,
    Stage,
    accepts,
    allow,
    counting,
    install_shoal,
    operating,
    operator_account,
)
from tests.kubernetes import Kubernetes

SANDBOXES = Resource("agents.x-k8s.io", "v1beta1", "sandboxes", "Sandbox")


class FakeSandboxController:
    """Makes pods and conditions as agent-sandbox's sandbox_controller.go does (main of August 2026); no Services."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    async def step(self) -> None:
        pods = {pod["metadata"]["name"]: pod for pod in (await self._client.list(PODS, self._namespace)).items}
        for sandbox in (await self._client.list(SANDBOXES, self._namespace)).items:
            metadata = sandbox["metadata"]
            if "deletionTimestamp" in metadata:
                continue
            assert sandbox["spec"]["service"] is False
            pod = pods.get(metadata["name"])
            if pod is None:
                pod = await self._client.create(PODS, _pod_of(sandbox), self._namespace)
                note = {"metadata": {"annotations": {"agents.x-k8s.io/pod-name": metadata["name"]}}}
                await self._client.patch(SANDBOXES, metadata["name"], note, self._namespace)
            if pod["metadata"]["ownerReferences"][0]["uid"] == metadata["uid"]:
                await self._report(sandbox, pod)

    async def _report(self, sandbox: Json, pod: Json) -> None:
        told = {each["type"]: each["status"] for each in pod.get("status", {}).get("conditions", [])}
        ready = "True" if told.get("Ready") == "True" else "False"
        if [each["status"] for each in sandbox.get("status", {}).get("conditions", [])] == [ready]:
            return
        condition = {
            "type": "Ready",
            "status": ready,
            "reason": "DependenciesReady" if ready == "True" else "DependenciesNotReady",
            "message": f"Pod exists with phase: {pod['status']['phase']}",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        await self._client.patch_status(
            SANDBOXES, sandbox["metadata"]["name"], {"conditions": [condition]}, self._namespace
        )


def _pod_of(sandbox: Json) -> Json:
    metadata, template = sandbox["metadata"], sandbox["spec"]["podTemplate"]
    labels = {key: value for key, value in template["metadata"]["labels"].items() if "agents.x-k8s.io/" not in key}
    annotations = dict(template["metadata"].get("annotations", {}))
    noted = {"agents.x-k8s.io/propagated-labels": ",".join(sorted(labels))}
    owner = {
        "apiVersion": SANDBOXES.api_version,
        "kind": "Sandbox",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    name_hash = f"{zlib.crc32(metadata['name'].encode()):08x}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": metadata["name"],
            "labels": {**labels, "agents.x-k8s.io/sandbox-name-hash": name_hash},
            "annotations": annotations | noted,
            "ownerReferences": [owner],
        },
        "spec": template["spec"],
    }


def pool(replicas: int, **spec: Any) -> Json:
    body = changed("EnvironmentPool", "spec.replicas", replicas)
    body["spec"] |= {"backend": "AgentSandbox", **spec}
    return body


def controller(client: KubeClient, namespace: str) -> Callable[[], Awaitable[None]]:
    return FakeSandboxController(client, namespace).step


@pytest.fixture
async def stage(settled: Kubernetes, account: Path) -> AsyncIterator[Stage]:
    async with operating(settled, controller, kubeconfig=account) as stage_:
        yield stage_


async def ready(stage: Stage, count: int) -> bool:
    status = await stage.status(ENVIRONMENT_POOLS)
    counts = [status.get(name) for name in ("readyReplicas", "replicas", "updatedReplicas")]
    return counts == [count] * 3 and len(await stage.all(SANDBOXES)) == count


async def available(stage: Stage) -> bool:
    return (await stage.condition(ENVIRONMENT_POOLS, "Available"))[0] == "True"


def uids(objects: list[Json]) -> set[str]:
    return {each["metadata"]["uid"] for each in objects}


async def test_a_pool_of_sandboxes_is_filled_and_shrunk_and_never_above_its_size(stage: Stage) -> None:
    async with counting(stage, "environment") as census:
        await stage.apply(ENVIRONMENT_POOLS, pool(5))
        await stage.until(lambda: ready(stage, 5), "5 members are ready")
        sandboxes, pods = await stage.all(SANDBOXES), await stage.pods("environment")
        assert {pod["metadata"]["ownerReferences"][0]["uid"] for pod in pods} == uids(sandboxes)
        (body,) = await stage.all(ENVIRONMENT_POOLS)
        assert all(each["metadata"]["ownerReferences"][0]["uid"] == body["metadata"]["uid"] for each in sandboxes)
        await stage.until(lambda: available(stage), "the broker answers")
        busy = pods[0]["metadata"]["name"]
        stage.services.busy = {busy}
        await stage.apply(ENVIRONMENT_POOLS, pool(2))
        await stage.until(lambda: ready(stage, 2), "2 members are left", seconds=60)
        assert busy in {pod["metadata"]["name"] for pod in await stage.pods("environment")}, "idle ones go first"
        assert census.peak == 5


async def test_a_new_template_replaces_sandboxes_once_nobody_holds_a_lease(stage: Stage) -> None:
    async with counting(stage, "environment") as census:
        await stage.apply(ENVIRONMENT_POOLS, pool(3))
        await stage.until(lambda: ready(stage, 3), "3 members are ready")
        first = await stage.all(SANDBOXES)
        busy = first[0]["metadata"]["name"]
        stage.services.busy = {busy}
        await stage.apply(ENVIRONMENT_POOLS, pool(3, template={"metadata": {"labels": {"generation": "two"}}}))

        async def all_but_one() -> bool:
            return uids(first) & uids(await stage.all(SANDBOXES)) == {first[0]["metadata"]["uid"]}

        await stage.until(all_but_one, "the idle ones are replaced", seconds=60)

        async def asked() -> bool:
            return busy in stage.services.asked_to_go

        await stage.until(asked, "the busy one is asked to drain")
        assert uids(first) & uids(await stage.all(SANDBOXES)) == {first[0]["metadata"]["uid"]}
        stage.services.busy = set()
        await stage.until(lambda: ready(stage, 3), "all are of the new template", seconds=60)
        assert not uids(first) & uids(await stage.all(SANDBOXES))
        assert {pod["metadata"]["labels"]["generation"] for pod in await stage.pods("environment")} == {"two"}
        assert census.peak <= 4, "one above the size, the surge of a quarter"


async def test_changing_the_backend_replaces_the_members_both_ways(stage: Stage) -> None:
    async with counting(stage, "environment") as census:
        await stage.apply(ENVIRONMENT_POOLS, pool(2, backend="Pod"))

        async def plain() -> bool:
            status = await stage.status(ENVIRONMENT_POOLS)
            alone = not await stage.all(SANDBOXES)
            return alone and (status.get("readyReplicas"), status.get("updatedReplicas")) == (2, 2)

        await stage.until(plain, "2 pods are ready")
        await stage.apply(ENVIRONMENT_POOLS, pool(2))
        await stage.until(lambda: ready(stage, 2), "2 Sandboxes have taken their place", seconds=60)
        assert all(
            pod["metadata"]["ownerReferences"][0]["kind"] == "Sandbox" for pod in await stage.pods("environment")
        )
        await stage.apply(ENVIRONMENT_POOLS, pool(2, backend="Pod"))
        await stage.until(plain, "and 2 pods again", seconds=60)
        assert census.peak <= 3


async def test_a_member_whose_sandbox_is_deleted_by_hand_is_made_anew(stage: Stage) -> None:
    await stage.apply(ENVIRONMENT_POOLS, pool(2))
    await stage.until(lambda: ready(stage, 2), "2 members are ready")
    victim = (await stage.all(SANDBOXES))[0]["metadata"]
    await stage.client.delete(SANDBOXES, victim["name"], stage.namespace, uid=victim["uid"])

    async def replaced() -> bool:
        return victim["uid"] not in uids(await stage.all(SANDBOXES)) and await ready(stage, 2)

    await stage.until(replaced, "another one stands in its place", seconds=60)


async def test_suspend_removes_all_sandboxes_and_deletion_all_that_is_left(stage: Stage) -> None:
    await stage.apply(ENVIRONMENT_POOLS, pool(2))
    await stage.until(lambda: ready(stage, 2), "2 members are ready")
    await stage.apply(ENVIRONMENT_POOLS, pool(2, suspend=True))

    async def resting() -> bool:
        return not await stage.all(SANDBOXES) and not await stage.all(PODS)

    await stage.until(resting, "no Sandbox and no pod is left", seconds=60)
    await stage.apply(ENVIRONMENT_POOLS, pool(2))
    await stage.until(lambda: ready(stage, 2), "2 members are ready again", seconds=60)
    await stage.client.delete(ENVIRONMENT_POOLS, "sample", stage.namespace)
    await stage.until(resting, "everything is garbage collected", seconds=90)


async def test_an_operator_that_is_killed_half_way_makes_no_sandbox_too_many(settled: Kubernetes) -> None:
    async with operating(settled, controller) as stage:
        await stage.apply(ENVIRONMENT_POOLS, pool(30, scale={"max": 30, "refillRate": 8}))

        async def begun() -> bool:
            return len(await stage.all(SANDBOXES)) >= 5

        await stage.until(begun, "some are there")
        await stage.kill_operator()
    async with operating(settled, controller) as stage, counting(stage, "environment") as census:
        await stage.until(lambda: ready(stage, 30), "30 members are ready", seconds=60)
        assert census.peak == 30


@pytest.mark.parametrize(
    "environment",
    [
        {"protocol": "Gymnasium", "entrypoint": "FrozenLake-v1"},
        {"protocol": "OpenEnv", "image": "example/echo"},
    ],
)
def test_the_definition_knows_every_field_of_a_built_member(settled: Kubernetes, environment: Json) -> None:
    user = {"spec": {"priorityClassName": "low", "tolerations": [{"key": "gpu", "operator": "Exists"}]}}
    isolation = {"runtimeClassName": "gvisor"}
    spec = EnvironmentPoolSpec.model_validate(
        pool(1, environment=environment, template=user, isolation=isolation)["spec"]
    )
    owner = pool_owner("sample", settled.namespace, "u1")
    accepts(settled, sandbox_of(owner, build_members(owner, spec, Images("1"))["default"]))


async def test_a_pool_says_that_sandboxes_are_forbidden_and_goes_on_once_they_are_not(
    settled: Kubernetes, tmp_path: Path
) -> None:
    kubeconfig = operator_account(settled.server, "unprivileged", tmp_path / "kubeconfig")
    async with operating(settled, controller, kubeconfig=kubeconfig) as stage:
        await stage.apply(ENVIRONMENT_POOLS, pool(2))

        async def told() -> bool:
            return (await stage.condition(ENVIRONMENT_POOLS, "Degraded"))[1] == "BackendForbidden"

        await stage.until(told, "the pool says what is forbidden")
        assert "sandboxes" in (await stage.condition(ENVIRONMENT_POOLS, "Degraded"))[2]
        assert await stage.all(SANDBOXES) == []
        allow(settled.server, "unprivileged", "agent-sandbox")
        await stage.until(lambda: ready(stage, 2), "2 members are ready", seconds=60)
        await stage.apply(ENVIRONMENT_POOLS, pool(0))
        await stage.until(lambda: ready(stage, 0), "they can be deleted as well", seconds=60)


async def test_a_pool_says_that_agent_sandbox_is_missing_and_goes_on_once_it_is_there(
    cluster: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "LOOK_SECONDS", 1.0)
    remove(cluster.server, "agent-sandbox")
    install_shoal(cluster.server)
    async with operating(cluster, controller) as stage:
        await stage.apply(ENVIRONMENT_POOLS, pool(2))

        async def told() -> bool:
            degraded = await stage.condition(ENVIRONMENT_POOLS, "Degraded")
            available = await stage.condition(ENVIRONMENT_POOLS, "Available")
            return degraded[:2] == ("True", "BackendMissing") and available[:2] == ("False", "BackendMissing")

        await stage.until(told, "the pool says what is missing")
        message = (await stage.condition(ENVIRONMENT_POOLS, "Degraded"))[2]
        assert "kubernetes-sigs/agent-sandbox" in message
        assert await stage.pods("environment") == []
        assert "BackendMissing" in await stage.events()
        install(cluster.server, "agent-sandbox")
        await stage.until(lambda: ready(stage, 2), "2 members are ready", seconds=60)
        assert (await stage.condition(ENVIRONMENT_POOLS, "Degraded"))[0] == "False"
