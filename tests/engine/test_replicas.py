"""Two replicas of the real command: one is told to stop, or cut off from the API server; never do both act."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from shoal.kube import KubeClient, kubeconfig_source
from shoal.kube.errors import ApiError
from shoal.kube.resources import PODS
from tests.engine.operators import audited_server, leads, members, replica, until, writes
from tests.engine.partition import Partition
from tests.kubernetes import Kubernetes, KubernetesServer, ProgramsMissingError

POOL = """
apiVersion: rl.shoal.dev/v1alpha1
kind: EnvironmentPool
metadata: {name: pool}
spec:
  environment: {protocol: Gymnasium, entrypoint: FrozenLake-v1}
  replicas: 5
"""
TAKE_OVER_SECONDS = 20.0
RELEASED_SECONDS = 10.0
"""A lease that was given up is free at once; a candidate looks every two seconds."""
LEASE_SECONDS = 15.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    try:
        with audited_server(tmp_path_factory.mktemp("replicas")) as server:
            yield server
    except ProgramsMissingError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def kubernetes(server: KubernetesServer) -> Kubernetes:
    (server.folder / "audit.log").write_text("")
    return Kubernetes(server, server.new_namespace())


@asynccontextmanager
async def churn(client: KubeClient, namespace: str) -> AsyncIterator[None]:
    """Delete members all the time, so that whoever works has something to write all the time."""

    async def strike() -> None:
        while True:
            with suppress(ApiError):
                names = await members(client, namespace)
                if len(names) == 5:
                    await client.delete(PODS, names[0], namespace, grace_seconds=0)
            await asyncio.sleep(0.1)

    task = asyncio.create_task(strike())
    try:
        yield
    finally:
        task.cancel()


def acted(server: KubernetesServer, name: str) -> int:
    return sum(each.user == name for each in writes(server))


def assert_one_after_the_other(server: KubernetesServer) -> None:
    """Every write of a was answered before the first of b was received."""
    last = max(each.answered for each in writes(server) if each.user == "a")
    first = min(each.received for each in writes(server) if each.user == "b")
    assert last < first, (last, first)


@pytest.mark.slow
async def test_a_replica_that_is_told_to_stop_hands_over_at_once(kubernetes: Kubernetes) -> None:
    namespace, server = kubernetes.namespace, kubernetes.server
    async with KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client, replica(kubernetes, "a") as a:
        await until("a leads", lambda: leads(client, namespace, "a"))
        async with replica(kubernetes, "b"), churn(client, namespace):
            kubernetes.kubectl("apply", "-f", "-", stdin=POOL)
            await until("a works", lambda: _more(server, "a", 20))
            await asyncio.sleep(5)  # b has started
            a.send_signal(signal.SIGTERM)
            seconds = await until("b works", lambda: _more(server, "b", 1))
            assert seconds < RELEASED_SECONDS
            assert await asyncio.wait_for(a.wait(), 20) == 0
            await until("b goes on", lambda: _more(server, "b", 10))
            assert_one_after_the_other(server)


@pytest.mark.slow
async def test_a_replica_that_is_cut_off_stops_before_the_other_begins(kubernetes: Kubernetes) -> None:
    namespace, server = kubernetes.namespace, kubernetes.server
    async with (
        KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client,
        Partition(server.url).serve() as network,
        replica(kubernetes, "a", network.url) as a,
    ):
        await until("a leads", lambda: leads(client, namespace, "a"))
        async with replica(kubernetes, "b"), churn(client, namespace):
            kubernetes.kubectl("apply", "-f", "-", stdin=POOL)
            await until("a works", lambda: _more(server, "a", 20))
            await asyncio.sleep(5)  # b has started
            network.cut = True
            stopped = asyncio.create_task(a.wait())
            seconds = await until("b works", lambda: _more(server, "b", 1))
            assert seconds <= TAKE_OVER_SECONDS
            # It noticed by itself, by its own clock, before the lease was anybody else's.
            assert stopped.done() or await asyncio.wait_for(stopped, 5) is not None
            network.heal()
            await until("b goes on", lambda: _more(server, "b", 20))
            assert await leads(client, namespace, "b")
            assert_one_after_the_other(server)
            assert len(await members(client, namespace)) <= 5


@pytest.mark.slow
async def test_a_network_that_comes_back_just_in_time_changes_nothing(kubernetes: Kubernetes) -> None:
    """Cut off for six seconds, a leader goes on leading, and nothing is made twice."""
    namespace, server = kubernetes.namespace, kubernetes.server
    async with (
        KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client,
        Partition(server.url).serve() as network,
        replica(kubernetes, "a", network.url),
    ):
        await until("a leads", lambda: leads(client, namespace, "a"))
        async with replica(kubernetes, "b"), churn(client, namespace):
            kubernetes.kubectl("apply", "-f", "-", stdin=POOL)
            await until("a works", lambda: _more(server, "a", 20))
            network.cut = True
            await asyncio.sleep(6)
            network.heal()
            before = acted(server, "a")
            await until("a goes on", lambda: _more(server, "a", before + 5))
            assert acted(server, "b") == 0


@pytest.mark.slow
async def test_a_replica_that_was_frozen_in_the_middle_of_its_work_writes_nothing_more(kubernetes: Kubernetes) -> None:
    namespace, server = kubernetes.namespace, kubernetes.server
    async with KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client, replica(kubernetes, "a") as a:
        await until("a leads", lambda: leads(client, namespace, "a"))
        async with replica(kubernetes, "b"):
            await asyncio.sleep(5)  # b has started
            kubernetes.kubectl("apply", "-f", "-", stdin=POOL.replace("replicas: 5", "replicas: 600"))
            await until("a works", lambda: _more(server, "a", 100))
            a.send_signal(signal.SIGSTOP)
            frozen = acted(server, "a")
            await until("b works", lambda: _more(server, "b", 10))
            a.send_signal(signal.SIGCONT)
            assert await asyncio.wait_for(a.wait(), 10) != 0
            assert frozen < 600, "it was frozen too late to be in the middle of anything"

            async def filled() -> bool:
                return len(await members(client, namespace)) == 600

            await until("b fills the pool", filled)
            assert_one_after_the_other(server)
            assert len(await members(client, namespace)) == 600


async def _more(server: KubernetesServer, name: str, count: int) -> bool:
    return acted(server, name) >= count
