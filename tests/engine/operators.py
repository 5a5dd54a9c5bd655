"""The real `shoal operator` command as processes on a real API server, and what they wrote by its audit log."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.crdgen import generate
from shoal.kube import KubeClient
from shoal.kube.errors import ApiError
from shoal.kube.resources import LEASES, PODS
from tests.kubernetes import Kubernetes, KubernetesServer, find_programs

ROOT = Path(__file__).resolve().parents[2]
POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, users: [a, b], verbs: [create, update, patch, delete]}
- {level: None}
"""
NOT_ACTING = ("leases", "events", "selfsubjectaccessreviews", "selfsubjectreviews")
"""Asking whether it may, holding the lease and telling of the past is no acting."""


@contextmanager
def audited_server(folder: Path) -> Iterator[KubernetesServer]:
    """A server that knows the users a and b and writes down what they write. Raises `ProgramsMissingError`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.yaml").write_text(POLICY)
    flags = [f"--audit-policy-file={folder / 'policy.yaml'}", f"--audit-log-path={folder / 'audit.log'}"]
    users = {name: secrets.token_hex(16) for name in ("a", "b")}
    server = KubernetesServer(programs=find_programs(), folder=folder, apiserver_flags=flags, users=users)
    try:
        server.start()
        server.kubectl("apply", "--server-side", "-f", "-", stdin=generate.as_yaml())
        server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield server
    finally:
        server.stop()


@dataclass(frozen=True)
class Written:
    """A write that the API server carried out: who, what, and when it was received and answered."""

    user: str
    verb: str
    resource: str
    received: str
    answered: str


def writes(server: KubernetesServer) -> list[Written]:
    """What the replicas did so far, less what is no acting."""
    found = []
    for line in (server.folder / "audit.log").read_text().splitlines():
        event: dict[str, Any] = json.loads(line)
        resource = event["objectRef"]["resource"]
        if resource not in NOT_ACTING and event["responseStatus"]["code"] < 400:
            times = (event["requestReceivedTimestamp"], event["stageTimestamp"])
            found.append(Written(event["user"]["username"], event["verb"], resource, *times))
    return found


@asynccontextmanager
async def replica(kubernetes: Kubernetes, name: str, url: str | None = None, *more: str) -> AsyncIterator[Process]:
    """Run `shoal operator --leader-elect` as the user `name` until the block ends."""
    server = kubernetes.server
    token = server.users.get(name)
    kubeconfig = server.write_kubeconfig(server.folder / f"{name}.kubeconfig", url=url, token=token)
    command = ["-m", "shoal.cli.main", "operator", "--leader-elect", "--kubeconfig", str(kubeconfig)]
    where = ["--namespace", kubernetes.namespace, *more]
    environ = {key: value for key, value in os.environ.items() if key != "POD_NAMESPACE"} | {"POD_NAME": name}
    with (server.folder / f"{name}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, *where, cwd=ROOT, env=environ, stdout=DEVNULL, stderr=log
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until(what: str, true: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> float:
    """Wait until `true`; returns after how many seconds. Errors of the API server count as not yet."""
    started = time.monotonic()
    while True:
        try:
            if await true():
                return time.monotonic() - started
        except ApiError:
            pass
        assert time.monotonic() - started < seconds, what
        await asyncio.sleep(0.05)


async def leads(client: KubeClient, namespace: str, name: str) -> bool:
    """Whether the lease names this replica."""
    lease = await client.get(LEASES, "shoal-operator", namespace)
    return bool(lease["spec"].get("holderIdentity") == name)


async def members(client: KubeClient, namespace: str) -> list[str]:
    """Names of the members there are."""
    listed = await client.list(PODS, namespace, labels="rl.shoal.dev/role=environment")
    return sorted(item["metadata"]["name"] for item in listed.items)
