"""Outages of the real API server and its store under load: nothing is lost, invented or made once too often."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from shoal.engine.backoff import Backoff
from shoal.engine.keys import key_of
from shoal.engine.reflector import Reflector
from shoal.engine.store import Store
from shoal.kube import KubeClient, kubeconfig_source
from shoal.kube.errors import ApiError
from shoal.kube.resources import CONFIG_MAPS, ENVIRONMENT_POOLS, PODS
from shoal.kube.watch import EventType
from tests.controllers.test_operator import FakeKubelet
from tests.engine.fault_proxy import FaultProxy
from tests.engine.operators import audited_server, replica, until
from tests.kubernetes import Kubernetes, KubernetesServer, ProgramsMissingError

MEMBERS = "rl.shoal.dev/role=environment"
POOL = """
apiVersion: rl.shoal.dev/v1alpha1
kind: EnvironmentPool
metadata: {name: pool}
spec:
  environment: {protocol: Gymnasium, entrypoint: FrozenLake-v1}
  replicas: 60
"""
TARGET = 60
SECONDS = 120.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    try:
        with audited_server(tmp_path_factory.mktemp("outages")) as server:
            yield server
    except ProgramsMissingError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def kubernetes(server: KubernetesServer) -> Kubernetes:
    return Kubernetes(server, server.new_namespace())


class Counting:
    """Counts the members alive after every event of a watch of its own, which knows nothing of reflectors."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self.alive: set[str] = set()
        self.most = 0
        self.created: set[str] = set()

    async def run(self) -> None:
        while True:
            with suppress(ApiError):
                await self._follow()
            await asyncio.sleep(0.1)

    async def _follow(self) -> None:
        page = await self._client.list(PODS, self._namespace, labels=MEMBERS)
        self.alive = {item["metadata"]["uid"] for item in page.items if "deletionTimestamp" not in item["metadata"]}
        self._note()
        watch = self._client.watch(PODS, self._namespace, labels=MEMBERS, resource_version=page.resource_version)
        async for event in watch:
            if event.type is EventType.BOOKMARK:
                continue
            meta = event.object["metadata"]
            if event.type is EventType.DELETED or "deletionTimestamp" in meta:
                self.alive.discard(meta["uid"])
            else:
                self.alive.add(meta["uid"])
            self._note()

    def _note(self) -> None:
        self.most = max(self.most, len(self.alive))
        self.created |= self.alive


