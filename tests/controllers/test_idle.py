"""Nothing is asked of the API server while nothing changes: ten minutes of 1,000 members, by a moved clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

from aiohttp import web

from shoal.api.labels import ROLE, Role
from shoal.api.services.leases import BrokerStatus, MemberStatus, SlotTotals, VariantTotals
from shoal.controllers.context import Context
from shoal.controllers.operator import OperatorSettings, build_manager
from shoal.controllers.pool import PoolController
from shoal.controllers.status import StatusWriter
from shoal.engine.keys import ObjectKey
from shoal.engine.scrape import Observation, Scraper, Target
from shoal.kube import KubeClient
from shoal.kube.credentials import Credentials, StaticSource
from tests.engine.fake_clock import START, FakeClock

Json = dict[str, Any]

MEMBERS = 1000
POOL = ObjectKey("n", "p")
UID = "11111111-1111-1111-1111-111111111111"


class FakeServer:
    """Stores what is created and patched, and remembers every request."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.created: list[Json] = []
        self.pool: Json = {
            "apiVersion": "rl.shoal.dev/v1alpha1",
            "kind": "EnvironmentPool",
            "metadata": {"name": "p", "namespace": "n", "uid": UID, "generation": 1, "resourceVersion": "1"},
            "spec": {
                "environment": {"protocol": "Gymnasium", "entrypoint": "FrozenLake-v1"},
                "scale": {"min": MEMBERS, "max": MEMBERS, "refillRate": MEMBERS},
            },
        }

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(f"{request.method} {request.path}")
        if request.method == "GET":
            # What is asked for by name before it is made; nothing of these names is there.
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
        body = await request.json()
        if request.path.endswith("/status"):
            metadata = {**self.pool["metadata"], "resourceVersion": str(len(self.requests) + 1)}
            self.pool = {**self.pool, "metadata": metadata, "status": {**self.pool.get("status", {}), **body["status"]}}
            return web.json_response(self.pool)
        if body.get("kind") == "EnvironmentPool":
            self._reflect(body, request.query["fieldManager"])
            return web.json_response(self.pool)
        self.created.append(body)
        return web.json_response(body)

    def _reflect(self, body: Json, manager: str) -> None:
        """Take a size that is applied to the pool itself, as the API server does."""
        metadata = self.pool["metadata"]
        owned = {"manager": manager, "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        changed = {"resourceVersion": str(len(self.requests) + 1), "generation": metadata["generation"] + 1}
        spec = {**self.pool["spec"], **body["spec"]}
        self.pool = {**self.pool, "metadata": {**metadata, **changed, "managedFields": [owned]}, "spec": spec}

    @asynccontextmanager
    async def client(self) -> AsyncIterator[KubeClient]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            address = f"http://127.0.0.1:{runner.addresses[0][1]}"
            async with KubeClient(StaticSource(Credentials(server=address))) as client:
                yield client
        finally:
            await runner.cleanup()


class FakeScraper:
    """A broker that reports anew whenever it is looked at: seconds grow, ages change, no slot does."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.members: list[str] = []

    def set_targets(self, owner: str, targets: dict[str, Target]) -> None:
        pass

    def get(self, owner: str, role: str) -> Observation | None:
        if role != Role.BROKER or not self.members:
            return None
        now = self._clock.now()
        slots = SlotTotals(total=1, free=1)
        members = [
            MemberStatus(name=name, uid=name, url="http://m", variant="default", slots=slots, age=now % 2)
            for name in self.members
        ]
        total = SlotTotals(total=len(members), free=len(members))
        variants = {"default": VariantTotals(members=len(members), slots=total)}
        seconds = now * len(members)
        status = BrokerStatus(members=members, variants=variants, uptime_seconds=now, slot_seconds=seconds)
        return Observation(status, now)


class Cluster:
    """One pool with its controller; what the controller creates is put into its caches by `show`."""

    def __init__(self, server: FakeServer, client: KubeClient) -> None:
        self.server = server
        self.clock = FakeClock()
        self.scraper = FakeScraper(self.clock)
        manager = build_manager(client, OperatorSettings())
        built = next(each.reconciler for each in manager.controllers if each.name == "pools")
        scraper = cast("Scraper[str]", self.scraper)
        status = StatusWriter(client, self.clock)
        context: Context = replace(
            cast(PoolController, built)._context, clock=self.clock, scraper=scraper, status=status
        )
        self.world = context.world
        self.controller = PoolController(context)

    async def work(self) -> float | None:
        """One pass over what the server holds; returns when the next one is wanted."""
        self.world.pools.put(self.world.pools.read(self.server.pool))
        return (await self.controller.reconcile(POOL)).requeue_after

    def show(self) -> None:
        """Let the caches show everything that was created, its pods Ready."""
        stores = {
            "Pod": self.world.pods,
            "Service": self.world.services,
            "Secret": self.world.tokens,
            "NetworkPolicy": self.world.policies,
        }
        for number, body in enumerate(self.server.created):
            metadata = {"uid": f"u{number}", "resourceVersion": "5", "creationTimestamp": START.isoformat()}
            status = {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
            whole = {**body, "metadata": {**body["metadata"], **metadata}, "status": status}
            store: Any = stores[body["kind"]]
            store.put(store.read(whole))
        pods = [body["metadata"] for body in self.server.created if body["kind"] == "Pod"]
        self.scraper.members = [pod["name"] for pod in pods if pod["labels"][ROLE] == Role.ENVIRONMENT]


async def test_ten_minutes_in_which_nothing_happens_cost_no_request() -> None:
    server = FakeServer()
    async with server.client() as client:
        cluster = Cluster(server, client)
        await cluster.work()
        cluster.show()
        for _ in range(3):
            cluster.clock.jump(2.0)
            await cluster.work()
        assert len(cluster.scraper.members) == MEMBERS
        assert server.pool["status"]["readyReplicas"] == server.pool["status"]["slots"]["free"] == MEMBERS
        settled = len(server.requests)
        for _ in range(60):
            cluster.clock.jump(10.0)
            await cluster.work()
        assert server.requests[settled:] == []
