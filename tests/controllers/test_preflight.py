"""An operator that the cluster denies something: one message, a condition, and on by itself once it is there."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shoal.controllers import preflight
from shoal.controllers.operator import OperatorSettings, build_manager
from shoal.crdgen import generate
from shoal.engine.endpoint import Endpoint
from shoal.kube.client import KubeClient
from shoal.kube.kubeconfig import kubeconfig_source
from shoal.kube.resources import ENVIRONMENT_POOLS, PODS, RL_JOBS, Resource
from tests.api.samples import JOB, POOL
from tests.controllers.accounts import account, grant
from tests.kubernetes import Kubernetes, KubernetesServer, ProgramsMissingError, find_programs, running_server

Json = dict[str, Any]
SECONDS = 40.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    """A server of its own: these tests take definitions away, which would take others' objects with them."""
    try:
        find_programs()
    except ProgramsMissingError as reason:
        pytest.skip(str(reason))
    with running_server(tmp_path_factory.mktemp("preflight")) as server:
        yield server


@pytest.fixture
def cluster(server: KubernetesServer) -> Kubernetes:
    """That server with every definition as it should be."""
    install(server, *generate.definitions())
    return Kubernetes(server, server.new_namespace())


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "LOOK_SECONDS", 0.5)


def install(server: KubernetesServer, *definitions: Json) -> None:
    # As JSON: YAML 1.2 has numbers (1e-6) that YAML 1.1 writes without quotes.
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": definitions})
    server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
    names = [f"crd/{each['metadata']['name']}" for each in definitions]
    server.kubectl("wait", "--for=condition=Established", "--timeout=20s", *names)


def definition(resource: Resource) -> Json:
    return deepcopy(next(each for each in generate.definitions() if each["metadata"]["name"] == str(resource)))


def schema(definition: Json) -> Json:
    found: Json = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return found


class Watched:
    """A running operator, what it says of itself, and a client with every right to look on."""

    def __init__(self, client: KubeClient, namespace: str, url: str) -> None:
        self.client = client
        self.namespace = namespace
        self._url = url

    async def ready(self) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(f"{self._url}/readyz") as answer:
            return answer.status, await answer.text()

    async def degraded(self, resource: Resource, name: str = "sample") -> Json:
        body = await self.client.get(resource, name, self.namespace)
        found = (body.get("status") or {}).get("conditions") or []
        return next((each for each in found if each["type"] == "Degraded"), {})

    async def members(self) -> int:
        return len((await self.client.list(PODS, self.namespace, labels="rl.shoal.dev/role=environment")).items)

    async def until(self, what: str, true: Callable[[], Any]) -> None:
        deadline = asyncio.get_running_loop().time() + SECONDS
        while not await true():
            assert asyncio.get_running_loop().time() < deadline, what
            await asyncio.sleep(0.05)

    async def until_ready(self) -> None:
        async def ready() -> bool:
            return (await self.ready())[0] == 200

        await self.until("the operator is ready", ready)

    async def until_hindered(self, *words: str) -> None:
        async def told() -> bool:
            status, text = await self.ready()
            return status == 503 and all(word in text for word in words)

        await self.until(f"not ready because of {words}", told)

    async def until_degraded(self, resource: Resource, reason: str, *words: str, name: str = "sample") -> None:
        async def told() -> bool:
            seen = await self.degraded(resource, name)
            text = seen.get("message", "")
            return (seen.get("status"), seen.get("reason")) == ("True", reason) and all(word in text for word in words)

        await self.until(f"Degraded for {reason}", told)

    async def until_fine(self, resource: Resource) -> None:
        async def fine() -> bool:
            return (await self.degraded(resource)).get("status") == "False"

        await self.until("not Degraded any more", fine)

    async def until_filled(self) -> None:
        async def filled() -> bool:
            return await self.members() == 1

        await self.until("the pool has its member", filled)


@asynccontextmanager
async def operating(cluster: Kubernetes, kubeconfig: Path | None = None) -> AsyncIterator[Watched]:
    admin = kubeconfig_source(cluster.kubeconfig)
    source = kubeconfig_source(kubeconfig) if kubeconfig else admin
    async with KubeClient(source) as client, KubeClient(admin, field_manager="tester") as tester:
        manager = build_manager(client, OperatorSettings(namespace=cluster.namespace))
        endpoint = Endpoint(manager, "127.0.0.1:0")
        manager.add_background("endpoint", endpoint.run)
        running = asyncio.create_task(manager.run())
        await endpoint.started.wait()
        try:
            yield Watched(tester, cluster.namespace, f"http://127.0.0.1:{endpoint.port}")
        finally:
            manager.stop()
            await running


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


