"""The manager: what reconciles see, how failures are treated, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from shoal.engine.endpoint import Endpoint
from shoal.engine.expectations import Expectations
from shoal.engine.keys import ObjectKey
from shoal.engine.leader import LeadershipLostError
from shoal.engine.manager import Manager, Result
from shoal.engine.reflector import Reflector
from shoal.engine.store import Change, Store
from shoal.kube import KubeClient, kubeconfig_source
from shoal.kube.errors import ConflictError
from shoal.kube.resources import CONFIG_MAPS
from tests.engine.fake_api_server import NAMESPACE, RESOURCE, FakeApiServer
from tests.engine.waiting import until
from tests.kubernetes import Kubernetes

A, B = ObjectKey("n", "a"), ObjectKey("n", "b")


class Recording:
    """A reconciler that notes its calls and does what the test says."""

    def __init__(self, *outcomes: Result | Exception) -> None:
        self.calls: list[ObjectKey] = []
        self.outcomes = list(outcomes)
        self.running = 0
        self.hold: asyncio.Event | None = None

    async def reconcile(self, key: ObjectKey) -> Result:
        self.calls.append(key)
        self.running += 1
        try:
            if self.hold is not None:
                await self.hold.wait()
        finally:
            self.running -= 1
        outcome = self.outcomes.pop(0) if self.outcomes else Result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer().serve() as server:
        yield server


@pytest.fixture
async def client(server: FakeApiServer) -> AsyncIterator[KubeClient]:
    async with KubeClient(server.source()) as client:
        yield client


@asynccontextmanager
async def running(manager: Manager) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(manager.run())
    try:
        yield task
    finally:
        manager.stop()
        await asyncio.wait({task})


async def test_no_reconcile_before_the_caches_are_complete(server: FakeApiServer, client: KubeClient) -> None:
    await server.put("a", "1")
    server.list_faults.extend(["500"] * 3)
    manager, reconciler = Manager(client), Recording()
    store: Store[str] = Store(lambda body: body["data"]["v"])
    reflector = manager.add_reflector(Reflector(client, RESOURCE, store, namespace=NAMESPACE))
    controller = manager.add_controller("test", reconciler)
    controller.queue.add(B)
    reflector.on_key(controller.queue.add)
    async with running(manager):
        await asyncio.sleep(0.05)
        assert reconciler.calls == []
        await until(lambda: set(reconciler.calls) == {A, B})
        assert manager.working.is_set()


async def test_a_deadline_needs_no_event(client: KubeClient) -> None:
    manager, reconciler = Manager(client), Recording(Result(requeue_after=0.02), Result())
    manager.add_controller("test", reconciler).queue.add(A)
    async with running(manager):
        await until(lambda: reconciler.calls == [A, A])
        await asyncio.sleep(0.05)
        assert reconciler.calls == [A, A]


async def test_a_failure_is_told_once_and_tried_again(client: KubeClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bugs, refusals = [KeyError("x")] * 4, [ConflictError("changed", status=409)] * 2
    manager, reconciler = Manager(client), Recording(*bugs, *refusals, Result())
    manager.add_controller("test", reconciler).queue.add(A)
    async with running(manager):
        await until(lambda: len(reconciler.calls) == 7)
        await until(lambda: "succeeded again" in caplog.text)
        assert caplog.text.count("test n/a: KeyError: 'x'") == 1
        assert caplog.text.count("test n/a: ConflictError: changed") == 1
        assert manager.failing == {}
        assert manager.metrics.reconciles.value("test", "error") == 6
        assert manager.metrics.reconciles.value("test", "success") == 1


async def test_one_failing_key_holds_nobody_up(client: KubeClient) -> None:
    class Failing(Recording):
        async def reconcile(self, key: ObjectKey) -> Result:
            await super().reconcile(key)
            if key == A:
                raise RuntimeError("always")
            return Result()

    manager, reconciler = Manager(client), Failing()
    queue = manager.add_controller("test", reconciler, workers=1).queue
    queue.add(A)
    queue.add(B)
    async with running(manager):
        await until(lambda: B in reconciler.calls and reconciler.calls.count(A) > 3)
        assert manager.failing == {"test n/a": "RuntimeError: always"}


async def test_a_hanging_reconcile_is_ended(client: KubeClient) -> None:
    manager, reconciler = Manager(client, reconcile_seconds=0.05), Recording()
    reconciler.hold = asyncio.Event()
    manager.add_controller("test", reconciler).queue.add(A)
    async with running(manager):
        await until(lambda: len(reconciler.calls) >= 2)
        assert manager.failing == {"test n/a": "no end after 0.05 s"}


async def test_stop_lets_running_work_end_and_begins_no_more(client: KubeClient) -> None:
    manager, reconciler = Manager(client), Recording()
    reconciler.hold = asyncio.Event()
    queue = manager.add_controller("test", reconciler, workers=1).queue
    queue.add(A)
    queue.add(B)
    async with running(manager) as task:
        await until(lambda: reconciler.calls == [A])
        manager.stop()
        await asyncio.sleep(0.02)
        assert not task.done()
        reconciler.hold.set()
        await task
    assert reconciler.calls == [A]


async def test_stop_does_not_wait_for_ever(client: KubeClient) -> None:
    manager, reconciler = Manager(client, grace_seconds=0.05), Recording()
    reconciler.hold = asyncio.Event()
    manager.add_controller("test", reconciler).queue.add(A)
    async with running(manager):
        await until(lambda: reconciler.running == 1)
    assert reconciler.running == 0


async def test_a_part_that_fails_ends_the_manager(client: KubeClient) -> None:
    async def broken() -> None:
        raise OSError("port in use")

    manager = Manager(client)
    manager.add_background("broken", broken)
    with pytest.raises(OSError, match="port in use"):
        await manager.run()


class FakeElector:
    """Leads when told, and loses leadership when told."""

    def __init__(self) -> None:
        self.leading = False
        self.acquired = asyncio.Event()
        self.lost = asyncio.Event()
        self.overlap = False

    def fence(self, resource: str) -> None:
        """Anything may be written."""

    async def run(self, lead: Any) -> None:
        await self.acquired.wait()
        self.leading = True
        work = asyncio.ensure_future(lead())
        await self.lost.wait()
        self.leading = False
        work.cancel()
        await asyncio.wait({work})
        raise LeadershipLostError("lost")


async def test_a_standby_keeps_its_caches_and_works_only_when_it_leads(
    server: FakeApiServer, client: KubeClient
) -> None:
    elector, reconciler = FakeElector(), Recording()
    manager = Manager(client, elector=elector)  # type: ignore[arg-type]
    store: Store[str] = Store(lambda body: body["data"]["v"])
    reflector = manager.add_reflector(Reflector(client, RESOURCE, store, namespace=NAMESPACE))
    controller = manager.add_controller("test", reconciler)
    reflector.on_key(controller.queue.add)
    await server.put("a", "1")
    async with running(manager) as task:
        await until(lambda: manager.synced)
        await asyncio.sleep(0.05)
        assert reconciler.calls == []
        lists = server.lists
        elector.acquired.set()
        await until(lambda: reconciler.calls == [A])
        # The cache was read afresh: it may have lagged behind the last leader's writes.
        assert server.lists == lists + 1
        reconciler.hold = asyncio.Event()
        await server.put("a", "2")
        await until(lambda: reconciler.running == 1)
        elector.lost.set()
        with pytest.raises(LeadershipLostError):
            await task
        assert reconciler.running == 0
        assert controller.queue.closed


async def test_overdue_leadership_does_nothing(client: KubeClient) -> None:
    elector, reconciler = FakeElector(), Recording()
    manager = Manager(client, elector=elector)  # type: ignore[arg-type]
    controller = manager.add_controller("test", reconciler)
    async with running(manager) as task:
        elector.acquired.set()
        await until(manager.working.is_set)
        elector.leading = False
        controller.queue.add(A)
        await until(lambda: controller.queue.delayed == 1)
        assert reconciler.calls == []
        task.cancel()


async def test_the_endpoint_tells_health_readiness_and_metrics(server: FakeApiServer, client: KubeClient) -> None:
    manager = Manager(client)
    store: Store[str] = Store(lambda body: body["data"]["v"])
    manager.add_reflector(Reflector(client, RESOURCE, store, namespace=NAMESPACE))
    endpoint = Endpoint(manager, "127.0.0.1:0")
    manager.add_background("endpoint", endpoint.run)
    manager.add_controller("test", Recording()).queue.add(A)
    await server.put("a", "1")
    async with running(manager), aiohttp.ClientSession() as session:
        await endpoint.started.wait()
        await until(lambda: manager.metrics.reconciles.value("test", "success") == 1)
        base = f"http://127.0.0.1:{endpoint.port}"
        assert (await session.get(f"{base}/healthz")).status == 200
        assert (await session.get(f"{base}/readyz")).status == 200
        text = await (await session.get(f"{base}/metrics")).text()
    assert 'shoal_reconciles_total{controller="test",result="success"} 1' in text
    assert 'shoal_api_requests_total{verb="list",resource="configmaps",status="200"} 1' in text
    assert 'shoal_cached_objects{resource="configmaps"} 1' in text
    assert 'shoal_reconcile_seconds_bucket{controller="test",le="+Inf"} 1' in text


@pytest.mark.parametrize(("listen", "family"), [("[::]:0", "127.0.0.1"), ("[::]:0", "[::1]"), ("[::1]:0", "[::1]")])
async def test_the_endpoint_answers_in_both_families(client: KubeClient, listen: str, family: str) -> None:
    endpoint = Endpoint(Manager(client), listen)
    task = asyncio.create_task(endpoint.run())
    async with aiohttp.ClientSession() as session:
        await endpoint.started.wait()
        assert (await session.get(f"http://{family}:{endpoint.port}/healthz")).status == 200
    task.cancel()


async def test_with_a_lagging_cache_expectations_prevent_over_creation(kubernetes: Kubernetes) -> None:
    """Ten ConfigMaps are wanted; the cache hears of each half a second late, and the key is worked on all the time."""
    namespace, wanted = kubernetes.namespace, 10
    lagging: Store[str] = Store(lambda body: body["metadata"]["name"])
    expectations: Expectations[str] = Expectations()
    passes = 0

    async with KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client:

        class KeepTen:
            async def reconcile(self, key: ObjectKey) -> Result:
                nonlocal passes
                passes += 1
                now = loop.time()
                missing = wanted - len(lagging) - len(expectations.pending("owner", now).creations)
                for _ in range(missing):
                    name = f"c{passes}-{len(created)}"
                    created.append(name)
                    expectations.expect_creation("owner", ObjectKey(namespace, name), now)
                    body = {"metadata": {"name": name, "labels": {"lag": "yes"}}}
                    await client.create(CONFIG_MAPS, body, namespace)
                return Result(requeue_after=0.01)

        loop, created = asyncio.get_running_loop(), list[str]()
        manager = Manager(client)
        mirror: Store[dict[str, Any]] = Store(lambda body: body)
        reflector = manager.add_reflector(Reflector(client, CONFIG_MAPS, mirror, namespace=namespace, labels="lag=yes"))

        def show(body: dict[str, Any]) -> None:
            for change in lagging.put(lagging.read(body)):
                expectations.observe(change)

        def show_later(change: Change[dict[str, Any]]) -> None:
            loop.call_later(0.5, show, change.entry.value)

        reflector.on_change(show_later)
        manager.add_controller("ten", KeepTen()).queue.add(ObjectKey(namespace, "owner"))
        async with running(manager):
            await until(lambda: len(lagging) == wanted)
            seen = passes
            await until(lambda: passes > seen + 10)
        assert seen > 5, "the cache did not lag"
        assert len(created) == wanted
        assert len((await client.list(CONFIG_MAPS, namespace, labels="lag=yes")).items) == wanted
