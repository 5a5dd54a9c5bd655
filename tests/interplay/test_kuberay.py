"""Trainers on RayClusters: KubeRay's real definitions on the real API server, KubeRay itself a fake."""

import asyncio
from collections.abc import Awaitable, Callable
from copy import deepcopy
from typing import Any

import pytest

from shoal.api.labels import Role
from shoal.kube import discovery
from shoal.kube.client import KubeClient
from shoal.kube.resources import ENVIRONMENT_POOLS, RL_JOBS, ROLLOUT_FLEETS, Resource
from tests.api.samples import FLEET, JOB, POOL
from tests.interplay.fake_kueue import WORKLOADS, fake_kueue
from tests.interplay.neighbours import install, remove
from tests.interplay.stage import Fake, Stage, operating
from tests.interplay.test_kueue import account, data_manager, runs, waits_for
from tests.kubernetes import Kubernetes

Json = dict[str, Any]

RAY_CLUSTERS = Resource("ray.io", "v1", "rayclusters", "RayCluster")

RAY: Json = {
    "rayVersion": "2.55.0",
    "headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "head"}]}}},
    "workerGroupSpecs": [
        {
            "groupName": "gpu",
            "replicas": 2,
            "minReplicas": 1,
            "maxReplicas": 4,
            "rayStartParams": {},
            "template": {"spec": {"containers": [{"name": "ray", "resources": {"limits": {"example.com/gpu": "1"}}}]}},
        }
    ],
}


def job(**ray: Any) -> Json:
    body = deepcopy(JOB)
    body["spec"]["trainer"]["ray"] = ray
    return body


def owned(spec: Json = RAY) -> Json:
    return job(cluster={"template": {"spec": deepcopy(spec)}})


def fake_kuberay(client: KubeClient, namespace: str) -> Callable[[], Awaitable[None]]:
    """Says of each RayCluster what KubeRay says once its head is ready, or once it is suspended; makes no pods."""

    async def step() -> None:
        for cluster in (await client.list(RAY_CLUSTERS, namespace)).items:
            name = cluster["metadata"]["name"]
            suspended = bool(cluster["spec"].get("suspend"))
            status = {
                "state": "suspended" if suspended else "ready",
                "head": {"serviceName": f"{name}-head-svc"},
                "endpoints": {"client": "10001", "gcs-server": "6379"},
                "conditions": [_condition("HeadPodReady", not suspended), _condition("RayClusterSuspended", suspended)],
            }
            if cluster.get("status", {}).get("state") != status["state"]:
                await client.patch_status(RAY_CLUSTERS, name, status, namespace)

    return step


def _condition(type_: str, true: bool) -> Json:
    status = "True" if true else "False"
    return {
        "type": type_,
        "status": status,
        "reason": "Fake",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }


async def begin(stage: Stage, body: Json) -> None:
    """The job, with a shared pool and fleet of its own names."""
    await stage.apply(ENVIRONMENT_POOLS, {**POOL, "metadata": {"name": "pool"}})
    await stage.apply(ROLLOUT_FLEETS, {**FLEET, "metadata": {"name": "fleet"}})
    await stage.apply(RL_JOBS, body)


async def trainer_config(stage: Stage) -> str:
    """The configuration of the one trainer pod."""

    async def there() -> bool:
        return len(await stage.pods(Role.TRAINER)) == 1

    await stage.until(there, "there is no trainer")
    pod = (await stage.pods(Role.TRAINER))[0]
    found = [each["value"] for each in pod["spec"]["containers"][0]["env"] if each["name"] == "SHOAL_CONFIG"]
    return str(found[0])


