"""The operator on a real API server: objects, statuses and changes, with a kubelet that only says "ready"."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from shoal.controllers.operator import OperatorSettings, build_manager
from shoal.crdgen import generate
from shoal.kube.client import KubeClient
from shoal.kube.errors import ApiError
from shoal.kube.kubeconfig import kubeconfig_source
from shoal.kube.resources import (
    CORE_EVENTS,
    ENVIRONMENT_POOLS,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    RL_JOBS,
    ROLLOUT_FLEETS,
    SECRETS,
    SERVICES,
    Resource,
)
from shoal.planner.tokens import TokenPolicy
from tests.api.samples import FLEET, JOB, POOL, changed
from tests.kubernetes import Kubernetes

Json = dict[str, Any]


class FakeKubelet:
    """Says of every pod that it runs and is ready, and lets deleted pods go; runs nothing."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self.broken: dict[str, str] = {}
        self.stuck: set[str] = set()
        """Roles whose pods get a node and never start."""

    async def run(self) -> None:
        while True:
            with suppress(ApiError):
                for pod in (await self._client.list(PODS, self._namespace)).items:
                    await self._settle(pod)
            await asyncio.sleep(0.05)

    async def _settle(self, pod: Json) -> None:
        metadata, name = pod["metadata"], pod["metadata"]["name"]
        if "deletionTimestamp" in metadata:
            await self._client.delete(PODS, name, self._namespace, uid=metadata["uid"], grace_seconds=0)
            return
        role = metadata["labels"]["rl.shoal.dev/role"]
        if role in self.stuck:
            await self._bind(pod)
            return
        wanted = _crashing(self.broken[role]) if role in self.broken else _ready()
        if pod.get("status", {}).get("phase") != wanted["phase"] or "containerStatuses" not in pod["status"]:
            await self._client.patch_status(PODS, name, wanted, self._namespace)

    async def _bind(self, pod: Json) -> None:
        if not pod["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": "node"}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod["metadata"]["name"]}}
            path = f"{PODS.plural}/{pod['metadata']['name']}"
            bindings = Resource("", "v1", f"{path}/binding", "Binding")
            await self._client.create(bindings, {**binding, "target": target}, self._namespace)


def _container(ready: bool, state: Json, last: Json) -> Json:
    return {
        "name": "main",
        "image": "x",
        "imageID": "x",
        "ready": ready,
        "restartCount": 0 if ready else 1,
        "state": state,
        "lastState": last,
    }


