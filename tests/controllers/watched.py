"""An API server of these tests' own, and an operator in this process to look at: `operating`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shoal.controllers.operator import OperatorSettings, build_manager
from shoal.crdgen import generate
from shoal.engine.endpoint import Endpoint
from shoal.engine.manager import Manager
from shoal.kube.client import KubeClient
from shoal.kube.kubeconfig import kubeconfig_source
from shoal.kube.resources import PODS, Resource
from tests.kubernetes import Kubernetes, KubernetesServer

Json = dict[str, Any]
SECONDS = 40.0


_intact: set[str] = set()
"""Servers whose definitions are as they should be."""


def install(server: KubernetesServer, *definitions: Json) -> None:
    """Apply definitions, changed or not, and wait until they are served."""
    _intact.discard(server.url)
    # As JSON: YAML 1.2 has numbers (1e-6) that YAML 1.1 writes without quotes.
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": definitions})
    server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
    names = [f"crd/{each['metadata']['name']}" for each in definitions]
    server.kubectl("wait", "--for=condition=Established", "--timeout=20s", *names)


def remove(server: KubernetesServer, resource: Resource) -> None:
    """Take a definition away, and all objects of its kind with it."""
    _intact.discard(server.url)
    server.kubectl("delete", "crd", str(resource))


def restore(server: KubernetesServer) -> None:
    """Have every definition as it should be."""
    if server.url not in _intact:
        install(server, *generate.definitions())
        _intact.add(server.url)


def definition(resource: Resource) -> Json:
    return deepcopy(next(each for each in generate.definitions() if each["metadata"]["name"] == str(resource)))


def schema(definition: Json) -> Json:
    found: Json = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return found


class Watched:
    """A running operator, what it says of itself, and a client with every right to look on."""

    def __init__(self, client: KubeClient, manager: Manager, namespace: str, url: str) -> None:
        self.client = client
        self.manager = manager
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
async def operating(
    cluster: Kubernetes, kubeconfig: Path | None = None, *, leader_elect: bool = False
) -> AsyncIterator[Watched]:
    admin = kubeconfig_source(cluster.kubeconfig)
    source = kubeconfig_source(kubeconfig) if kubeconfig else admin
    async with KubeClient(source) as client, KubeClient(admin, field_manager="tester") as tester:
        manager = build_manager(client, OperatorSettings(namespace=cluster.namespace, leader_elect=leader_elect))
        endpoint = Endpoint(manager, "127.0.0.1:0")
        manager.add_background("endpoint", endpoint.run)
        running = asyncio.create_task(manager.run())
        await endpoint.started.wait()
        try:
            yield Watched(tester, manager, cluster.namespace, f"http://127.0.0.1:{endpoint.port}")
        finally:
            manager.stop()
            await running


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings and errors logged so far."""
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
