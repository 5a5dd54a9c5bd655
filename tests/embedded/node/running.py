"""A node process over some API server, and pods to run on it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from shoal.kube import KubeClient, NotFoundError
from shoal.kube.resources import CORE_EVENTS, PODS
from shoal_embedded.node.procfs import find_marked

Json = dict[str, Any]
T = TypeVar("T")

DEADLINE = 20.0
SCHEDULER = "shoal-node-tests"
"""Name of the scheduler that the shared node stands in for."""


@dataclass
class NodeProcess:
    """`python -m shoal_embedded.node` as a child of the test."""

    kubeconfig: Path
    data: Path
    name: str
    arguments: tuple[str, ...] = ("--backoff", "0.3", "--stop-seconds", "2")
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def log(self) -> Path:
        """What the node wrote."""
        return self.data.parent / f"{self.name}.log"

    def start(self) -> None:
        """Start it."""
        command = [sys.executable, "-m", "shoal_embedded.node", "--kubeconfig", str(self.kubeconfig)]
        command += ["--name", self.name, "--data", str(self.data), *self.arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait for its end."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(DEADLINE)

    def processes(self) -> list[int]:
        """Every process that a container of this node started."""
        return [identity.pid for identity in find_marked({"SHOAL_NODE": str(self.data.resolve())})]

    def clean(self) -> None:
        """End everything whatever happened."""
        if self.process is not None and self.process.poll() is None:
            self.end()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)


@dataclass
class PodClient:
    """Creates pods in one namespace and waits for what they become."""

    client: KubeClient
    namespace: str
    node: str

    async def create(self, name: str, *containers: Json, **spec: Any) -> Json:
        """Create a pod for the node. A container needs a name only when there are several."""
        named = [{"name": "main", "image": "shoal/test", **container} for container in containers]
        labels = spec.pop("labels", {"app": name})
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {"terminationGracePeriodSeconds": 5, "nodeName": self.node, **spec, "containers": named},
        }
        return await self.client.create(PODS, body, self.namespace)

    async def get(self, name: str) -> Json:
        """Read a pod."""
        return await self.client.get(PODS, name, self.namespace)

    async def until(self, name: str, condition: Callable[[Json], Any], seconds: float = DEADLINE) -> Any:
        """Wait until `condition` of the pod is true; return its value."""
        end = time.monotonic() + seconds
        while True:
            pod = await self.get(name)
            try:
                value = condition(pod)
            except (KeyError, IndexError):
                value = None
            if value:
                return value
            assert time.monotonic() < end, f"pod {name}: {pod.get('status')}"
            await asyncio.sleep(0.03)

    async def until_gone(self, name: str, seconds: float = DEADLINE) -> None:
        """Wait until the pod's object is gone."""
        end = time.monotonic() + seconds
        while True:
            try:
                pod = await self.get(name)
            except NotFoundError:
                return
            assert time.monotonic() < end, f"pod {name} stays: {pod.get('status')}"
            await asyncio.sleep(0.03)


def python(code: str, **more: Any) -> Json:
    """A container that runs Python code."""
    return {"command": ["python", "-S", "-c", code], **more}


def shell(code: str, **more: Any) -> Json:
    """A container that runs a shell script."""
    return {"command": ["/bin/sh", "-c", code], **more}


def phase(pod: Json) -> str:
    """The pod's phase."""
    return str(pod["status"]["phase"])


def main_status(pod: Json) -> Json:
    """Status of the first main container."""
    status: Json = pod["status"]["containerStatuses"][0]
    return status


def is_ready(pod: Json) -> bool:
    """Whether the pod's condition Ready is true."""
    conditions = {each["type"]: each["status"] for each in pod["status"]["conditions"]}
    return conditions.get("Ready") == "True"


async def events(client: KubeClient, namespace: str, reason: str) -> list[str]:
    """Messages of the namespace's events with this reason."""
    page = await client.list(CORE_EVENTS, namespace)
    return [event["message"] for event in page.items if event["reason"] == reason]


async def eventually(condition: Callable[[], Awaitable[T]], seconds: float = DEADLINE) -> T:
    """Wait until `condition` gives something true; return it."""
    end = time.monotonic() + seconds
    while True:
        value = await condition()
        if value:
            return value
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.05)