def _ready() -> Json:
    running = _container(True, {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, {})
    conditions = [{"type": "Ready", "status": "True"}]
    # No address: nothing listens there, and nobody should be asked.
    return {"phase": "Running", "conditions": conditions, "containerStatuses": [running]}


def _crashing(message: str) -> Json:
    died = {"terminated": {"exitCode": 2, "reason": "Error", "message": message}}
    container = _container(False, {"waiting": {"reason": "CrashLoopBackOff"}}, died)
    return {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [container]}


class Bench:
    """One namespace with an operator and a fake kubelet at work."""

    def __init__(self, client: KubeClient, kubelet: FakeKubelet, namespace: str) -> None:
        self.client = client
        self.kubelet = kubelet
        self.namespace = namespace

    async def apply(self, resource: Resource, body: Json) -> Json:
        return await self.client.apply(resource, body, self.namespace)

    async def pods(self, role: str) -> list[Json]:
        return (await self.client.list(PODS, self.namespace, labels=f"rl.shoal.dev/role={role}")).items

    async def status(self, resource: Resource) -> Json:
        body = await self.client.get(resource, "sample", self.namespace)
        return dict(body.get("status", {}))

    async def condition(self, resource: Resource, type_: str) -> Json:
        found = [each for each in (await self.status(resource)).get("conditions", []) if each["type"] == type_]
        return found[0] if found else {}

    async def until(self, true: Callable[[], Awaitable[bool]], what: str, *, seconds: float = 20) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not await true():
            assert asyncio.get_running_loop().time() < deadline, what
            await asyncio.sleep(0.05)


@asynccontextmanager
async def operating(kubernetes: Kubernetes) -> AsyncIterator[Bench]:
    source = kubeconfig_source(kubernetes.server.kubeconfig)
    async with KubeClient(source) as client, KubeClient(source, field_manager="tester") as tester:
        for definition in generate.definitions():
            kubernetes.server.kubectl("apply", "--server-side", "-f", "-", stdin=generate.as_yaml())
            name = f"crd/{definition['metadata']['name']}"
            kubernetes.server.kubectl("wait", "--for=condition=Established", "--timeout=20s", name)
        kubelet = FakeKubelet(tester, kubernetes.namespace)
        settings = OperatorSettings(namespace=kubernetes.namespace, tokens=TokenPolicy(overlap=3.0))
        manager = build_manager(client, settings)
        tasks = [asyncio.create_task(manager.run()), asyncio.create_task(kubelet.run())]
        try:
            yield Bench(tester, kubelet, kubernetes.namespace)
        finally:
            manager.stop()
            await tasks[0]
            tasks[1].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def bench(kubernetes_controllers: Kubernetes) -> AsyncIterator[Bench]:
    async with operating(kubernetes_controllers) as bench_:
        yield bench_


def pinned(replicas: int, **spec: Any) -> Json:
    body = changed("EnvironmentPool", "spec.replicas", replicas)
    body["spec"] |= spec
    return body


async def test_a_token_is_renewed_on_request_and_the_one_before_goes_later(bench: Bench) -> None:
    await bench.apply(ENVIRONMENT_POOLS, pinned(1))
    await bench.until(lambda: _count(bench, "environment", 1), "a member")

    async def data() -> Json:
        return dict((await bench.client.get(SECRETS, "sample-pool-token", bench.namespace))["data"])

    first, pods = await data(), await bench.pods("broker")
    ask = {"metadata": {"annotations": {"rl.shoal.dev/renew-token": "now"}}}
    await bench.client.patch(SECRETS, "sample-pool-token", ask, bench.namespace)

    async def renewed() -> bool:
        now = await data()
        return bool(now["token"] != first["token"] and now["previous"] == first["token"])

    await bench.until(renewed, "a new token beside the old one")
    second = await data()
    secret = await bench.client.get(SECRETS, "sample-pool-token", bench.namespace)
    assert "rl.shoal.dev/renew-token" not in secret["metadata"]["annotations"]

    async def forgotten() -> bool:
        return await data() == {"token": second["token"], "previous": ""}

    await bench.until(forgotten, "the old token is gone")

    async def told() -> bool:
        events = (await bench.client.list(CORE_EVENTS, bench.namespace)).items
        return any(event["reason"] == "TokenRenewed" for event in events)

    await bench.until(told, "an event")
    assert [pod["metadata"]["uid"] for pod in await bench.pods("broker")] == [pod["metadata"]["uid"] for pod in pods]


async def test_what_somebody_changes_in_an_owned_object_is_repaired_and_told(bench: Bench) -> None:
    await bench.apply(ENVIRONMENT_POOLS, pinned(1))
    await bench.until(lambda: _count(bench, "environment", 1), "a member")
    namespace = bench.namespace

    async def policies() -> str:
        return str((await bench.condition(ENVIRONMENT_POOLS, "PoliciesApplied")).get("reason"))

    async def as_built() -> bool:
        return await policies() == "AsBuilt"

    await bench.until(as_built, "the policies are as built: what the server adds is no drift")
    service = await bench.client.get(SERVICES, "sample-broker", namespace)
    policy = await bench.client.get(NETWORK_POLICIES, "sample-environment", namespace)
    token = await bench.client.get(SECRETS, "sample-pool-token", namespace)
    wrong = {"spec": {"selector": {"rl.shoal.dev/role": "nobody"}}}
    await bench.client.patch(SERVICES, "sample-broker", wrong, namespace)
    await bench.client.patch(NETWORK_POLICIES, "sample-environment", {"spec": {"ingress": [{}]}}, namespace)
    await bench.client.patch(SECRETS, "sample-pool-token", {"data": {"token": "a25vd24="}}, namespace)

    async def repaired() -> bool:
        now = [
            (await bench.client.get(SERVICES, "sample-broker", namespace))["spec"] == service["spec"],
            (await bench.client.get(NETWORK_POLICIES, "sample-environment", namespace))["spec"] == policy["spec"],
            (await bench.client.get(SECRETS, "sample-pool-token", namespace))["data"]["token"]
            not in ("a25vd24=", token["data"]["token"]),
        ]
        return all(now)

    await bench.until(repaired, "all three are repaired", seconds=10)
    assert await policies() == "PolicyLifted"

    async def events() -> bool:
        found = (await bench.client.list(CORE_EVENTS, namespace)).items
        told = " ".join(event["message"] for event in found if event["reason"] == "DriftRepaired")
        return all(name in told for name in ("spec.selector", "spec.ingress", "data.token", "by tester"))

    await bench.until(events, "each repair is told, with the field and the writer")


async def test_the_scale_subresource_is_true_and_holds_to_the_bound(
    bench: Bench, kubernetes_controllers: Kubernetes
) -> None:
    body = changed("EnvironmentPool", "spec.scale", {"min": 2, "max": 4, "buffer": 0})
    body["spec"].pop("replicas", None)
    await bench.apply(ENVIRONMENT_POOLS, body)
    kubectl = kubernetes_controllers.server.kubectl
    path = f"{ENVIRONMENT_POOLS.path(bench.namespace, 'sample')}/scale"

    async def scale(size: int, of: str = "spec") -> bool:
        try:
            return bool((await bench.client.get_path(path))[of].get("replicas") == size)
        except ApiError:
            return False

    await bench.until(lambda: scale(2), "GET /scale answers although nobody set spec.replicas")
    await bench.until(lambda: _count(bench, "environment", 2), "two members, by scale.min")
    kubectl("-n", bench.namespace, "scale", "envpool/sample", "--replicas=9")
    await bench.until(lambda: _count(bench, "environment", 4), "as many as scale.max allows")

    async def limited() -> bool:
        return (await bench.condition(ENVIRONMENT_POOLS, "ScalingLimited")).get("status") == "True"

    await bench.until(limited, "it is told that it asked for more")
    unpin = [{"op": "remove", "path": "/spec/replicas"}]
    await bench.client.patch(ENVIRONMENT_POOLS, "sample", unpin, bench.namespace, kind="json")

    async def free() -> bool:
        return (await bench.condition(ENVIRONMENT_POOLS, "ScalingLimited")).get("status") == "False"

    await bench.until(free, "the buffer decides again")
    await bench.until(lambda: scale(4), "and the subresource follows (nothing shrinks without a broker's report)")


async def test_a_job_of_many_tasks_has_them_in_a_secret(bench: Bench) -> None:
    tasks = [{"id": number, "prompt": "p" * 300} for number in range(600)]
    await bench.apply(RL_JOBS, changed("RLJob", "spec.data", {"tasks": {"inline": tasks}}))
    await bench.until(lambda: _count(bench, "data", 1), "the data manager")
    secret = await bench.client.get(SECRETS, "sample-job-data-config-0", bench.namespace)
    await bench.client.patch(SECRETS, "sample-job-data-config-0", {"data": {"config": "e30="}}, bench.namespace)

    async def repaired() -> bool:
        now = await bench.client.get(SECRETS, "sample-job-data-config-0", bench.namespace)
        return bool(now["data"] == secret["data"])

    await bench.until(repaired, "an edited configuration is repaired")


async def test_a_pool_is_filled_scaled_replaced_and_collected(bench: Bench) -> None:
    await bench.apply(ENVIRONMENT_POOLS, pinned(3))

    async def ready(count: int) -> bool:
        status = await bench.status(ENVIRONMENT_POOLS)
        return (status.get("readyReplicas"), status.get("replicas")) == (count, count)

    await bench.until(lambda: ready(3), "3 members are ready")
    assert len(await bench.pods("broker")) == 1
    assert len((await bench.client.list(SERVICES, bench.namespace)).items) == 1
    secret = await bench.client.get(SECRETS, "sample-pool-token", bench.namespace)

    first = {pod["metadata"]["uid"] for pod in await bench.pods("environment")}
    template = {"metadata": {"labels": {"generation": "two"}}}
    await bench.apply(ENVIRONMENT_POOLS, pinned(3, template=template))

    async def replaced() -> bool:
        pods = await bench.pods("environment")
        return len(pods) == 3 and not first & {pod["metadata"]["uid"] for pod in pods}

    assert secret["data"] == (await bench.client.get(SECRETS, "sample-pool-token", bench.namespace))["data"]
    # No broker answers here, so members that serve are never given up: the surge member waits beside them.
    await bench.until(lambda: _count(bench, "environment", 4), "one member more, by surge")
    assert not await replaced()
    await bench.client.delete(ENVIRONMENT_POOLS, "sample", bench.namespace)

    async def collected() -> bool:
        return not (await bench.client.list(PODS, bench.namespace)).items

    # The garbage collector looks for new kinds every 30 s only.
    await bench.until(collected, "children are garbage collected", seconds=90)


async def _count(bench: Bench, role: str, count: int) -> bool:
    return len(await bench.pods(role)) == count


async def test_a_crash_becomes_a_condition_with_its_message_and_an_event(bench: Bench) -> None:
    bench.kubelet.broken["environment"] = "environment.entrypoint: there is no environment FrozenTake-v1"
    await bench.apply(ENVIRONMENT_POOLS, pinned(1))

    async def degraded() -> bool:
        condition = await bench.condition(ENVIRONMENT_POOLS, "Degraded")
        return condition.get("status") == "True" and "FrozenTake" in condition["message"]

    await bench.until(degraded, "the pool is Degraded with the message")

    async def warned() -> bool:
        events = (await bench.client.list(CORE_EVENTS, bench.namespace)).items
        return any(event["type"] == "Warning" and "FrozenTake" in event["message"] for event in events)

    await bench.until(warned, "a Warning event tells of it")


async def test_what_the_api_server_refuses_becomes_a_condition_and_is_asked_again(bench: Bench) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": bench.namespace}}
    policy = "pod-security.kubernetes.io/enforce"
    namespace["metadata"] = {"name": bench.namespace, "labels": {policy: "restricted"}}
    await bench.client.apply(NAMESPACES, namespace)
    greedy = {"spec": {"containers": [{"name": "main", "securityContext": {"allowPrivilegeEscalation": True}}]}}
    await bench.apply(ENVIRONMENT_POOLS, pinned(1, template=greedy))

    async def told() -> bool:
        condition = await bench.condition(ENVIRONMENT_POOLS, "Degraded")
        return condition.get("reason") == "CreateRefused" and "PodSecurity" in condition["message"]

    await bench.until(told, "the pool is Degraded with the API server's words")
    assert await bench.pods("environment") == []
    version = (await bench.client.get(ENVIRONMENT_POOLS, "sample", bench.namespace))["metadata"]["resourceVersion"]
    await asyncio.sleep(1)
    body = await bench.client.get(ENVIRONMENT_POOLS, "sample", bench.namespace)
    assert body["metadata"]["resourceVersion"] == version, "each refusal writes the status again"
    await bench.apply(ENVIRONMENT_POOLS, pinned(1))
    await bench.until(lambda: _count(bench, "environment", 1), "a member that the policy allows")

    async def mended() -> bool:
        return (await bench.condition(ENVIRONMENT_POOLS, "Degraded"))["status"] == "False"

    await bench.until(mended, "the pool is well")


@pytest.mark.parametrize("kind", ["Service", "Secret"])
async def test_an_object_that_somebody_made_by_hand_keeps_its_name(bench: Bench, kind: str) -> None:
    resource, name = {"Service": (SERVICES, "sample-broker"), "Secret": (SECRETS, "sample-pool-token")}[kind]
    content: Json = {"spec": {"ports": [{"port": 80}], "selector": {"app": "theirs"}}} if kind == "Service" else {}
    theirs = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **content}
    before = await bench.client.create(resource, theirs, bench.namespace)
    await bench.apply(ENVIRONMENT_POOLS, pinned(1))

    async def told() -> bool:
        condition = await bench.condition(ENVIRONMENT_POOLS, "Degraded")
        return condition.get("reason") == "NameTaken" and f"{kind} {name}" in condition["message"]

    await bench.until(told, "the pool says whose name it wants")
    assert await bench.client.get(resource, name, bench.namespace) == before
    assert await bench.pods("environment") == []
    await bench.client.delete(resource, name, bench.namespace)
    await bench.until(lambda: _count(bench, "environment", 1), "a member, once the name is free")

    async def mended() -> bool:
        return (await bench.condition(ENVIRONMENT_POOLS, "Degraded"))["status"] == "False"

    await bench.until(mended, "the pool is well")


