"""Which neighbours are there: on the real API server with their real definitions, and on the embedded one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from shoal.engine.store import Store
from shoal.engine.visitor import NeighbourReflector
from shoal.kube.client import KubeClient
from shoal.kube.credentials import Credentials, StaticSource
from shoal.kube.discovery import DOUBT_SECONDS, LOOK_SECONDS, Discovery
from shoal.kube.kubeconfig import kubeconfig_source
from shoal.kube.resources import CUSTOM_RESOURCE_DEFINITIONS
from shoal.kube.retry import RetryPolicy
from shoal.neighbours.registry import NEEDS
from tests.embedded.apiserver.conftest import Embedded
from tests.engine.fake_clock import FakeClock
from tests.engine.waiting import until
from tests.interplay.neighbours import definitions, install, remove
from tests.kubernetes import Kubernetes

Json = dict[str, Any]
NAMES = [need.name for need in NEEDS]


async def test_neighbours_come_and_go(cluster: Kubernetes) -> None:
    remove(cluster.server, "leaderworkerset")
    async with KubeClient(kubeconfig_source(cluster.kubeconfig)) as client:
        neighbours = Discovery(client, NEEDS)
        heard: list[bool] = []
        neighbours.on_change(lambda: heard.append(neighbours.available("leaderworkerset")))
        assert await neighbours.look()
        assert heard == [False]
        install(cluster.server, "leaderworkerset")
        await neighbours.look()
        assert heard == [False, True]
        resource = neighbours.resource("leaderworkerset", "leaderworkersets")
        assert resource is not None
        assert (resource.version, resource.kind) == ("v1", "LeaderWorkerSet")
        remove(cluster.server, "leaderworkerset")
        assert not await neighbours.look(), "one look that misses it is not yet certain"
        assert neighbours.available("leaderworkerset")
        assert await neighbours.look()
        assert heard == [False, True, False]


async def test_every_neighbours_real_definitions_are_recognised(cluster: Kubernetes) -> None:
    install(cluster.server, *NAMES)
    async with KubeClient(kubeconfig_source(cluster.kubeconfig)) as client:
        neighbours = Discovery(client, NEEDS)
        await neighbours.look()
        assert [neighbour for neighbour in NAMES if not neighbours.available(neighbour)] == []
        workloads = neighbours.resource("kueue", "workloads")
        assert workloads is not None
        assert workloads.version == "v1beta2"


async def test_a_reflector_follows_a_resource_that_comes_and_goes(cluster: Kubernetes) -> None:
    remove(cluster.server, "leaderworkerset")
    async with KubeClient(kubeconfig_source(cluster.kubeconfig)) as client:
        neighbours = Discovery(client, NEEDS)
        store: Store[Json] = Store(lambda body: body)
        reflector = NeighbourReflector(
            client,
            neighbours,
            "leaderworkerset",
            "leaderworkersets",
            store,
            namespace=cluster.namespace,
        )
        running = asyncio.create_task(reflector.run())
        try:
            assert not reflector.synced.is_set()
            await neighbours.look()
            await asyncio.wait_for(reflector.synced.wait(), 20)
            assert not reflector.complete
            install(cluster.server, "leaderworkerset")
            cluster.kubectl("apply", "--server-side", "-f", "-", stdin=LEADER_WORKER_SET)
            await neighbours.look()
            await until(lambda: reflector.complete and len(store) == 1)
            await asyncio.wait_for(reflector.refresh(), 20)
            remove(cluster.server, "leaderworkerset")
            await neighbours.look()
            await neighbours.look()
            await until(lambda: not reflector.complete and len(store) == 0)
            await asyncio.wait_for(reflector.refresh(), 20)
            install(cluster.server, "leaderworkerset")
            await neighbours.look()
            await until(lambda: reflector.complete)
        finally:
            running.cancel()
            await asyncio.wait({running})


LEADER_WORKER_SET = """
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata: {name: engines}
spec:
  replicas: 1
  leaderWorkerTemplate:
    size: 2
    workerTemplate: {spec: {containers: [{name: main, image: example}]}}
"""


class FakeDiscovery:
    """Serves `/apis` with the groups it is told, or fails."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, list[str]]] = {}
        self.failing = False
        self.forbidding = False
        self.asked = 0
        self.url = ""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[KubeClient]:
        app = web.Application()
        app.router.add_get("/apis", self._groups)
        app.router.add_get("/apis/{group}/{version}", self._resources)
        app.router.add_get("/apis/{group}/{version}/{plural}", self._objects)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        source = StaticSource(Credentials(server=f"http://127.0.0.1:{runner.addresses[0][1]}"))
        try:
            async with KubeClient(source, retry=RetryPolicy(attempts=1)) as client:
                yield client
        finally:
            await runner.cleanup()

    async def _groups(self, _: web.Request) -> web.Response:
        self.asked += 1
        if self.failing:
            return web.json_response({"kind": "Status", "message": "starting"}, status=503)
        groups = [
            {"name": name, "versions": [{"version": version} for version in versions]}
            for name, versions in self.groups.items()
        ]
        return web.json_response({"kind": "APIGroupList", "groups": groups})

    async def _resources(self, request: web.Request) -> web.Response:
        plurals = self.groups.get(request.match_info["group"], {}).get(request.match_info["version"])
        if plurals is None:
            return web.json_response({"kind": "Status", "message": "not found"}, status=404)
        return web.json_response({"kind": "APIResourceList", "resources": [{"name": plural} for plural in plurals]})

    async def _objects(self, _: web.Request) -> web.Response:
        if self.forbidding:
            return web.json_response({"kind": "Status", "message": "may not list workloads"}, status=403)
        return web.json_response({"kind": "WorkloadList", "metadata": {"resourceVersion": "1"}, "items": []})


