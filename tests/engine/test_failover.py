"""Two operators of the real command on a real API server: the one that works is killed, the other takes over."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path

import pytest

from shoal.kube import KubeClient, NotFoundError, kubeconfig_source
from shoal.kube.resources import LEASES, PODS
from tests.kubernetes import Kubernetes

ROOT = Path(__file__).resolve().parents[2]
POOL = """
apiVersion: rl.shoal.dev/v1alpha1
kind: EnvironmentPool
metadata: {name: pool}
spec:
  environment: {protocol: Gymnasium, entrypoint: FrozenLake-v1}
  scale: {min: 3, max: 3}
"""
TAKE_OVER_SECONDS = 20.0


async def start(kubernetes: Kubernetes, name: str) -> Process:
    command = ["-m", "shoal.cli.main", "operator", "--leader-elect"]
    where = ["--kubeconfig", str(kubernetes.kubeconfig), "--namespace", kubernetes.namespace]
    environ = {**os.environ, "POD_NAME": name}
    return await asyncio.create_subprocess_exec(
        sys.executable, *command, *where, cwd=ROOT, env=environ, stdout=DEVNULL, stderr=DEVNULL
    )


async def members(client: KubeClient, namespace: str) -> list[str]:
    listed = await client.list(PODS, namespace, labels="rl.shoal.dev/role=environment")
    return sorted(item["metadata"]["name"] for item in listed.items)


async def until_members(client: KubeClient, namespace: str, count: int, seconds: float) -> list[str]:
    async with asyncio.timeout(seconds):
        while True:
            names = await members(client, namespace)
            if len(names) == count:
                return names
            await asyncio.sleep(0.1)


async def leader(client: KubeClient, namespace: str) -> str:
    async with asyncio.timeout(30):
        while True:
            try:
                lease = await client.get(LEASES, "shoal-operator", namespace)
                return str(lease["spec"]["holderIdentity"])
            except NotFoundError:
                await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_a_killed_operator_is_replaced_within_twenty_seconds(kubernetes: Kubernetes) -> None:
    namespace = kubernetes.namespace
    kubernetes.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    kubernetes.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    operators = {name: await start(kubernetes, name) for name in ("a", "b")}
    try:
        async with KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client:
            kubernetes.kubectl("apply", "-f", "-", stdin=POOL)
            before = await until_members(client, namespace, 3, 30)
            first = await leader(client, namespace)
            await asyncio.sleep(3)
            operators[first].send_signal(signal.SIGKILL)
            killed = time.monotonic()
            await client.delete(PODS, before[0], namespace, grace_seconds=0)
            after = await until_members(client, namespace, 3, TAKE_OVER_SECONDS)
            seconds = time.monotonic() - killed
            assert seconds <= TAKE_OVER_SECONDS
            assert set(before[1:]) < set(after)
            assert await leader(client, namespace) != first
            # Nobody repeats work: the number stays what it is.
            await asyncio.sleep(2)
            assert await members(client, namespace) == after
    finally:
        for process in operators.values():
            if process.returncode is None:
                process.kill()
            await process.wait()
