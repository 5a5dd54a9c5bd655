"""RLJobs in a Kueue queue: real definitions on the real API server, and a fake that patches as Kueue does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shoal.api.labels import PORTS, Role
from shoal.api.services.trajectories import DataStatus
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.builders.images import Images
from shoal.builders.job import job_owner
from shoal.controllers import job as job_controller
from shoal.kube import discovery
from shoal.kube.client import KubeClient
from shoal.kube.errors import NotFoundError
from shoal.kube.kubeconfig import kubeconfig_source
from shoal.kube.resources import ENVIRONMENT_POOLS, PODS, RL_JOBS, ROLLOUT_FLEETS
from shoal.neighbours.kueue.workload import Priority, build_workload, pod_sets_of
from tests.api.samples import JOB
from tests.interplay.fake_kueue import FLAVORS, PRIORITIES, WORKLOADS, FakeKueue, fake_kueue
from tests.interplay.neighbours import install, remove
from tests.interplay.stage import Stage, operating, operator_account
from tests.kubernetes import Kubernetes

Json = dict[str, Any]

# The slow ones repeat on the real server what tests/neighbours/test_kueue_decisions.py and test_kueue.py show.

POOL_SPEC: Json = {
    "environment": {"protocol": "Gymnasium", "entrypoint": "FrozenLake-v1"},
    "scale": {"min": 1, "max": 4},
    "template": {"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "1"}}}]}},
}


def job(**changes: Any) -> Json:
    """A job that owns its pool and fleet and waits in the queue `team`."""
    body = deepcopy(JOB)
    body["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team"}
    gpu = {"containers": [{"name": "main", "resources": {"limits": {"example.com/gpu": "1"}}}]}
    body["spec"] |= {
        "fleet": {"template": {"spec": {"workerGroups": [{"name": "large", "template": {"spec": gpu}}]}}},
        "environments": [{"name": "lake", "template": {"spec": deepcopy(POOL_SPEC)}}],
        "agents": {"replicas": 2},
        **changes,
    }
    return body


@asynccontextmanager
async def data_manager(stage: Stage) -> AsyncIterator[list[DataStatus]]:
    """Answers as the job's data manager, with the one status in the list."""
    told = [DataStatus.model_construct()]
    told[0] = DataStatus()

    async def status(_: web.Request) -> web.Response:
        return web.Response(text=told[0].model_dump_json(), content_type="application/json")

    application = web.Application()
    application.router.add_get("/status", status)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, f"{stage.node.address.rpartition('.')[0]}.1", PORTS[Role.DATA]).start()
    try:
        yield told
    finally:
        await runner.cleanup()


def account(cluster: Kubernetes) -> Path:
    """The kubeconfig of an operator that may do what the chart's roles let it, and nothing else."""
    path = cluster.server.folder / "operator"
    if not path.exists():
        operator_account(cluster.server, "operator", path, "kueue", "kuberay")
    return path


@asynccontextmanager
async def queueing(cluster: Kubernetes, **settings: Any) -> AsyncIterator[tuple[Stage, FakeKueue]]:
    install(cluster.server, "kueue")
    made, make = fake_kueue(**settings)
    async with operating(cluster, make, kubeconfig=account(cluster)) as stage, data_manager(stage):
        yield stage, made[0]


async def workload(stage: Stage) -> Json:
    found = await stage.all(WORKLOADS)
    assert len(found) == 1, f"{len(found)} Workloads"
    return found[0]


async def waits_for(stage: Stage, type_: str, reason: str) -> str:
    """Wait until the job's condition has this reason; return its message."""

    async def true() -> bool:
        return (await stage.condition(RL_JOBS, type_))[1] == reason

    await stage.until(true, f"{type_} never had reason {reason}")
    return (await stage.condition(RL_JOBS, type_))[2]


async def runs(stage: Stage) -> None:
    async def true() -> bool:
        return (await stage.status(RL_JOBS)).get("phase") == "Running"

    try:
        await stage.until(true, "the job does not run")
    except AssertionError as error:
        raise AssertionError(f"the job does not run: {await stage.status(RL_JOBS)}") from error


async def rests(stage: Stage) -> None:
    async def true() -> bool:
        return not await stage.all(PODS)

    await stage.until(true, "the job's pods did not go")


