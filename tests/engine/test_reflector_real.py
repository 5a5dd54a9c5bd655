"""The reflector against a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shoal.engine.keys import ObjectKey
from shoal.engine.reflector import Reflector
from shoal.engine.store import Store, by_label
from shoal.kube import KubeClient, kubeconfig_source
from shoal.kube.resources import CONFIG_MAPS, Json
from tests.kubernetes import Kubernetes


def data(body: Json) -> dict[str, str]:
    return dict(body.get("data") or {})


async def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def test_the_store_follows_the_server(kubernetes: Kubernetes) -> None:
    namespace = kubernetes.namespace
    async with KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client, asyncio.TaskGroup() as group:
        await client.create(CONFIG_MAPS, {"metadata": {"name": "old"}, "data": {"a": "1"}}, namespace)
        store = Store(data, {"app": by_label("app")})
        reflector = Reflector(client, CONFIG_MAPS, store, namespace=namespace)
        task = group.create_task(reflector.run())
        await reflector.synced.wait()
        assert store.get(ObjectKey(namespace, "old")) == {"a": "1"}
        new = {"metadata": {"name": "new", "labels": {"app": "x"}}, "data": {"b": "2"}}
        await client.create(CONFIG_MAPS, new, namespace)
        await until(lambda: store.by_index("app", "x") == [{"b": "2"}])
        await client.delete(CONFIG_MAPS, "old", namespace)
        await until(lambda: ObjectKey(namespace, "old") not in store)
        task.cancel()
