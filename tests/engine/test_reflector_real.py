"""The reflector against a real API server, directly and through a proxy that breaks things."""

from __future__ import annotations

import asyncio
import random

from shoal.engine.backoff import Backoff
from shoal.engine.keys import ObjectKey, key_of
from shoal.engine.reflector import Reflector
from shoal.engine.store import Change, ChangeType, Store, by_label
from shoal.kube import KubeClient, kubeconfig_source
from shoal.kube.credentials import Credentials, StaticSource
from shoal.kube.resources import CONFIG_MAPS, Json
from shoal.kube.retry import RetryPolicy
from tests.engine.fault_proxy import FaultProxy
from tests.engine.waiting import until
from tests.kubernetes import Kubernetes


def data(body: Json) -> dict[str, str]:
    return dict(body.get("data") or {})


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


async def test_refresh_shows_every_earlier_write(kubernetes: Kubernetes) -> None:
    namespace = kubernetes.namespace
    async with KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client, asyncio.TaskGroup() as group:
        store = Store(data)
        reflector = Reflector(client, CONFIG_MAPS, store, namespace=namespace)
        task = group.create_task(reflector.run())
        await reflector.synced.wait()
        for index in range(20):
            await client.create(CONFIG_MAPS, {"metadata": {"name": f"m{index}"}}, namespace)
            await reflector.refresh()
            assert ObjectKey(namespace, f"m{index}") in store
        task.cancel()


async def test_behind_a_faulty_proxy_nothing_is_lost_or_invented(kubernetes: Kubernetes) -> None:
    namespace, dice = kubernetes.namespace, random.Random(7)
    alive: dict[str, Json] = {}
    invented: list[str] = []

    def check(change: Change[dict[str, str]]) -> None:
        uids = {body["metadata"]["uid"] for body in alive.values()}
        if change.type is ChangeType.DELETED and change.entry.uid in uids:
            invented.append(change.entry.uid)

    async with (
        FaultProxy(kubernetes, rate=0.08, seed=7).serve() as proxy,
        KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as writer,
        KubeClient(
            StaticSource(Credentials(server=proxy.url, token=kubernetes.token)), retry=RetryPolicy(2, base=0.001)
        ) as reader,
        asyncio.TaskGroup() as group,
    ):
        store = Store(data)
        backoff = Backoff(base=0.01, cap=0.1)
        reflector = Reflector(reader, CONFIG_MAPS, store, namespace=namespace, page=4, backoff=backoff)
        reflector.on_change(check)
        task = group.create_task(reflector.run())
        for number in range(300):
            name = f"m{dice.randrange(20)}"
            if name not in alive:
                body = {"metadata": {"name": name}, "data": {"v": str(number)}}
                alive[name] = await writer.create(CONFIG_MAPS, body, namespace)
            elif dice.random() < 0.3:
                # Forgotten first: its deletion may be told before the call returns.
                uid = alive.pop(name)["metadata"]["uid"]
                await writer.delete(CONFIG_MAPS, name, namespace, uid=uid)
            else:
                patch = {"data": {"v": str(number)}}
                alive[name] = await writer.patch(CONFIG_MAPS, name, patch, namespace)
            if dice.random() < 0.1:
                await asyncio.sleep(0.02)
        truth = {
            key_of(body): body["metadata"]["resourceVersion"]
            for body in (await writer.list(CONFIG_MAPS, namespace)).items
        }
        await until(lambda: {entry.key: entry.resource_version for entry in store.entries()} == truth)
        task.cancel()
    assert invented == []
    assert sum(proxy.struck.values()) > 10, proxy.struck


async def test_a_restarted_api_server_is_found_again(kubernetes: Kubernetes) -> None:
    namespace = kubernetes.namespace
    async with KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client, asyncio.TaskGroup() as group:
        store = Store(data)
        deleted: list[Change[dict[str, str]]] = []
        reflector = Reflector(client, CONFIG_MAPS, store, namespace=namespace, backoff=Backoff(base=0.05, cap=0.5))
        reflector.on_change(lambda change: deleted.append(change) if change.type is ChangeType.DELETED else None)
        await client.create(CONFIG_MAPS, {"metadata": {"name": "before"}}, namespace)
        task = group.create_task(reflector.run())
        await reflector.synced.wait()
        await asyncio.to_thread(kubernetes.server.restart_apiserver)
        await client.create(CONFIG_MAPS, {"metadata": {"name": "after"}}, namespace)
        await until(lambda: ObjectKey(namespace, "after") in store)
        assert deleted == []
        task.cancel()
