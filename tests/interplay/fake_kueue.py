"""Kueue's scheduler and Workload controller as far as a job sees them: `FakeKueue`, by the rules of its source.

It reserves quota, admits, evicts and deactivates by patching the status as Kueue does, and it expects of the job what
Kueue expects of its own integrations: a stopped job gives the reservation back, a finished one says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from shoal.kube.client import KubeClient
from shoal.kube.resources import Resource

Json = dict[str, Any]

WORKLOADS = Resource("kueue.x-k8s.io", "v1beta2", "workloads", "Workload")
FLAVORS = Resource("kueue.x-k8s.io", "v1beta2", "resourceflavors", "ResourceFlavor", namespaced=False)
PRIORITIES = Resource("kueue.x-k8s.io", "v1beta2", "workloadpriorityclasses", "WorkloadPriorityClass", namespaced=False)

NOW = "2026-01-01T00:00:00Z"


@dataclass
class FakeKueue:
    """One queue. Workloads are admitted while `open`; `flavors` are assigned by pod set name ("" for all others)."""

    client: KubeClient
    namespace: str
    open: bool = True
    flavors: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """Pod sets of which fewer are admitted than asked for."""
    updates: list[Json] = field(default_factory=list)
    """podSetUpdates of an admission check."""
    evict: tuple[str, str] | None = None
    """(reason, message) to evict the admitted Workload with, once."""
    history: list[str] = field(default_factory=list)

    async def step(self) -> None:
        for workload in (await self.client.list(WORKLOADS, self.namespace)).items:
            await self._look(workload)

    async def _look(self, workload: Json) -> None:
        if _is(workload, "Finished"):
            self._note("finished")
            return
        if _is(workload, "QuotaReserved"):
            if not workload["spec"].get("active", True) and not _is(workload, "Evicted"):
                await self._set(workload, _condition("Evicted", "Deactivated", "The workload is deactivated"))
                self._note("evicted Deactivated")
            elif self.evict is not None and not _is(workload, "Evicted"):
                reason, message = self.evict
                await self._set(workload, _condition("Evicted", reason, message))
                # Only now: a conflict with another writer's status must not lose the eviction.
                self.evict = None
                self._note(f"evicted {reason}")
            return
        if _is(workload, "Evicted"):
            self._note("released")
        if not workload["spec"].get("active", True):
            return
        if self.open:
            await self._admit(workload)
        elif not _told(workload, "QuotaReserved"):
            message = "couldn't assign flavors to pod set trainer: insufficient unused quota for cpu"
            await self._set(workload, _condition("QuotaReserved", "Pending", message, "False"))

    async def _admit(self, workload: Json) -> None:
        assignments = [
            {
                "name": each["name"],
                "flavors": {"cpu": flavor} if (flavor := self.flavors.get(each["name"], self.flavors.get(""))) else {},
                "count": self.counts.get(each["name"], each["count"]),
            }
            for each in workload["spec"]["podSets"]
        ]
        changes = [
            _condition("QuotaReserved", "QuotaReserved", "Quota reserved in ClusterQueue cluster-queue"),
            _condition("Admitted", "Admitted", "The workload is admitted"),
        ]
        if _told(workload, "Evicted"):
            changes.append(_condition("Evicted", "QuotaReserved", "Previously: evicted", "False"))
        further: Json = {"admission": {"clusterQueue": "cluster-queue", "podSetAssignments": assignments}}
        if self.updates:
            check = {"name": "check", "state": "Ready", "message": "", "lastTransitionTime": NOW}
            further["admissionChecks"] = [{**check, "podSetUpdates": self.updates}]
        await self._set(workload, *changes, **further)
        self._note("admitted")

    async def _set(self, workload: Json, *changes: Json, **further: Any) -> None:
        changed = {each["type"] for each in changes}
        kept = [each for each in workload.get("status", {}).get("conditions", []) if each["type"] not in changed]
        metadata = workload["metadata"]
        await self.client.patch_status(
            WORKLOADS,
            metadata["name"],
            {"conditions": [*kept, *changes], **further},
            self.namespace,
            resource_version=metadata["resourceVersion"],
        )

    def _note(self, what: str) -> None:
        if self.history[-1:] != [what]:
            self.history.append(what)


def fake_kueue(**settings: Any) -> tuple[list[FakeKueue], Callable[[KubeClient, str], Callable[[], Awaitable[None]]]]:
    """What makes the fake for a namespace, and the list that it then appears in."""
    made: list[FakeKueue] = []

    def make(client: KubeClient, namespace: str) -> Callable[[], Awaitable[None]]:
        made.append(FakeKueue(client, namespace, **settings))
        return made[0].step

    return made, make


def _condition(type_: str, reason: str, message: str, status: str = "True") -> Json:
    return {"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": NOW}


def _told(workload: Json, type_: str) -> Json:
    found: list[Json] = workload.get("status", {}).get("conditions", [])
    return next((each for each in found if each["type"] == type_), {})


def _is(workload: Json, type_: str) -> bool:
    return bool(_told(workload, type_).get("status") == "True")