@asynccontextmanager
async def load(client: KubeClient, namespace: str, *, pause: float = 0.2) -> AsyncIterator[Counting]:
    """A fake kubelet, five members deleted at random every `pause` seconds, and a count of what is alive."""
    dice = random.Random(3)

    async def strike() -> None:
        while True:
            with suppress(ApiError):
                listed = await client.list(PODS, namespace, labels=MEMBERS)
                for pod in dice.sample(listed.items, min(5, len(listed.items))):
                    await client.delete(PODS, pod["metadata"]["name"], namespace, uid=pod["metadata"]["uid"])
            await asyncio.sleep(pause)

    counting = Counting(client, namespace)
    kubelet = FakeKubelet(client, namespace)
    tasks = [asyncio.create_task(run()) for run in (counting.run, kubelet.run, strike)]
    try:
        yield counting
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def back_up(server: KubernetesServer, to: Path) -> None:
    """Copy etcd's files, which is sound while it is down."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(server.folder / "etcd", to)


def restore(server: KubernetesServer, backup: Path) -> None:
    shutil.rmtree(server.folder / "etcd")
    shutil.copytree(backup, server.folder / "etcd")


async def outages(server: KubernetesServer, backup: Path, *, seconds: float = 4.0) -> None:
    """Everything that may happen to a control plane, with some seconds of work in between."""
    await asyncio.sleep(seconds)
    await asyncio.to_thread(server.restart_apiserver)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(server.crash)
    back_up(server, backup)
    await asyncio.to_thread(server.recover)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(server.crash)
    await asyncio.to_thread(server.recover, apiserver_first=True)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(server.crash)
    restore(server, backup)
    await asyncio.to_thread(server.recover)
    await asyncio.sleep(seconds)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_pool_is_held_through_every_outage_and_never_above_its_target(
    kubernetes: Kubernetes, tmp_path: Path
) -> None:
    namespace, server = kubernetes.namespace, kubernetes.server
    async with (
        KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client,
        replica(kubernetes, "a", None, "--no-leader-elect") as operator,
    ):
        kubernetes.kubectl("apply", "-f", "-", stdin=POOL)

        async def full() -> bool:
            return len(counting.alive) == TARGET

        async def told() -> bool:
            pool = await client.get(ENVIRONMENT_POOLS, "pool", namespace)
            return bool(pool.get("status", {}).get("readyReplicas") == TARGET)

        async with load(client, namespace) as counting:
            await until("the pool is filled", full, SECONDS)
            await outages(server, tmp_path / "backup")
            await until("the pool is full again", full, SECONDS)
            # Deletions go on all the time, so far more were made than are alive; yet never too many at once.
            assert len(counting.created) > 2 * TARGET
        async with load_without_deletions(client, namespace) as calm:
            await until("its status is right", told, SECONDS)
            await asyncio.sleep(3)
            assert len(calm.alive) == TARGET
        assert max(counting.most, calm.most) <= TARGET
        assert operator.returncode is None, "the operator lived through it"


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_behind_a_faulty_proxy_a_pool_is_never_above_its_target(kubernetes: Kubernetes) -> None:
    """The operator sees the server through errors, 410s, ends in the middle of a line, and lines in pieces."""
    namespace = kubernetes.namespace
    async with (
        KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client,
        FaultProxy(kubernetes, rate=0.04, seed=11).serve() as proxy,
        replica(kubernetes, "a", proxy.url, "--no-leader-elect") as operator,
        load(client, namespace, pause=3.0) as counting,
    ):
        kubernetes.kubectl("apply", "-f", "-", stdin=POOL)

        async def full() -> bool:
            return len(counting.alive) == TARGET

        async def replaced() -> bool:
            return len(counting.created) > 2 * TARGET

        await until("the pool is filled", full, SECONDS)
        await until("as many members were replaced", replaced, SECONDS)
        await until("the pool is full again", full, SECONDS)
        assert counting.most <= TARGET
        assert min(proxy.struck[fault] for fault in ("500", "410", "end", "half a line", "410 event", "slow")) > 0
        assert operator.returncode is None


@asynccontextmanager
async def load_without_deletions(client: KubeClient, namespace: str) -> AsyncIterator[Counting]:
    counting = Counting(client, namespace)
    kubelet = FakeKubelet(client, namespace)
    tasks = [asyncio.create_task(run()) for run in (counting.run, kubelet.run)]
    try:
        yield counting
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_store_is_equal_to_the_server_after_every_outage(
    kubernetes: Kubernetes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    namespace, server, dice = kubernetes.namespace, kubernetes.server, random.Random(5)
    async with KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client:
        store: Store[dict[str, str]] = Store(lambda body: dict(body.get("data") or {}))
        backoff = Backoff(base=0.05, cap=1.0)
        reflector = Reflector(client, CONFIG_MAPS, store, namespace=namespace, page=10, backoff=backoff)

        async def write() -> None:
            number = 0
            while True:
                number += 1
                name = f"m{dice.randrange(40)}"
                with suppress(ApiError):
                    if dice.random() < 0.3:
                        await client.delete(CONFIG_MAPS, name, namespace)
                    else:
                        body = {"metadata": {"name": name}, "data": {"v": str(number)}}
                        await client.apply(CONFIG_MAPS, body, namespace)
                await asyncio.sleep(0.005)

        following = asyncio.create_task(reflector.run())
        writing = asyncio.create_task(write())
        await outages(server, tmp_path / "backup", seconds=3.0)
        writing.cancel()

        async def equal() -> bool:
            listed = (await client.list(CONFIG_MAPS, namespace)).items
            truth = {(key_of(body), body["metadata"]["resourceVersion"], body["data"]["v"]) for body in listed}
            return truth == {(each.key, each.resource_version, each.value["v"]) for each in store.entries()}

        await until("the store is equal to the server", equal, 30)
        following.cancel()
    assert "went back from version" in caplog.text, "the backup was not older"
