"""What the operator asks of the API server: for a member brought up, for a member replaced, and while nothing happens.

    python -m bench.api_cost --members 1000 --replace 200 --idle 600

The operator logs in as a user of its own, and the API server's audit log counts its requests by verb and resource
(`operator`). The difference of the server's own metric `apiserver_request_total` counts everybody's (`everybody`):
scheduler, kubelets, controllers, and this program, whose own requests are part of it. Per member or replacement:

- fill: the pool goes from 0 to all members;
- deleted: somebody else deletes members (a drained node), the operator replaces them;
- failed: members fail for good, the operator deletes and replaces them;
- rollout: the template changes, the operator retires, deletes and replaces every member;
- idle: nothing happens (`pod_changes` 0), while the broker goes on reporting (`broker_reports`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson

from bench.cluster import OPERATOR_USER, PODS_PER_NODE, ScaleCluster, namespace, running_cluster
from bench.contestants import MEMBERS, POOL, create_pool, operator
from bench.fake_broker import FakeBroker
from bench.pod_watch import PodWatch
from shoal.kube import Json, KubeClient
from shoal.kube.resources import ENVIRONMENT_POOLS, PODS

QUIET_SECONDS = 10.0
"""What a change still causes comes within this; it belongs to the phase that caused it."""
AUDIT_POLICY = f"""apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    users: [{OPERATOR_USER}]
  - level: None
"""
READS = frozenset({"get", "list", "watch"})
_SAMPLE = re.compile(r"^apiserver_request_total\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

Requests = Counter[str]
"""Requests by "verb resource/subresource"."""


class AuditLog:
    """Counts the operator's requests since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def take(self) -> Requests:
        """Requests that ended since the last call; a watch counts when it begins."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return Counter(_name(event) for event in map(orjson.loads, whole.splitlines()) if _counts(event))


def _counts(event: Json) -> bool:
    wanted = "ResponseStarted" if event["verb"] == "watch" else "ResponseComplete"
    return bool(event["stage"] == wanted)


def _name(event: Json) -> str:
    at = event.get("objectRef") or {"resource": event["requestURI"].partition("?")[0]}
    resource = at["resource"] + (f"/{at['subresource']}" if "subresource" in at else "")
    return f"{event['verb']} {resource}"


def writes(requests: Requests) -> int:
    """How many of the requests change something."""
    return sum(count for name, count in requests.items() if name.partition(" ")[0] not in READS)


def served(cluster: ScaleCluster) -> Requests:
    """Everybody's requests since the server started, by its own metric."""
    text = cluster.server.kubectl("get", "--raw", "/metrics")
    total: Requests = Counter()
    for labels, value in _SAMPLE.findall(text):
        of = dict(_LABEL.findall(labels))
        resource = "/".join(part for part in (of["resource"], of["subresource"]) if part)
        total[f"{of['verb']} {resource}"] += int(float(value))
    return total