async def test_a_job_runs_only_while_admitted_and_where_its_flavors_are(cluster: Kubernetes) -> None:
    flavor = {
        "metadata": {"name": "spot"},
        "spec": {
            "nodeLabels": {"capacity": "spot"},
            "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
        },
    }
    updates = [{"name": "trainer", "labels": {"provisioned": "yes"}, "nodeSelector": {"zone": "a"}}]
    async with queueing(cluster, open=False, flavors={"": "spot"}, updates=updates) as (stage, kueue):
        await stage.client.apply(FLAVORS, flavor)
        await stage.apply(RL_JOBS, job())
        message = await waits_for(stage, "Suspended", "WaitingForAdmission")
        assert "LocalQueue team" in message
        await stage.until(lambda: _has(stage, "insufficient unused quota"), "Kueue's own words are not told")
        assert await stage.all(PODS) == []
        waiting = await workload(stage)
        owner = waiting["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["name"], owner["controller"]) == ("RLJob", "sample", True)
        sets = {each["name"]: each for each in waiting["spec"]["podSets"]}
        assert {name: each["count"] for name, each in sets.items()} == {
            "data": 1,
            "trainer": 1,
            "agents": 2,
            "engines-large": 1,
            "members-lake": 4,
            "services": 2,
        }
        assert [(name, each["minCount"]) for name, each in sets.items() if "minCount" in each] == [("members-lake", 1)]
        kueue.open = True
        await runs(stage)
        for role in (Role.TRAINER, Role.DATA, Role.AGENT, Role.ENGINE, Role.ENVIRONMENT):
            for pod in await stage.pods(role):
                assert pod["spec"]["nodeSelector"]["capacity"] == "spot", role
                assert flavor["spec"]["tolerations"][0] in pod["spec"]["tolerations"], role  # type: ignore[index]
        trainer = (await stage.pods(Role.TRAINER))[0]
        assert trainer["spec"]["nodeSelector"] == {"capacity": "spot", "zone": "a"}
        assert trainer["metadata"]["labels"]["provisioned"] == "yes"
        assert (await stage.condition(RL_JOBS, "Admitted"))[0] == "True"
        assert (await stage.status(RL_JOBS))["admission"]["clusterQueue"] == "cluster-queue"
        await stage.until(lambda: _ready(stage), "the Workload is not told that its pods are ready")


async def test_another_operator_and_an_edited_flavor_move_no_pod_that_runs(cluster: Kubernetes) -> None:
    async with queueing(cluster, flavors={"": "steady"}) as (stage, _):
        await stage.client.apply(FLAVORS, {"metadata": {"name": "steady"}, "spec": {"nodeLabels": {"zone": "a"}}})
        await stage.apply(RL_JOBS, job())
        await runs(stage)
        before = {pod["metadata"]["uid"] for pod in await stage.all(PODS)}
        await stage.client.apply(FLAVORS, {"metadata": {"name": "steady"}, "spec": {"nodeLabels": {"zone": "b"}}})
    async with queueing(cluster) as (stage, _):
        await stage.client.patch(RL_JOBS, "sample", {"spec": {"ttlSecondsAfterFinished": 60}}, stage.namespace)
        await stage.until(lambda: _seen(stage), "the second operator does not look at the job")
        assert before <= {pod["metadata"]["uid"] for pod in await stage.all(PODS)}
        assert (await stage.condition(RL_JOBS, "Admitted"))[0] == "True"


async def _has(stage: Stage, words: str) -> bool:
    return words in (await stage.condition(RL_JOBS, "Admitted"))[2]


async def _ready(stage: Stage) -> bool:
    found = (await workload(stage))["status"]["conditions"]
    return any(each["type"] == "PodsReady" and each["status"] == "True" for each in found)


async def test_an_evicted_job_gives_its_quota_back_and_queues_again(cluster: Kubernetes) -> None:
    async with queueing(cluster) as (stage, kueue):
        await stage.apply(RL_JOBS, job())
        await runs(stage)
        before = {pod["metadata"]["uid"] for pod in await stage.all(PODS)}
        kueue.open = False
        stage.services.busy |= {pod["metadata"]["name"] for pod in await stage.pods(Role.ENVIRONMENT)}
        kueue.evict = ("Preempted", "Preempted to accommodate a workload of higher priority")
        assert "higher priority" in await waits_for(stage, "Suspended", "Evicted")
        await stage.until(lambda: _only(stage, {Role.BROKER, Role.ENVIRONMENT}), "the others did not go")
        assert "released" not in kueue.history, "a member still has a lease"
        assert "admission" in (await workload(stage))["status"]
        stage.services.busy.clear()
        await rests(stage)
        await stage.until(lambda: _noted(kueue, "released"), "the reservation was not given back")
        released = await workload(stage)
        told = {each["type"]: (each["status"], each["reason"]) for each in released["status"]["conditions"]}
        assert told["QuotaReserved"] == ("False", "Pending")
        assert told["Admitted"] == ("False", "NoReservation")
        assert told["Requeued"] == ("True", "Preempted")
        assert "admission" not in released["status"]
        kueue.open = True
        await runs(stage)
        assert not before & {pod["metadata"]["uid"] for pod in await stage.all(PODS)}
        assert kueue.history == ["admitted", "evicted Preempted", "released", "admitted"]


async def _noted(kueue: FakeKueue, what: str) -> bool:
    return what in kueue.history


async def _only(stage: Stage, roles: set[str]) -> bool:
    return {pod["metadata"]["labels"]["rl.shoal.dev/role"] for pod in await stage.all(PODS)} == roles


async def test_suspending_gives_the_quota_back_and_resuming_queues_again(cluster: Kubernetes) -> None:
    async with queueing(cluster) as (stage, kueue):
        await stage.apply(RL_JOBS, job())
        await runs(stage)
        await stage.client.patch(RL_JOBS, "sample", {"spec": {"suspend": True}}, stage.namespace)
        await waits_for(stage, "Suspended", "SuspendedByUser")
        await rests(stage)
        await stage.until(lambda: _noted(kueue, "released"), "the reservation was not given back")
        assert (await workload(stage))["spec"]["active"] is False
        await stage.client.patch(RL_JOBS, "sample", {"spec": {"suspend": False}}, stage.namespace)
        await runs(stage)
        assert kueue.history == ["admitted", "evicted Deactivated", "released", "admitted"]


async def test_an_administrators_deactivation_is_not_undone(cluster: Kubernetes) -> None:
    async with queueing(cluster) as (stage, kueue):
        await stage.apply(RL_JOBS, job())
        await runs(stage)
        name = (await workload(stage))["metadata"]["name"]
        await stage.client.patch(WORKLOADS, name, {"spec": {"active": False}}, stage.namespace)
        await rests(stage)
        await stage.until(lambda: _noted(kueue, "released"), "the reservation was not given back")
        await stage.client.patch(RL_JOBS, "sample", {"metadata": {"annotations": {"touched": "yes"}}}, stage.namespace)
        await stage.client.patch(RL_JOBS, "sample", {"spec": {"agents": {"concurrency": 7}}}, stage.namespace)
        await stage.until(lambda: _seen(stage), "the change was not seen")
        assert (await workload(stage))["spec"]["active"] is False
        assert await stage.all(PODS) == []
        await stage.client.patch(WORKLOADS, name, {"spec": {"active": True}}, stage.namespace)
        await runs(stage)


async def _seen(stage: Stage) -> bool:
    body = await stage.client.get(RL_JOBS, "sample", stage.namespace)
    return bool(body["status"]["observedGeneration"] == body["metadata"]["generation"])


@pytest.mark.slow
async def test_fewer_members_are_run_when_fewer_are_admitted(cluster: Kubernetes) -> None:
    async with queueing(cluster, counts={"members-lake": 2}) as (stage, _):
        body = job()
        body["spec"]["environments"][0]["template"]["spec"]["scale"] = {"min": 1, "max": 4, "buffer": 4}
        await stage.apply(RL_JOBS, body)
        await runs(stage)
        pool = await stage.client.get(ENVIRONMENT_POOLS, "sample-lake", stage.namespace)
        assert (pool["spec"]["scale"]["min"], pool["spec"]["scale"]["max"]) == (1, 2)
        assert len(await stage.pods(Role.ENVIRONMENT)) <= 2


async def test_a_job_that_grows_queues_again_as_a_whole(cluster: Kubernetes) -> None:
    async with queueing(cluster) as (stage, _):
        await stage.apply(RL_JOBS, job())
        await runs(stage)
        first = (await workload(stage))["metadata"]["uid"]
        await stage.client.patch(RL_JOBS, "sample", {"spec": {"agents": {"replicas": 3}}}, stage.namespace)
        await stage.until(lambda: _another(stage, first), "the Workload was not replaced")
        await runs(stage)
        sets = {each["name"]: each["count"] for each in (await workload(stage))["spec"]["podSets"]}
        assert sets["agents"] == 3
        await stage.until(lambda: _agents(stage, 3), "the third agent is missing")


async def _another(stage: Stage, uid: str) -> bool:
    return [each["metadata"]["uid"] for each in await stage.all(WORKLOADS)] not in ([uid], [])


async def _agents(stage: Stage, count: int) -> bool:
    return len(await stage.pods(Role.AGENT)) == count


@pytest.mark.slow
async def test_a_new_image_costs_the_job_no_place(cluster: Kubernetes) -> None:
    async with queueing(cluster) as (stage, kueue):
        await stage.apply(RL_JOBS, job())
        await runs(stage)
        uid = (await workload(stage))["metadata"]["uid"]
        template = {"spec": {"containers": [{"name": "main", "image": "example/agent:2"}]}}
        await stage.client.patch(RL_JOBS, "sample", {"spec": {"agents": {"template": template}}}, stage.namespace)
        await stage.until(lambda: _images(stage, "example/agent:2"), "the agents were not replaced")
        assert (await workload(stage))["metadata"]["uid"] == uid
        assert kueue.history == ["admitted"]


async def _images(stage: Stage, image: str) -> bool:
    pods = await stage.pods(Role.AGENT)
    return len(pods) == 2 and all(pod["spec"]["containers"][0]["image"] == image for pod in pods)


async def test_the_end_of_the_job_is_told_to_kueue(cluster: Kubernetes) -> None:
    install(cluster.server, "kueue")
    made, make = fake_kueue()
    async with operating(cluster, make, kubeconfig=account(cluster)) as stage, data_manager(stage) as told:
        await stage.apply(RL_JOBS, job())
        await runs(stage)
        told[0] = DataStatus(step=10, version=10, complete=True)
        await waits_for(stage, "Complete", "Finished")
        await stage.until(lambda: _noted(made[0], "finished"), "the Workload is not finished")
        finished = [each for each in (await workload(stage))["status"]["conditions"] if each["type"] == "Finished"]
        assert (finished[0]["status"], finished[0]["reason"]) == ("True", "Succeeded")
        assert {pod["metadata"]["labels"]["rl.shoal.dev/role"] for pod in await stage.all(PODS)} <= {Role.DATA}
        await stage.client.delete(RL_JOBS, "sample", stage.namespace)
        with pytest.raises(NotFoundError):
            await stage.client.get(RL_JOBS, "sample", stage.namespace)


async def test_a_queue_without_kueue_holds_the_job_until_kueue_comes(
    cluster: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(discovery, "DOUBT_SECONDS", 0.2)
    remove(cluster.server, "kueue")
    made, make = fake_kueue()
    async with operating(cluster, make, kubeconfig=account(cluster)) as stage, data_manager(stage):
        await stage.apply(RL_JOBS, job())
        assert "not installed" in await waits_for(stage, "Suspended", "KueueAbsent")
        assert (await stage.status(RL_JOBS))["phase"] == "Suspended"
        assert await stage.all(PODS) == []
        await asyncio.to_thread(install, cluster.server, "kueue")
        await runs(stage)
        await asyncio.to_thread(remove, cluster.server, "kueue")
        await waits_for(stage, "Suspended", "KueueAbsent")
        await rests(stage)
        assert made[0].history == ["admitted"]


@pytest.mark.slow
async def test_a_flavor_that_is_missing_holds_the_job_and_names_itself(
    cluster: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_controller, "RETRY_SECONDS", 0.2)
    async with queueing(cluster, flavors={"": "reserved"}) as (stage, _):
        await stage.apply(RL_JOBS, job())
        message = await waits_for(stage, "Suspended", "FlavorUnknown")
        assert "ResourceFlavor reserved does not exist" in message
        assert await stage.all(PODS) == []
        await stage.client.apply(FLAVORS, {"metadata": {"name": "reserved"}, "spec": {"nodeLabels": {"kind": "r"}}})
        await runs(stage)


@pytest.mark.slow
async def test_a_priority_class_orders_the_workload(cluster: Kubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_controller, "RETRY_SECONDS", 0.2)
    async with queueing(cluster, open=False) as (stage, _):
        body = job()
        body["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] = "urgent"
        await stage.apply(RL_JOBS, body)
        message = await waits_for(stage, "Suspended", "PriorityClassUnknown")
        assert "WorkloadPriorityClass urgent does not exist" in message
        await stage.client.apply(PRIORITIES, {"metadata": {"name": "urgent"}, "value": 1000})
        await waits_for(stage, "Suspended", "WaitingForAdmission")
        await stage.until(lambda: _made(stage), "there is no Workload")
        spec = (await workload(stage))["spec"]
        assert spec["priority"] == 1000
        assert spec["priorityClassRef"] == {
            "group": "kueue.x-k8s.io",
            "kind": "WorkloadPriorityClass",
            "name": "urgent",
        }


async def _made(stage: Stage) -> bool:
    return len(await stage.all(WORKLOADS)) == 1


async def test_an_older_kueue_takes_the_same_job(cluster: Kubernetes) -> None:
    await asyncio.to_thread(install, cluster.server, "kueue")
    older = replace(WORKLOADS, version="v1beta1")
    owner = job_owner("sample", cluster.namespace, "12345678-aaaa")
    sets = pod_sets_of(owner, RLJobSpec.model_validate(job()["spec"]), Images())
    priority = Priority("WorkloadPriorityClass", "urgent", 1000)
    body = build_workload(owner, older.api_version, "team", sets, priority=priority, active=False)
    async with KubeClient(kubeconfig_source(cluster.kubeconfig)) as client:
        del body["metadata"]["ownerReferences"]  # there is no such job
        await client.apply(older, body, cluster.namespace)
        stored = await client.get(WORKLOADS, body["metadata"]["name"], cluster.namespace)
    # The class itself is told in another field by each version; Kueue's webhook translates, and it is not here.
    assert (stored["spec"]["active"], stored["spec"]["priority"]) == (False, 1000)
    assert [each["name"] for each in stored["spec"]["podSets"]] == [each.name for each in sets]


@pytest.mark.slow
async def test_a_job_that_leaves_its_queue_runs_without_a_workload(cluster: Kubernetes) -> None:
    async with queueing(cluster, open=False) as (stage, _):
        await stage.apply(RL_JOBS, job())
        await stage.until(lambda: _made(stage), "there is no Workload")
        await stage.client.patch(RL_JOBS, "sample", {"metadata": {"labels": None}}, stage.namespace)
        await runs(stage)
        assert await stage.all(WORKLOADS) == []
        assert (await stage.condition(RL_JOBS, "Admitted"))[1] == "NoQueue"


async def test_a_workload_that_is_refused_is_told_with_the_field(cluster: Kubernetes) -> None:
    async with queueing(cluster) as (stage, _):
        body = job()
        body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "Team_A"
        await stage.apply(RL_JOBS, body)
        assert "spec.queueName" in await waits_for(stage, "Suspended", "WorkloadRefused")
        label = {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "team"}}}
        await stage.client.patch(RL_JOBS, "sample", label, stage.namespace)
        await runs(stage)


async def test_shared_pools_and_fleets_are_not_counted_and_not_placed(cluster: Kubernetes) -> None:
    async with queueing(cluster, open=False) as (stage, _):
        body = deepcopy(JOB)
        body["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team"}
        await stage.apply(RL_JOBS, body)
        await stage.until(lambda: _made(stage), "there is no Workload")
        names = {each["name"] for each in (await workload(stage))["spec"]["podSets"]}
        assert names == {"data", "trainer", "agents"}
        assert await stage.all(ROLLOUT_FLEETS) == []
