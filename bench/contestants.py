"""Who brings a thousand pods up: Shoal's operator, a bare client, and Kubernetes' own controllers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from bench.cluster import ROOT, poll
from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec
from shoal.builders.environment import build_members, pool_owner
from shoal.builders.images import Images
from shoal.kube import Json, KubeClient
from shoal.kube.resources import CONFIG_MAPS, ENVIRONMENT_POOLS, PODS, Resource

IN_FLIGHT = 64
"""Requests that the bare client has in flight."""
POOL = "many"
WORKING = "reconciling pools"
"""What the operator's log says when its caches are complete and it begins to decide about pools."""
START_SECONDS = 120.0
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
MEMBERS = f"rl.shoal.dev/role=environment,rl.shoal.dev/pool={POOL}"
"""Label selector of the pods of every contestant."""


def pool_spec(members: int) -> Json:
    """The spec of a pool that wants exactly `members` members, created as fast as they may be."""
    return {
        "environment": {"protocol": "Gymnasium", "entrypoint": "FrozenLake-v1"},
        "scale": {"min": members, "max": members, "refillRate": 100_000, "maxPending": 100_000},
    }


def member_pod(namespace: str) -> Json:
    """The pod that the operator builds for a member, without name and owner."""
    owner = pool_owner(POOL, namespace, "00000000-0000-0000-0000-000000000000")
    pod = build_members(owner, EnvironmentPoolSpec.model_validate(pool_spec(1)), Images())["default"]
    metadata = {key: pod["metadata"][key] for key in ("labels", "annotations")}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}


@dataclass(frozen=True)
class Contestant:
    """One way to get pods. `create` returns when it has asked for `members` of them."""

    name: str
    create: Callable[[KubeClient, str, int], Awaitable[None]]
    operator: bool = False


async def create_pool(client: KubeClient, namespace: str, members: int) -> None:
    """Ask the operator for a pool."""
    resource = ENVIRONMENT_POOLS
    head = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": POOL}}
    await client.create(resource, {**head, "spec": pool_spec(members)}, namespace)


async def create_bare(client: KubeClient, namespace: str, members: int) -> None:
    """Create the same pods with nothing but a client, owned by an object as a member is by its pool."""
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": POOL}}
    home = await client.create(CONFIG_MAPS, body, namespace)
    pod = member_pod(namespace)
    owner = {
        "apiVersion": "v1", "kind": "ConfigMap", "name": POOL, "uid": home["metadata"]["uid"],
        "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip
    numbers = iter(range(members))

    async def work() -> None:
        for number in numbers:
            metadata = {**pod["metadata"], "name": f"{POOL}-environment-{number:06}", "ownerReferences": [owner]}
            await client.create(PODS, {**pod, "metadata": metadata}, namespace)

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


async def create_deployment(client: KubeClient, namespace: str, members: int) -> None:
    """Ask kube-controller-manager for a Deployment."""
    await client.create(DEPLOYMENTS, _workload(DEPLOYMENTS, namespace, members), namespace)


async def create_stateful_set(client: KubeClient, namespace: str, members: int) -> None:
    """Ask kube-controller-manager for a StatefulSet that starts its pods side by side."""
    body = _workload(STATEFUL_SETS, namespace, members)
    body["spec"] |= {"podManagementPolicy": "Parallel", "serviceName": POOL}
    await client.create(STATEFUL_SETS, body, namespace)


def _workload(resource: Resource, namespace: str, members: int) -> Json:
    pod = member_pod(namespace)
    template = {"metadata": pod["metadata"], "spec": pod["spec"]}
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": POOL},
        "spec": {
            "replicas": members,
            "selector": {"matchLabels": pod["metadata"]["labels"]},
            "template": template,
        },
    }


BARE = Contestant("bare client", create_bare)
SHOAL = Contestant("Shoal pool", create_pool, operator=True)
PEERS = (Contestant("Deployment", create_deployment), Contestant("StatefulSet", create_stateful_set))


async def start_operator(kubeconfig: Path, log: Path, *flags: str) -> Process:
    """Start the operator's command, for all namespaces."""
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "shoal.cli.main", "operator", "--kubeconfig", str(kubeconfig), *flags,
            stdout=output, stderr=output, cwd=ROOT,
        )  # fmt: skip


async def kill(process: Process) -> None:
    """kill -9: no chance to tidy up."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    await process.wait()


@contextlib.asynccontextmanager
async def operator(kubeconfig: Path, log: Path) -> AsyncIterator[Process]:
    """The operator at work during the block: its caches are complete when the block begins."""
    already = log.read_text().count(WORKING) if log.exists() else 0
    process = await start_operator(kubeconfig, log)
    try:

        async def working() -> bool:
            if process.returncode is not None:
                raise RuntimeError(f"the operator ended: {log.read_text()[-3000:]}")
            return log.read_text().count(WORKING) > already

        try:
            await poll(working, START_SECONDS)
        except TimeoutError as error:
            raise TimeoutError(f"the operator does not begin: {log.read_text()[-3000:]}") from error
        yield process
    finally:
        await kill(process)
