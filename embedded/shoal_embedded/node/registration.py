"""The Node object: what this machine offers, and a lease that says the node is alive."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shoal.kube.client import KubeClient
from shoal.kube.errors import AlreadyExistsError, ApiError, NotFoundError
from shoal.kube.resources import LEASES, NAMESPACES, NODES
from shoal_embedded.node.podspec import format_time

Json = dict[str, Any]
log = logging.getLogger(__name__)

URL_ANNOTATION = "shoal.dev/node-url"
"""Where the node serves logs and figures, for an API server that does not know how to ask a kubelet."""
HEARTBEAT_SECONDS, LEASE_SECONDS = 10.0, 40
LEASE_NAMESPACE = "kube-node-lease"
_PODS = 500


def machine_capacity() -> dict[str, float]:
    """Return what this machine has: processors, bytes of memory, pods, GPUs."""
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = int(file.readline().split()[1]) * 1024
    capacity = {"cpu": float(len(os.sched_getaffinity(0))), "memory": float(memory), "pods": float(_PODS)}
    gpus = Path("/proc/driver/nvidia/gpus")
    if gpus.is_dir():
        capacity["nvidia.com/gpu"] = float(len(list(gpus.iterdir())))
    return capacity


def build_node(name: str, url: str) -> Json:
    """Return the Node object as it is created."""
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {URL_ANNOTATION: url}},
        "spec": {},
    }


def build_node_status(name: str, host_ip: str, port: int, capacity: Mapping[str, float], now: float) -> Json:
    """Return the Node's status. `port` is that of the node's own server."""
    amounts = {resource: f"{amount:g}" if amount < 1e6 else str(int(amount)) for resource, amount in capacity.items()}
    stamp = format_time(now)
    conditions = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "not watched"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "not watched"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "not watched"),
        ("Ready", "True", "KubeletReady", "the node runs pods as processes"),
    ]
    return {
        "capacity": amounts,
        "allocatable": amounts,
        "addresses": [{"type": "InternalIP", "address": host_ip}, {"type": "Hostname", "address": name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": {
            "machineID": "",
            "systemUUID": "",
            "bootID": "",
            "kernelVersion": platform.release(),
            "osImage": "this machine",
            "containerRuntimeVersion": "process://1",
            "kubeletVersion": "v1.34.4-shoal",
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": platform.machine(),
        },
        "conditions": [
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": stamp,
                "lastTransitionTime": stamp,
            }
            for kind, status, reason, message in conditions
        ],
    }


class Registration:
    """Registers the node and keeps its lease fresh."""

    def __init__(self, client: KubeClient, name: str, url: str, host_ip: str, capacity: Mapping[str, float]) -> None:
        self._client = client
        self._name = name
        self._url = url
        self._host_ip = host_ip
        self._capacity = capacity
        self._registered = False

    async def run(self) -> None:
        """Register, then renew the lease until cancelled. What fails is tried again; a lost Node is made again."""
        while True:
            wait = HEARTBEAT_SECONDS
            try:
                if not self._registered:
                    await self._register()
                await self._renew()
            except ApiError as error:
                log.warning("node %s cannot report: %s", self._name, error)
                self._registered = False
                wait = 1.0
            await asyncio.sleep(wait)

    async def _register(self) -> None:
        body = build_node(self._name, self._url)
        try:
            await self._client.create(NODES, body)
        except AlreadyExistsError:
            await self._client.patch(NODES, self._name, {"metadata": body["metadata"]})
        port = int(self._url.rpartition(":")[2])
        status = build_node_status(self._name, self._host_ip, port, self._capacity, time.time())
        await self._client.patch_status(NODES, self._name, status)
        self._registered = True
        log.info("node %s is registered", self._name)

    async def _renew(self) -> None:
        spec = {
            "holderIdentity": self._name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        try:
            await self._client.patch(LEASES, self._name, {"spec": spec}, LEASE_NAMESPACE)
        except NotFoundError:
            await self._create_lease(spec)

    async def _create_lease(self, spec: Json) -> None:
        body = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name, "namespace": LEASE_NAMESPACE},
            "spec": spec,
        }
        try:
            await self._client.create(LEASES, body, LEASE_NAMESPACE)
        except NotFoundError:
            namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": LEASE_NAMESPACE}}
            await self._client.create(NAMESPACES, namespace)
            await self._client.create(LEASES, body, LEASE_NAMESPACE)