class Meter:
    """Counts the requests of one phase after the other; `quiet` seconds after its work belong to a phase as well."""

    def __init__(self, cluster: ScaleCluster, audit: AuditLog, quiet: float = QUIET_SECONDS) -> None:
        self._cluster = cluster
        self._audit = audit
        self._quiet = quiet
        self.phases: dict[str, dict[str, Any]] = {}

    async def phase(self, name: str, members: int, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work, wait until it is quiet again, and keep the requests per member."""
        before = served(self._cluster)
        self._audit.take()
        await work()
        await asyncio.sleep(self._quiet)
        mine = self._audit.take()
        everybody = served(self._cluster) - before
        self.phases[name] = {
            "members": members,
            "writes_per_member": round(writes(mine) / members, 3),
            "requests_per_member": round(mine.total() / members, 3),
            "everybody_per_member": round(everybody.total() / members, 3),
            "operator": dict(mine.most_common()),
            "everybody": dict(everybody.most_common(12)),
        }
        print(json.dumps({name: self.phases[name]}), flush=True)


class Script:
    """What happens to the pool, phase by phase."""

    def __init__(self, client: KubeClient, namespace: str, watch: PodWatch, members: int, replaced: int) -> None:
        self._client = client
        self._namespace = namespace
        self._watch = watch
        self._members = members
        self._replaced = replaced

    async def fill(self) -> None:
        """0 to all members."""
        await create_pool(self._client, self._namespace, self._members)
        await self._full("the fill")

    async def deleted(self) -> None:
        """Somebody deletes members."""
        victims = self._victims()
        await asyncio.gather(*(self._client.delete(PODS, name, self._namespace) for name in victims))
        await self._without(victims)

    async def failed(self) -> None:
        """Members fail for good."""
        victims = self._victims()
        status = {"phase": "Failed", "reason": "Evicted", "conditions": [{"type": "Ready", "status": "False"}]}
        await asyncio.gather(*(self._client.patch_status(PODS, name, status, self._namespace) for name in victims))
        await self._without(victims)

    async def rollout(self) -> None:
        """The template changes."""
        old = set(self._watch.live)
        patch = {"spec": {"environment": {"config": {"is_slippery": False}}}}
        await self._client.patch(ENVIRONMENT_POOLS, POOL, patch, self._namespace)
        await self._without(old)

    def _victims(self) -> set[str]:
        return set(sorted(self._watch.ready_at)[: self._replaced])

    async def _without(self, victims: set[str]) -> None:
        await self._watch.until(lambda seen: not seen.live & victims, "the removal")
        await self._full("the replacement")

    async def _full(self, what: str) -> None:
        await self._watch.until(lambda seen: len(seen.ready_at) == len(seen.live) == self._members, what)


async def measure(cluster: ScaleCluster, audit: Path, members: int, replaced: int, idle: float) -> dict[str, Any]:
    """All phases over one pool; the operator has been at work before the first one begins."""
    meter = Meter(cluster, AuditLog(audit))
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(cluster.client())
        name = await stack.enter_async_context(namespace(client, "cost"))
        await stack.enter_async_context(operator(cluster.operator_kubeconfig, cluster.server.folder / "operator.log"))
        watch = await stack.enter_async_context(PodWatch(client, name, MEMBERS).running())
        script = Script(client, name, watch, members, replaced)
        broker = asyncio.create_task(stack.enter_async_context(FakeBroker(watch).running(client, name)))
        await meter.phase("fill", members, script.fill)
        await broker
        await meter.phase("deleted", replaced, script.deleted)
        await meter.phase("failed", replaced, script.failed)
        above = watch.peak - members  # from here on the surge of a rollout is meant to be
        await meter.phase("rollout", members, script.rollout)
        before = watch.versions, broker.result().asked
        await meter.phase("idle", members, lambda: asyncio.sleep(idle))
        meter.phases["idle"] |= {
            "seconds": idle,
            "pod_changes": watch.versions - before[0],
            "broker_reports": broker.result().asked - before[1],
        }
        return {"members": members, "above_target": above, **meter.phases}


def audit_flags(folder: Path) -> list[str]:
    """Flags that have kube-apiserver write the operator's requests to `folder`/audit.log."""
    folder.mkdir(parents=True, exist_ok=True)
    policy = folder / "audit-policy.yaml"
    policy.write_text(AUDIT_POLICY)
    return [f"--audit-policy-file={policy}", f"--audit-log-path={folder / 'audit.log'}"]


def main() -> None:
    """Print each phase as a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--replace", type=int, default=200, help="Members that are deleted, and that fail.")
    parser.add_argument("--idle", type=float, default=600.0, help="Seconds in which nothing happens.")
    arguments = parser.parse_args()
    nodes = 1 + arguments.members // PODS_PER_NODE * 2
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "cluster")
        with running_cluster(folder, nodes, audit_flags(folder)) as cluster:
            audit = folder / "audit.log"
            result = asyncio.run(measure(cluster, audit, arguments.members, arguments.replace, arguments.idle))
            print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