async def test_what_an_earlier_pool_of_the_name_left_goes_on_with_its_successor(bench: Bench) -> None:
    """It must not wait for the garbage collector, which may take its time."""
    earlier = {"apiVersion": "rl.shoal.dev/v1alpha1", "kind": "EnvironmentPool", "name": "sample", "uid": "earlier"}
    left: Json = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "sample-broker", "ownerReferences": [{**earlier, "controller": True}]},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "earlier"}},
    }
    await bench.client.apply(SERVICES, left, bench.namespace)
    await bench.apply(ENVIRONMENT_POOLS, pinned(1))
    await bench.until(lambda: _count(bench, "environment", 1), "a member")
    body = await bench.client.get(SERVICES, "sample-broker", bench.namespace)
    uid = (await bench.client.get(ENVIRONMENT_POOLS, "sample", bench.namespace))["metadata"]["uid"]
    assert [each["uid"] for each in body["metadata"]["ownerReferences"]] == [uid]


async def test_a_fleet_has_a_gateway_and_its_engines(bench: Bench) -> None:
    body = changed("RolloutFleet", "spec.workerGroups", [{"name": "a", "replicas": {"min": 2, "max": 3}}])
    await bench.apply(ROLLOUT_FLEETS, body)
    await bench.until(lambda: _count(bench, "engine", 2), "two engines")
    assert len(await bench.pods("gateway")) == 1

    async def waiting() -> bool:
        return (await bench.condition(ROLLOUT_FLEETS, "Available")).get("reason") == "GatewayNotReady"

    await bench.until(waiting, "not available without an answer of the gateway")
    await bench.client.patch(ROLLOUT_FLEETS, "sample", {"spec": {"suspend": True}}, bench.namespace)
    await bench.until(lambda: _count(bench, "gateway", 0), "a suspended fleet has no gateway")