async def test_a_named_cluster_is_waited_for_and_joined(cluster: Kubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(discovery, "DOUBT_SECONDS", 0.2)
    remove(cluster.server, "kuberay")
    async with operating(cluster, fake_kuberay, kubeconfig=account(cluster)) as stage, data_manager(stage):
        await begin(stage, job(clusterRef={"name": "team"}))
        assert "trainer.ray.clusterRef needs KubeRay" in await waits_for(stage, "TrainerReady", "KubeRayAbsent")
        await asyncio.to_thread(install, cluster.server, "kuberay")
        assert "RayCluster team does not exist" in await waits_for(stage, "TrainerReady", "RayClusterMissing")
        assert await stage.pods(Role.TRAINER) == []
        assert len(await stage.pods(Role.DATA)) == 1, "everything else is ready when the cluster comes"
        encrypted = {**RAY, "tlsOptions": {"enabled": True}}
        await stage.apply(RAY_CLUSTERS, {"metadata": {"name": "team"}, "spec": encrypted})
        assert "tlsOptions.enabled" in await waits_for(stage, "TrainerReady", "RayClusterUnsupported")
        await stage.apply(RAY_CLUSTERS, {"metadata": {"name": "team"}, "spec": RAY})
        address = f'"ray_address":"ray://team-head-svc.{stage.namespace}.svc:10001"'
        assert address in await trainer_config(stage)
        await runs(stage)
        before = (await stage.pods(Role.TRAINER))[0]["metadata"]["uid"]
        unready = [_condition("HeadPodReady", False)]
        await stage.client.patch_status(RAY_CLUSTERS, "team", {"conditions": unready}, stage.namespace)
        await stage.client.patch(RL_JOBS, "sample", {"metadata": {"labels": {"touched": "yes"}}}, stage.namespace)
        assert (await stage.pods(Role.TRAINER))[0]["metadata"]["uid"] == before
        await stage.client.delete(RAY_CLUSTERS, "team", stage.namespace)
        await waits_for(stage, "TrainerReady", "RayClusterMissing")
        await stage.until(lambda: _none(stage, Role.TRAINER), "the trainer has no cluster and is still there")


async def _none(stage: Stage, role: str) -> bool:
    return await stage.pods(role) == []


async def test_an_owned_cluster_lives_and_rests_with_its_job(cluster: Kubernetes) -> None:
    install(cluster.server, "kuberay")
    async with operating(cluster, fake_kuberay, kubeconfig=account(cluster)) as stage, data_manager(stage):
        await begin(stage, owned({**RAY, "authOptions": {"mode": "token"}}))
        assert "ray://sample-ray-head-svc." in await trainer_config(stage)
        environment = (await stage.pods(Role.TRAINER))[0]["spec"]["containers"][0]["env"]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in environment
        reference = {"secretKeyRef": {"name": "sample-ray", "key": "auth_token"}}
        assert {"name": "RAY_AUTH_TOKEN", "valueFrom": reference} in environment
        made = (await stage.all(RAY_CLUSTERS))[0]
        assert made["metadata"]["ownerReferences"][0]["kind"] == "RLJob"
        head = made["spec"]["headGroupSpec"]["template"]
        ray = head["spec"]["containers"][0]
        assert (ray["name"], ray["image"]) == ("head", "shoal/trainer:latest")
        assert {each["mountPath"] for each in ray["volumeMounts"]} == {"/var/lib/shoal", "/var/lib/shoal-model"}
        assert head["metadata"]["labels"]["rl.shoal.dev/job"] == "sample"
        worker = made["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
        assert worker["resources"]["limits"] == {"example.com/gpu": "1"}
        await runs(stage)
        version = made["metadata"]["generation"]
        await stage.client.patch(RL_JOBS, "sample", {"spec": {"suspend": True}}, stage.namespace)
        await stage.until(lambda: _suspended(stage), "the RayCluster was not suspended")
        await waits_for(stage, "TrainerReady", "RayClusterSuspended")
        await stage.client.patch(RL_JOBS, "sample", {"spec": {"suspend": False}}, stage.namespace)
        await runs(stage)
        assert (await stage.all(RAY_CLUSTERS))[0]["metadata"]["generation"] == version + 2, "written twice, no more"
        await stage.client.delete(RL_JOBS, "sample", stage.namespace)


async def _suspended(stage: Stage) -> bool:
    return [each["spec"].get("suspend") for each in await stage.all(RAY_CLUSTERS)] == [True]


async def test_a_cluster_that_kuberay_refuses_is_told_with_the_field(cluster: Kubernetes) -> None:
    install(cluster.server, "kuberay")
    async with operating(cluster, fake_kuberay, kubeconfig=account(cluster)) as stage, data_manager(stage):
        wrong = {**RAY, "workerGroupSpecs": [{"groupName": "gpu", "replicas": "two"}]}
        await begin(stage, owned(wrong))
        message = await waits_for(stage, "TrainerReady", "RayClusterRefused")
        assert "workerGroupSpecs[0].replicas" in message
        assert len(await stage.pods(Role.DATA)) == 1
        spec = {"trainer": {"ray": {"cluster": {"template": {"spec": RAY}}}}}
        await stage.client.patch(RL_JOBS, "sample", {"spec": spec}, stage.namespace)
        await runs(stage)


async def test_a_queue_counts_and_places_the_cluster(cluster: Kubernetes) -> None:
    install(cluster.server, "kuberay", "kueue")
    updates = [{"name": "ray-gpu", "nodeSelector": {"zone": "a"}}, {"name": "ray-head", "labels": {"admitted": "yes"}}]
    made, kueue = fake_kueue(updates=updates)
    fakes: list[Fake] = [fake_kuberay, kueue]
    async with operating(cluster, *fakes, kubeconfig=account(cluster)) as stage, data_manager(stage):
        body = owned()
        body["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team"}
        await begin(stage, body)
        await runs(stage)
        sets = {each["name"]: each["count"] for each in (await stage.all(WORKLOADS))[0]["spec"]["podSets"]}
        assert sets == {"data": 1, "trainer": 1, "agents": 1, "ray-head": 1, "ray-gpu": 2}
        spec = (await stage.all(RAY_CLUSTERS))[0]["spec"]
        assert spec["workerGroupSpecs"][0]["template"]["spec"]["nodeSelector"] == {"zone": "a"}
        assert spec["headGroupSpec"]["template"]["metadata"]["labels"]["admitted"] == "yes"
        made[0].open = False
        made[0].evict = ("Preempted", "another goes first")
        await waits_for(stage, "Suspended", "Evicted")
        await stage.until(lambda: _suspended(stage), "the RayCluster was not suspended")
        await stage.until(lambda: _released(stage), "the reservation was not given back")
        await stage.client.delete(RL_JOBS, "sample", stage.namespace)


async def _released(stage: Stage) -> bool:
    return "admission" not in (await stage.all(WORKLOADS))[0]["status"]
