"""Fleets whose engines span several nodes, with LeaderWorkerSet's real definition on a real API server."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shoal.api.v1alpha1.rolloutfleet import RolloutFleetSpec
from shoal.builders.fleet import build_engines, fleet_owner
from shoal.builders.images import Images
from shoal.kube import discovery
from shoal.kube.client import KubeClient
from shoal.kube.resources import PODS, ROLLOUT_FLEETS, Resource
from shoal.neighbours.lws.manifest import group_of
from tests.api.samples import changed
from tests.interplay.neighbours import install, remove
from tests.interplay.stage import Json, Stage, accepts, counting, install_shoal, operating
from tests.kubernetes import Kubernetes

SETS = Resource("leaderworkerset.x-k8s.io", "v1", "leaderworkersets", "LeaderWorkerSet")
STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
PREFIX = "leaderworkerset.sigs.k8s.io"
REVISION = {f"{PREFIX}/template-revision-hash": "5c5fcdfb44"}


class FakeLeaderWorkerSetController:
    """Makes what LeaderWorkerSet's controller and webhook make, as its source of August 2026 does; no Services.

    The pods come from real StatefulSets, made by kube-controller-manager.
    """

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    async def step(self) -> None:
        present = {each["metadata"]["name"] for each in await self._all(STATEFUL_SETS)}
        pods = {pod["metadata"]["name"]: pod for pod in await self._all(PODS)}
        for body in await self._all(SETS):
            name = body["metadata"]["name"]
            if "deletionTimestamp" in body["metadata"]:
                continue
            if name not in present:
                await self._client.create(STATEFUL_SETS, _leaders(body), self._namespace)
            leader = pods.get(f"{name}-0")
            if leader is not None and f"{name}-0" not in present and "deletionTimestamp" not in leader["metadata"]:
                await self._client.create(STATEFUL_SETS, _workers(body, leader), self._namespace)

    async def _all(self, resource: Resource) -> list[Json]:
        return (await self._client.list(resource, self._namespace)).items


def _owned(resource: Resource, owner: Json, name: str) -> Json:
    reference = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {"name": name, "ownerReferences": [reference]}


def _with_variables(spec: Json, leader: str, size: int, index: str) -> Json:
    """The pod spec as the webhook leaves it: the group's variables come first."""
    variables = [("LWS_LEADER_ADDRESS", leader), ("LWS_GROUP_SIZE", str(size)), ("LWS_WORKER_INDEX", index)]
    added = [{"name": name, "value": value} for name, value in variables]
    containers = [{**each, "env": added + each.get("env", [])} for each in spec["containers"]]
    return {**spec, "containers": containers}


def _leaders(body: Json) -> Json:
    name, template = body["metadata"]["name"], body["spec"]["leaderWorkerTemplate"]
    own = {f"{PREFIX}/worker-index": "0", f"{PREFIX}/name": name}
    group = {f"{PREFIX}/group-index": "0", f"{PREFIX}/group-key": _key(f"{name}-0")}
    metadata = template["leaderTemplate"]["metadata"]
    spec = _with_variables(template["leaderTemplate"]["spec"], f"{name}-0.{name}", template["size"], "0")
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {**_owned(SETS, body, name), "labels": {**body["metadata"]["labels"], f"{PREFIX}/name": name}},
        "spec": {
            "replicas": body["spec"]["replicas"],
            "serviceName": name,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": own},
            "template": {
                "metadata": {
                    "labels": {**metadata["labels"], **own, **group, **REVISION},
                    "annotations": {f"{PREFIX}/size": str(template["size"])},
                },
                "spec": spec,
            },
        },
    }


def _key(leader: str) -> str:
    return hashlib.sha1(leader.encode()).hexdigest()


def _workers(body: Json, leader: Json) -> Json:
    name, template = body["metadata"]["name"], body["spec"]["leaderWorkerTemplate"]
    own = {f"{PREFIX}/name": name, f"{PREFIX}/group-index": "0", f"{PREFIX}/group-key": _key(f"{name}-0")}
    metadata = template["workerTemplate"]["metadata"]
    spec = _with_variables(template["workerTemplate"]["spec"], f"{name}-0.{name}", template["size"], "1")
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {**_owned(PODS, leader, f"{name}-0"), "labels": {**body["metadata"]["labels"], **own}},
        "spec": {
            "replicas": template["size"] - 1,
            "serviceName": name,
            "podManagementPolicy": "Parallel",
            "ordinals": {"start": 1},
            "selector": {"matchLabels": own},
            "template": {
                "metadata": {
                    "labels": {**metadata["labels"], **own, **REVISION},
                    "annotations": {f"{PREFIX}/size": str(template["size"]), f"{PREFIX}/leader-name": f"{name}-0"},
                },
                "spec": spec,
            },
        },
    }


