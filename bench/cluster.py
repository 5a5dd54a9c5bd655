"""A control plane with fake nodes for measurements of scale.

kube-apiserver, etcd, kube-controller-manager, kube-scheduler and kwok, all real programs; the nodes are objects, and
kwok answers for their kubelets: a pod that is scheduled becomes Running and Ready at once. Limits that would slow one
client down and not another (priority and fairness, requests in flight, clients' own rates) are off for everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.kube import Json, KubeClient, kubeconfig_source
from shoal.kube.resources import NAMESPACES, NODES
from tests.kubernetes import KubernetesServer, ProgramsMissingError, find_programs

ROOT = Path(__file__).resolve().parent.parent
PODS_PER_NODE = 2000
OPERATOR_USER = "shoal-operator"
UNLIMITED = (
    "--enable-priority-and-fairness=false",
    "--max-requests-inflight=0",
    "--max-mutating-requests-inflight=0",
)
PATIENT = ("--node-monitor-grace-period=1h",)
"""On a busy machine kwok renews its nodes' leases late; a thousand pods that turn unready are no idle cluster."""
FAST_CLIENT = ("--kube-api-qps=5000", "--kube-api-burst=5000")
POD_ADDRESSES = "127.83.0.1/16"
"""Loopback addresses: a stand-in for a broker can listen where the broker's fake pod is said to be."""


@dataclass(frozen=True)
class ScaleCluster:
    """A running cluster of fake nodes. `operator_kubeconfig` logs in as a user of the operator's own."""

    server: KubernetesServer
    operator_kubeconfig: Path

    def client(self) -> KubeClient:
        """A client of the cluster's admin."""
        return KubeClient(kubeconfig_source(self.server.kubeconfig), field_manager="bench")


@contextlib.contextmanager
def running_cluster(folder: Path, nodes: int, flags: Sequence[str] = ()) -> Iterator[ScaleCluster]:
    """Start a cluster with `nodes` nodes and Shoal's CRDs for the block.

    Args:
        folder: state and logs.
        nodes: fake nodes, each for 2,000 pods.
        flags: further flags of kube-apiserver.

    Raises:
        ProgramsMissingError: naming the program that is not on this machine.
    """
    programs = find_programs()
    for name in ("kube-controller-manager", "kube-scheduler", "kwok"):
        if shutil.which(programs / name) is None:
            raise ProgramsMissingError(f"{programs} has no {name}")
    token = secrets.token_hex(16)
    server = KubernetesServer(programs, folder, apiserver_flags=(*UNLIMITED, *flags), users={OPERATOR_USER: token})
    try:
        server.start()
        server.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        server.start_controller_manager(*FAST_CLIENT, *PATIENT)
        server.start_scheduler(*FAST_CLIENT)
        server.start_kwok(f"--cidr={POD_ADDRESSES}")
        cluster = ScaleCluster(server, server.write_kubeconfig(folder / "operator.kubeconfig", token=token))
        asyncio.run(_add_nodes(cluster, nodes))
        yield cluster
    finally:
        server.stop()
        shutil.rmtree(folder / "etcd", ignore_errors=True)


async def _add_nodes(cluster: ScaleCluster, count: int) -> None:
    """Create the nodes and wait until each is Ready and open for pods."""
    async with cluster.client() as client:
        names = [f"fake-{number}" for number in range(count)]
        for name in names:
            await client.create(NODES, _node(name))

        async def usable() -> bool:
            return all([_open(await client.get(NODES, name)) for name in names])

        await poll(usable, 60)


def _node(name: str) -> Json:
    room = {"cpu": "100k", "memory": "1Pi", "pods": str(PODS_PER_NODE)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "status": {"capacity": room, "allocatable": room},
    }


def _open(node: Json) -> bool:
    conditions = {each["type"]: each["status"] for each in node["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and not node["spec"].get("taints")


@contextlib.asynccontextmanager
async def namespace(client: KubeClient, name: str, *, wait: bool = True) -> AsyncIterator[str]:
    """A namespace for the block; it and everything in it is gone afterwards, so that nothing disturbs the next one.

    Without `wait` it is left as it is: the cluster ends anyway.
    """
    await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    try:
        yield name
    finally:
        if wait:
            await _remove_namespace(client, name)


async def _remove_namespace(client: KubeClient, name: str) -> None:
    await client.delete(NAMESPACES, name)

    async def gone() -> bool:
        return all(body["metadata"]["name"] != name for body in (await client.list(NAMESPACES)).items)

    await poll(gone, 600)


async def poll(done: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Ask `done` five times a second until it says yes; raises `TimeoutError` after `seconds`."""
    async with asyncio.timeout(seconds):
        while True:
            if await done():
                return
            await asyncio.sleep(0.2)
