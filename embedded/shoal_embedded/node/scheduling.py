"""Binds pods to the only node there is: what a scheduler would do, where none runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from shoal.kube.client import KubeClient
from shoal.kube.errors import ApiError, ConflictError, NotFoundError
from shoal.kube.resources import PODS, Resource
from shoal_embedded.node.podspec import Pod
from shoal_embedded.node.quantities import parse_quantity

Json = dict[str, Any]
log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
DEFAULT_SCHEDULER = "default-scheduler"


def wants_node(pod: Pod, scheduler: str) -> bool:
    """Whether the pod waits for the scheduler of this name."""
    waiting = not pod.spec.get("nodeName") and not pod.spec.get("schedulingGates") and not pod.deleting
    return waiting and not pod.ended and (pod.spec.get("schedulerName") or DEFAULT_SCHEDULER) == scheduler


def obstacle(pod: Pod, labels: Mapping[str, str], capacity: Mapping[str, float], used: Mapping[str, float]) -> str:
    """Return why the pod can't run on this node, empty when it can.

    Processors and memory are shared without accounting, as the processes of one machine are; devices are not.
    """
    for key, value in (pod.spec.get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            return f"0/1 nodes are available: 1 node(s) didn't match Pod's node selector ({key}={value})"
    for resource, amount in devices(pod).items():
        free = capacity.get(resource, 0.0) - used.get(resource, 0.0)
        if amount > free:
            return f"0/1 nodes are available: 1 Insufficient {resource} (asked {amount:g}, free {free:g})"
    return ""


def devices(pod: Pod) -> dict[str, float]:
    """Return the devices (such as nvidia.com/gpu) that the pod's containers ask for together."""
    total: dict[str, float] = {}
    for container in pod.spec.get("containers") or ():
        resources = container.get("resources") or {}
        for name, amount in {**(resources.get("requests") or {}), **(resources.get("limits") or {})}.items():
            if "/" in name:
                total[name] = total.get(name, 0.0) + parse_quantity(amount)
    return total


class Binder:
    """Binds pods to one node."""

    def __init__(self, client: KubeClient, node_name: str) -> None:
        self._client = client
        self._node_name = node_name

    async def bind(self, pod: Pod) -> None:
        """Bind a pod; a pod that is bound or gone by now is left alone."""
        while True:
            try:
                await self._bind(pod)
                return
            except (ConflictError, NotFoundError):
                return
            except ApiError as error:
                log.warning("pod %s/%s not bound: %s", pod.namespace, pod.name, error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _bind(self, pod: Pod) -> None:
        body: Json = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self._node_name},
        }
        binding = Resource("", "v1", f"pods/{pod.name}/binding", "Binding")
        try:
            await self._client.create(binding, body, pod.namespace)
        except NotFoundError:
            # The embedded API server has no such subresource; it lets a pod's node be set once.
            patch = {"metadata": {"uid": pod.uid}, "spec": {"nodeName": self._node_name}}
            await self._client.patch(PODS, pod.name, patch, pod.namespace)

    async def refuse(self, pod: Pod, reason: str) -> None:
        """Tell in the pod's conditions why it can't run."""
        known = (pod.body.get("status") or {}).get("conditions") or []
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": reason}
        before: Json = next((each for each in known if each["type"] == "PodScheduled"), {})
        if {key: before.get(key) for key in condition} == condition:
            return
        others = [each for each in known if each["type"] != "PodScheduled"]
        try:
            body = {"metadata": {"uid": pod.uid}, "status": {"conditions": [*others, condition]}}
            await self._client.patch(PODS, pod.name, body, pod.namespace, subresource="status")
        except ApiError as error:
            log.warning("pod %s/%s: %s", pod.namespace, pod.name, error)