def fleet(replicas: int, nodes: int = 2, **spec: Any) -> Json:
    group = {"name": "large", "nodes": nodes, "tensorParallel": 8, "replicas": {"min": 0, "max": 4}}
    body = changed("RolloutFleet", "spec.workerGroups", [group])
    # A restricted namespace takes no hostPath, which a model in a folder would be.
    body["spec"] |= {"replicas": replicas, "model": {"source": "hf:Qwen/Qwen3-0.6B"}, **spec}
    return body


def controller(client: KubeClient, namespace: str) -> Callable[[], Awaitable[None]]:
    return FakeLeaderWorkerSetController(client, namespace).step


@pytest.fixture
async def stage(settled: Kubernetes, account: Path) -> AsyncIterator[Stage]:
    async with operating(settled, controller, kubeconfig=account) as stage_:
        yield stage_


async def serving(stage: Stage, count: int) -> bool:
    status = await stage.status(ROLLOUT_FLEETS)
    counts = [status.get(name) for name in ("readyReplicas", "replicas", "updatedReplicas")]
    engines = [engine["phase"] for engine in status.get("engines", [])]
    return counts == [count] * 3 and engines == ["Ready"] * count


def uids(objects: list[Json]) -> set[str]:
    return {each["metadata"]["uid"] for each in objects}


async def test_two_engines_of_two_nodes_become_available_when_their_leaders_are_ready(stage: Stage) -> None:
    await stage.apply(ROLLOUT_FLEETS, fleet(2))
    await stage.until(lambda: serving(stage, 2), "2 engines serve")
    sets, leaders, workers = await stage.all(SETS), await stage.pods("engine"), await stage.pods("engine-worker")
    assert [each["spec"]["leaderWorkerTemplate"]["size"] for each in sets] == [2, 2]
    names = {each["metadata"]["name"] for each in sets}
    assert {pod["metadata"]["name"] for pod in leaders} == {f"{name}-0" for name in names}
    assert {pod["metadata"]["name"] for pod in workers} == {f"{name}-0-1" for name in names}
    status = await stage.status(ROLLOUT_FLEETS)
    assert {engine["name"] for engine in status["engines"]} == {f"{name}-0" for name in names}
    assert (await stage.condition(ROLLOUT_FLEETS, "Available"))[0] == "True"
    variables = {each["name"] for each in workers[0]["spec"]["containers"][0]["env"]}
    assert "LWS_LEADER_ADDRESS" in variables
    assert not {name for name in variables if name.startswith("SHOAL_")}, "a worker gets no configuration"
    assert not [each for each in workers[0]["spec"]["volumes"] if "projected" in each], "a worker gets no token"


async def test_an_engine_whose_leader_is_not_ready_does_not_count(stage: Stage) -> None:
    await stage.apply(ROLLOUT_FLEETS, fleet(1))
    await stage.until(lambda: serving(stage, 1), "1 engine serves")
    (leader,) = await stage.pods("engine")
    stage.node.held = {leader["metadata"]["name"]}

    async def lost() -> bool:
        status = await stage.status(ROLLOUT_FLEETS)
        return (status["replicas"], status["readyReplicas"]) == (1, 0)

    await stage.until(lost, "its engine is there and not ready")
    (first,) = await stage.all(SETS)
    stage.node.held = set()
    await stage.until(lambda: serving(stage, 1), "it serves again")
    assert uids(await stage.all(SETS)) == uids([first]), "the group mends itself; nothing is replaced"


async def test_a_group_whose_leader_is_lost_is_mended_and_not_replaced(stage: Stage) -> None:
    await stage.apply(ROLLOUT_FLEETS, fleet(1))
    await stage.until(lambda: serving(stage, 1), "1 engine serves")
    sets, pods = await stage.all(SETS), [*await stage.pods("engine"), *await stage.pods("engine-worker")]
    leader = pods[0]["metadata"]
    await stage.client.delete(PODS, leader["name"], stage.namespace, uid=leader["uid"])

    async def mended() -> bool:
        now = [*await stage.pods("engine"), *await stage.pods("engine-worker")]
        return len(now) == 2 and not uids(pods) & uids(now) and await serving(stage, 1)

    await stage.until(mended, "the set has made leader and worker anew", seconds=90)
    assert uids(await stage.all(SETS)) == uids(sets)


