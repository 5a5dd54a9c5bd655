"""Processor time and memory of pods, read from the process table; and the watch over memory limits."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from shoal_embedded.node.podspec import Container, format_time
from shoal_embedded.node.procfs import (
    Process,
    Table,
    all_processes,
    descendants,
    proportional_memory,
    read_process,
)
from shoal_embedded.node.quantities import parse_quantity
from shoal_embedded.node.worker import PodWorker

Json = dict[str, Any]
_NANO = 1e9


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run of a container uses: processor seconds since its start, bytes of resident memory."""

    cpu_seconds: float
    rss: int
    processes: int


def usage_of(table: Table, shim: int) -> Usage:
    """Sum up the family of one run."""
    family = descendants(table, shim)
    root = table.get(shim)
    # What ended already was waited for by its parent and counts there; the shim waited for the main process.
    cpu = sum(process.cpu_seconds for process in family) + (root.cpu_seconds if root else 0.0)
    return Usage(cpu, sum(process.rss for process in family), len(family))


class Figures:
    """Makes `/stats/summary`; remembers the last look, because a rate needs two."""

    def __init__(self, node_name: str) -> None:
        self._node_name = node_name
        self._last: dict[tuple[str, str, int], tuple[float, float]] = {}

    def summary(self, workers: Iterable[PodWorker]) -> Json:
        """Return the figures of the node and its pods in the shape of kubelet's summary."""
        table, now = all_processes(), time.time()
        pods = [self._pod(worker, table, now) for worker in workers if worker.running]
        total = {
            "cpu": {"time": format_time(now), "usageNanoCores": sum(pod["cpu"]["usageNanoCores"] for pod in pods)},
            "memory": {"time": format_time(now), "rssBytes": sum(pod["memory"]["rssBytes"] for pod in pods)},
        }
        return {"node": {"nodeName": self._node_name, **total}, "pods": pods}

    def _pod(self, worker: PodWorker, table: Table, now: float) -> Json:
        pod = worker.pod
        containers = [
            self._container(pod.uid, name, record.attempt, usage_of(table, record.shim.pid), now)
            for name, record in worker.records.items()
            if record.shim is not None
        ]
        return {
            "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "startTime": format_time(worker.record.started_at),
            "containers": containers,
            "cpu": {
                "time": format_time(now),
                "usageNanoCores": sum(each["cpu"]["usageNanoCores"] for each in containers),
                "usageCoreNanoSeconds": sum(each["cpu"]["usageCoreNanoSeconds"] for each in containers),
            },
            "memory": {
                "time": format_time(now),
                "rssBytes": sum(each["memory"]["rssBytes"] for each in containers),
                "workingSetBytes": sum(each["memory"]["workingSetBytes"] for each in containers),
            },
        }

    def _container(self, uid: str, name: str, attempt: int, usage: Usage, now: float) -> Json:
        key = (uid, name, attempt)
        time_before, cpu_before = self._last.get(key, (now, usage.cpu_seconds))
        self._last[key] = (now, usage.cpu_seconds)
        elapsed = now - time_before
        rate = max(0.0, usage.cpu_seconds - cpu_before) / elapsed if elapsed > 0 else 0.0
        return {
            "name": name,
            "cpu": {
                "time": format_time(now),
                "usageNanoCores": int(rate * _NANO),
                "usageCoreNanoSeconds": int(usage.cpu_seconds * _NANO),
            },
            "memory": {"time": format_time(now), "rssBytes": usage.rss, "workingSetBytes": usage.rss},
            "processes": usage.processes,
        }


def over_limit(worker: PodWorker, table: Table) -> list[str]:
    """Return the containers of a pod that use more memory than their limit."""
    found = []
    for name, runner in worker.runners.items():
        allowed = memory_limit(runner.container)
        if allowed is None or runner.record.shim is None:
            continue
        family = descendants(table, runner.record.shim.pid)
        # The sum of resident pages counts shared ones several times; the exact sum costs more, so only if need be.
        if sum(process.rss for process in family) > allowed and _exact(family) > allowed:
            found.append(name)
    return found


def has_limit(worker: PodWorker) -> bool:
    """Whether any container of the pod has a memory limit."""
    return any(memory_limit(runner.container) is not None for runner in worker.runners.values())


def memory_limit(container: Container) -> float | None:
    """Return a container's memory limit in bytes; None without one, or with one that is no quantity."""
    limit = ((container.body.get("resources") or {}).get("limits") or {}).get("memory")
    try:
        return None if limit is None else parse_quantity(limit)
    except ValueError:
        return None


def _exact(family: list[Process]) -> int:
    return sum(proportional_memory(process.pid) for process in family if read_process(process.pid) is not None)