async def test_a_job_owns_what_it_declares_inline(bench: Bench) -> None:
    body = changed("RLJob", "spec.fleet", {"template": {"spec": {"engine": {"type": "Reference"}}}})
    body["spec"]["environments"] = [{"name": "lake", "template": {"spec": POOL["spec"]}}]
    job = await bench.apply(RL_JOBS, body)

    async def owned() -> bool:
        pools = (await bench.client.list(ENVIRONMENT_POOLS, bench.namespace)).items
        fleets = (await bench.client.list(ROLLOUT_FLEETS, bench.namespace)).items
        return [each["metadata"]["name"] for each in pools + fleets] == ["sample-lake", "sample-fleet"]

    await bench.until(owned, "the job's pool and fleet exist")
    fleet = await bench.client.get(ROLLOUT_FLEETS, "sample-fleet", bench.namespace)
    assert fleet["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    assert fleet["spec"]["model"]["source"] == JOB["spec"]["model"]["source"]
    assert fleet["spec"]["storage"] == JOB["spec"]["storage"]
    await bench.until(lambda: _count(bench, "data", 1), "the data manager comes first")
    assert await _count(bench, "trainer", 0)

    await bench.client.patch(RL_JOBS, "sample", {"spec": {"suspend": True}}, bench.namespace)

    async def suspended() -> bool:
        fleet = await bench.client.get(ROLLOUT_FLEETS, "sample-fleet", bench.namespace)
        return bool(fleet["spec"]["suspend"]) and (await bench.status(RL_JOBS))["phase"] == "Suspended"

    await bench.until(suspended, "suspend reaches what the job owns")
    await bench.until(lambda: _count(bench, "data", 0), "no pod is left")


async def test_a_job_says_what_it_waits_for(bench: Bench) -> None:
    await bench.apply(RL_JOBS, JOB)

    async def told() -> bool:
        return (await bench.condition(RL_JOBS, "FleetReady")).get("reason") == "NotFound"

    await bench.until(told, "the missing fleet is named")
    fleet = {**FLEET, "metadata": {"name": "fleet"}}
    await bench.apply(ROLLOUT_FLEETS, fleet)

    async def seen() -> bool:
        return (await bench.condition(RL_JOBS, "FleetReady")).get("reason") == "NotAvailable"

    await bench.until(seen, "the fleet that was created later is seen")


async def test_nothing_is_written_while_nothing_changes(bench: Bench) -> None:
    await bench.apply(ENVIRONMENT_POOLS, pinned(2))

    async def settled() -> bool:
        return (await bench.status(ENVIRONMENT_POOLS)).get("readyReplicas") == 2

    await bench.until(settled, "2 members are ready")
    await asyncio.sleep(1.5)
    before = (await bench.client.get(ENVIRONMENT_POOLS, "sample", bench.namespace))["metadata"]["resourceVersion"]
    await asyncio.sleep(3)
    after = (await bench.client.get(ENVIRONMENT_POOLS, "sample", bench.namespace))["metadata"]["resourceVersion"]
    assert before == after