async def test_the_fleet_chooses_whom_it_drains_and_deletes(stage: Stage) -> None:
    async with counting(stage, "engine") as census:
        await stage.apply(ROLLOUT_FLEETS, fleet(3))
        await stage.until(lambda: serving(stage, 3), "3 engines serve")
        busy = (await stage.pods("engine"))[0]["metadata"]["name"]
        stage.services.busy = {busy}
        await stage.apply(ROLLOUT_FLEETS, fleet(1))
        await stage.until(lambda: serving(stage, 1), "1 engine is left", seconds=60)

        async def alone() -> bool:
            names = [pod["metadata"]["name"] for role in ("engine", "engine-worker") for pod in await stage.pods(role)]
            return names == [busy, f"{busy}-1"]

        await stage.until(alone, "of the others no pod is left", seconds=60)
        assert len(stage.services.asked_to_go - {busy}) == 2, "the others were drained"
        assert census.peak == 3


async def test_a_new_template_drains_engines_one_after_the_other(stage: Stage) -> None:
    async with counting(stage, "engine") as census:
        await stage.apply(ROLLOUT_FLEETS, fleet(2))
        await stage.until(lambda: serving(stage, 2), "2 engines serve")
        first = await stage.all(SETS)
        await stage.apply(ROLLOUT_FLEETS, fleet(2, engine={"args": ["--max-num-seqs=8"]}))

        async def replaced() -> bool:
            return not uids(first) & uids(await stage.all(SETS)) and await serving(stage, 2)

        await stage.until(replaced, "both are of the new template", seconds=60)
        assert len(stage.services.asked_to_go) == 2
        assert census.peak == 2, "GPUs are not asked for twice"


async def test_engines_of_one_node_give_way_to_engines_of_two(stage: Stage) -> None:
    await stage.apply(ROLLOUT_FLEETS, fleet(1, nodes=1))
    await stage.until(lambda: serving(stage, 1), "1 engine serves")
    assert await stage.all(SETS) == []
    await stage.apply(ROLLOUT_FLEETS, fleet(1, nodes=2))

    async def grown() -> bool:
        return len(await stage.all(SETS)) == 1 and await serving(stage, 1)

    await stage.until(grown, "a group serves in its place", seconds=60)
    await stage.client.delete(ROLLOUT_FLEETS, "sample", stage.namespace)

    async def collected() -> bool:
        return not await stage.all(SETS) and not await stage.all(PODS)

    await stage.until(collected, "everything is garbage collected", seconds=90)


def test_the_definition_knows_every_field_of_a_built_group(settled: Kubernetes) -> None:
    body = fleet(1, storage={"persistentVolumeClaim": {"claimName": "weights"}})
    owner = fleet_owner("sample", settled.namespace, "u1")
    spec = RolloutFleetSpec.model_validate(body["spec"])
    accepts(settled, group_of(owner, build_engines(owner, spec, Images("1"))["large"], spec.worker_groups[0].nodes))


async def test_a_fleet_says_that_leaderworkerset_is_missing_and_goes_on_once_it_is_there(
    cluster: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "LOOK_SECONDS", 1.0)
    remove(cluster.server, "leaderworkerset")
    install_shoal(cluster.server)
    async with operating(cluster, controller) as stage:
        await stage.apply(ROLLOUT_FLEETS, fleet(1))

        async def told() -> bool:
            degraded = await stage.condition(ROLLOUT_FLEETS, "Degraded")
            available = await stage.condition(ROLLOUT_FLEETS, "Available")
            return degraded[:2] == ("True", "BackendMissing") and available[:2] == ("False", "BackendMissing")

        await stage.until(told, "the fleet says what is missing")
        assert "kubernetes-sigs/lws" in (await stage.condition(ROLLOUT_FLEETS, "Degraded"))[2]
        install(cluster.server, "leaderworkerset")
        await stage.until(lambda: serving(stage, 1), "1 engine serves", seconds=60)
        assert (await stage.condition(ROLLOUT_FLEETS, "Degraded"))[0] == "False"