KUEUE = ["workloads", "localqueues", "clusterqueues", "resourceflavors", "workloadpriorityclasses"]


async def test_the_newest_version_that_both_sides_speak_is_chosen() -> None:
    server = FakeDiscovery()
    async with server.serve() as client:
        neighbours = Discovery(client, NEEDS)
        server.groups = {"kueue.x-k8s.io": {"v1beta1": KUEUE}}
        await neighbours.look()
        resource = neighbours.resource("kueue", "workloads")
        assert resource is not None
        assert resource.version == "v1beta1"
        server.groups = {"kueue.x-k8s.io": {"v1beta1": KUEUE, "v1beta2": KUEUE, "v2": KUEUE}}
        await neighbours.look()
        resource = neighbours.resource("kueue", "workloads")
        assert resource is not None
        assert resource.version == "v1beta2"
        server.groups = {"kueue.x-k8s.io": {"v2": KUEUE}}
        await neighbours.look()
        await neighbours.look()
        assert not neighbours.available("kueue"), "a version that Shoal does not speak is no neighbour"


async def test_half_an_installation_is_none() -> None:
    server = FakeDiscovery()
    server.groups = {"kueue.x-k8s.io": {"v1beta2": ["workloads"]}}
    async with server.serve() as client:
        neighbours = Discovery(client, NEEDS)
        await neighbours.look()
        assert not neighbours.available("kueue")


class FakeSleep:
    """Notes how long was to be slept, and sleeps until the test says that it is over."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._over = asyncio.Semaphore(0)

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await self._over.acquire()

    async def end(self) -> None:
        slept = len(self.seconds)
        self._over.release()
        await until(lambda: len(self.seconds) > slept)


async def test_a_server_that_fails_changes_nothing_and_is_asked_again_soon() -> None:
    server, sleep = FakeDiscovery(), FakeSleep()
    async with server.serve() as client:
        neighbours = Discovery(client, NEEDS, sleep=sleep)
        server.failing = True
        running = asyncio.create_task(neighbours.run())
        try:
            await until(lambda: len(sleep.seconds) == 1)
            assert not neighbours.looked.is_set()
            server.failing = False
            server.groups = {"kueue.x-k8s.io": {"v1beta2": KUEUE}}
            await sleep.end()
            assert neighbours.available("kueue")
            server.failing = True
            await sleep.end()
            await sleep.end()
            await sleep.end()
            assert neighbours.available("kueue")
            assert sleep.seconds == [DOUBT_SECONDS, LOOK_SECONDS, DOUBT_SECONDS, DOUBT_SECONDS, DOUBT_SECONDS]
        finally:
            running.cancel()
            await asyncio.wait({running})


async def test_a_forbidden_resource_holds_nobody_up_and_says_why() -> None:
    server = FakeDiscovery()
    server.groups = {"kueue.x-k8s.io": {"v1beta2": KUEUE}}
    server.forbidding = True
    clock = FakeClock()
    async with server.serve() as client:
        neighbours = Discovery(client, NEEDS)
        store: Store[Json] = Store(lambda body: body)
        reflector = NeighbourReflector(client, neighbours, "kueue", "workloads", store, clock=clock)
        running = asyncio.create_task(reflector.run())
        try:
            await neighbours.look()
            await asyncio.wait_for(reflector.synced.wait(), 20)
            assert not reflector.complete
            assert "may not list workloads" in reflector.refusal
            server.forbidding = False
            await clock.advance(40)
            await until(lambda: reflector.complete and not reflector.refusal)
        finally:
            running.cancel()
            await asyncio.wait({running})


async def test_the_embedded_server_tells_the_same_way(embedded: Embedded) -> None:
    async with KubeClient(kubeconfig_source(embedded.kubeconfig)) as client:
        neighbours = Discovery(client, NEEDS)
        assert await neighbours.look()
        assert not any(neighbours.available(neighbour) for neighbour in NAMES)
        for definition in definitions("leaderworkerset"):
            await client.create(CUSTOM_RESOURCE_DEFINITIONS, definition)
        await neighbours.look()
        assert [neighbour for neighbour in NAMES if neighbours.available(neighbour)] == ["leaderworkerset"]