async def test_a_missing_definition_stops_only_what_needs_it(
    cluster: Kubernetes, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.server.kubectl("delete", "crd", str(RL_JOBS))
    async with operating(cluster) as watched:
        await watched.client.apply(ENVIRONMENT_POOLS, POOL, cluster.namespace)
        await watched.until_filled()
        await watched.until_hindered(str(RL_JOBS), "shoal crds | kubectl apply --server-side -f -")
        assert (await watched.degraded(ENVIRONMENT_POOLS))["status"] == "False"
        assert len(complaints(caplog)) == 1
        assert "DefinitionMissing" in complaints(caplog)[0]
        install(cluster.server, definition(RL_JOBS))
        await watched.until_ready()
        await watched.client.apply(RL_JOBS, JOB, cluster.namespace)

        async def seen() -> bool:
            return bool((await watched.client.get(RL_JOBS, "sample", cluster.namespace)).get("status"))

        await watched.until("the job is worked on", seen)
        assert len(complaints(caplog)) == 1


async def test_a_definition_that_goes_and_comes_back_holds_its_controllers(cluster: Kubernetes) -> None:
    async with operating(cluster) as watched:
        await watched.client.apply(RL_JOBS, JOB, cluster.namespace)
        await watched.until_ready()
        cluster.server.kubectl("delete", "crd", str(ENVIRONMENT_POOLS))
        await watched.until_hindered(str(ENVIRONMENT_POOLS))
        # The job's plan reads pools, so nobody plans for it; it is told all the same.
        await watched.until_degraded(RL_JOBS, "DefinitionMissing", str(ENVIRONMENT_POOLS))
        install(cluster.server, definition(ENVIRONMENT_POOLS))
        await watched.until_ready()
        # The job's own trouble is told again: the fleet that it names does not exist.
        await watched.until_degraded(RL_JOBS, "DependencyDegraded", "fleet")
        await watched.client.apply(ENVIRONMENT_POOLS, POOL, cluster.namespace)
        await watched.until_filled()


async def test_an_older_definition_is_named_with_its_fields(
    cluster: Kubernetes, caplog: pytest.LogCaptureFixture
) -> None:
    older = definition(ENVIRONMENT_POOLS)
    del schema(older)["spec"]["properties"]["suspend"]
    install(cluster.server, older)
    async with operating(cluster) as watched:
        await watched.client.apply(ENVIRONMENT_POOLS, POOL, cluster.namespace)
        await watched.until_degraded(ENVIRONMENT_POOLS, "DefinitionOutdated", "spec.suspend", "shoal crds |")
        await watched.until_hindered("spec.suspend")
        await watched.until_filled()
        install(cluster.server, definition(ENVIRONMENT_POOLS))
        await watched.until_ready()
        await watched.until_fine(ENVIRONMENT_POOLS)
        assert len(complaints(caplog)) == 1


async def test_a_missing_permission_to_act_is_told_on_the_object(
    cluster: Kubernetes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kubeconfig = account(cluster, tmp_path)
    grant(cluster, ("create", "pods"))
    async with operating(cluster, kubeconfig) as watched:
        await watched.client.apply(ENVIRONMENT_POOLS, POOL, cluster.namespace)
        name = f"system:serviceaccount:{cluster.namespace}:operator"
        await watched.until_degraded(ENVIRONMENT_POOLS, "PermissionMissing", name, "create pods", cluster.namespace)
        await watched.until_hindered("create pods")
        assert await watched.members() == 0
        grant(cluster)
        await watched.until_filled()
        await watched.until_fine(ENVIRONMENT_POOLS)
        await watched.until_ready()
        assert len([each for each in complaints(caplog) if "PermissionMissing" in each]) == 1


async def test_a_missing_permission_to_look_holds_what_would_act_blindly(
    cluster: Kubernetes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kubeconfig = account(cluster, tmp_path)
    grant(cluster, ("list", "secrets"))
    async with operating(cluster, kubeconfig) as watched:
        await watched.client.apply(ENVIRONMENT_POOLS, POOL, cluster.namespace)
        await watched.until_degraded(ENVIRONMENT_POOLS, "PermissionMissing", "list secrets")
        assert await watched.members() == 0
        assert len(complaints(caplog)) == 1
        grant(cluster)
        await watched.until_filled()
        await watched.until_fine(ENVIRONMENT_POOLS)
        await watched.until_ready()


async def test_an_account_without_any_permission_waits(cluster: Kubernetes, tmp_path: Path) -> None:
    kubeconfig = account(cluster, tmp_path)
    async with operating(cluster, kubeconfig) as watched:
        await watched.client.apply(ENVIRONMENT_POOLS, POOL, cluster.namespace)
        await watched.until_hindered("list environmentpools.rl.shoal.dev", "more", "chart shoal")
        grant(cluster)
        await watched.until_filled()
        await watched.until_ready()


async def test_a_permission_taken_away_later_is_noticed(cluster: Kubernetes, tmp_path: Path) -> None:
    kubeconfig = account(cluster, tmp_path)
    grant(cluster)
    async with operating(cluster, kubeconfig) as watched:
        await watched.until_ready()
        grant(cluster, ("create", "pods"))
        await watched.client.apply(ENVIRONMENT_POOLS, POOL, cluster.namespace)
        await watched.until_degraded(ENVIRONMENT_POOLS, "PermissionMissing", "create pods")
        grant(cluster)
        await watched.until_filled()
        await watched.until_fine(ENVIRONMENT_POOLS)
