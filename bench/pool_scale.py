"""A pool from 0 to 1,000 members, beside a bare client and Kubernetes' own controllers.

    python -m bench.pool_scale --members 1000 --runs 5

All run on one real control plane with fake nodes (bench/cluster.py), one after another and in turn, each in a
namespace of its own that is gone before the next begins. The pods are the same: those that the operator builds. The
clock runs from the moment before the pool (Deployment, first pod) is created to the moment at which an independent
watch (bench/pod_watch.py) has seen the last pod Ready. `ratio` is the rate beside the bare client's of the same round;
`first` and `all_born` are the seconds until the first pod was Ready and until the last one existed; `peak` the largest
number of pods that existed at any resource version; `others` the processors that programs outside this benchmark kept
busy meanwhile. Each contestant waits up to `--patience` seconds for a moment in which they use less than one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from bench.cluster import PODS_PER_NODE, ScaleCluster, namespace, running_cluster
from bench.contestants import BARE, MEMBERS, PEERS, SHOAL, Contestant, operator
from bench.others import Usage, quiet
from bench.pod_watch import PodWatch
from shoal.kube import KubeClient

SETTLE_SECONDS = 2.0
"""After a namespace is gone the controllers still tidy up; the next contestant starts on a quiet server."""


async def fill(
    cluster: ScaleCluster, client: KubeClient, who: Contestant, members: int, number: int, patience: float
) -> dict[str, Any]:
    """One contestant brings its pods up; returns what was measured."""
    name = f"{who.name.lower().replace(' ', '-')}-{number}"
    async with contextlib.AsyncExitStack() as stack:
        # The namespace is deleted while the operator still runs, as it would be anywhere.
        process = await stack.enter_async_context(_operator(cluster, who))
        await stack.enter_async_context(namespace(client, name))
        watch = await stack.enter_async_context(PodWatch(client, name, MEMBERS).running())
        await asyncio.sleep(SETTLE_SECONDS)
        await quiet(1.0, patience)
        before, usage = _cpu_seconds(process), Usage.now()
        started = time.perf_counter()
        await who.create(client, name, members)
        await watch.until(lambda seen: len(seen.ready_at) >= members, f"{who.name}: {members} Ready")
        seconds = max(watch.ready_at.values()) - started
        first, born = min(watch.ready_at.values()) - started, watch.last_birth - started
        cpu, others = _cpu_seconds(process) - before, Usage.now().others_since(usage)
        await asyncio.sleep(SETTLE_SECONDS)
        return {
            "who": who.name, "seconds": round(seconds, 2), "rate": round(members / seconds, 1),
            "first": round(first, 2), "all_born": round(born, 2), "peak": watch.peak,
            "born": len(watch.born), "cpu": round(cpu, 2), "others": round(others, 1), "closed": watch.closed,
            "gaps": watch.gaps,
        }  # fmt: skip


@contextlib.asynccontextmanager
async def _operator(cluster: ScaleCluster, who: Contestant) -> AsyncIterator[int | None]:
    if not who.operator:
        yield None
        return
    async with operator(cluster.operator_kubeconfig, cluster.server.folder / "operator.log") as process:
        yield process.pid


def _cpu_seconds(pid: int | None) -> float:
    """Processor time of the operator, or of this process for who needs none."""
    if pid is None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(cluster: ScaleCluster, members: int, runs: int, *, peers: bool, patience: float) -> dict[str, Any]:
    """`runs` rounds; each round turns the order of the contestants by one."""
    order = [BARE, SHOAL, *(PEERS if peers else ())]
    rounds: list[list[dict[str, Any]]] = []
    async with cluster.client() as client:
        for number in range(runs):
            turned = order[number % len(order) :] + order[: number % len(order)]
            results = [await fill(cluster, client, who, members, number, patience) for who in turned]
            bare = next(result["rate"] for result in results if result["who"] == BARE.name)
            for result in results:
                result["ratio"] = round(result["rate"] / bare, 3)
                print(json.dumps(result), flush=True)
            rounds.append(results)
    return {"members": members, "cpus": os.cpu_count(), "load": os.getloadavg()[0], "table": _table(rounds, members)}


def _table(rounds: list[list[dict[str, Any]]], members: int) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name in {result["who"]: None for results in rounds for result in results}:
        mine = [result for results in rounds for result in results if result["who"] == name]
        ratios = [result["ratio"] for result in mine]
        table[name] = {
            "rate": [result["rate"] for result in mine],
            "ratio_median": round(statistics.median(ratios), 3),
            "ratio_range": [min(ratios), max(ratios)],
            "others": [result["others"] for result in mine],
            "above_target": max(result["peak"] for result in mine) - members,
        }
    return table


def main() -> None:
    """Print each result as a line and the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="Only the bare client and the pool.")
    parser.add_argument("--patience", type=float, default=30.0, help="Seconds to wait for a quiet moment.")
    arguments = parser.parse_args()
    nodes = 1 + arguments.members // PODS_PER_NODE * 2
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder, "cluster"), nodes) as cluster:
        work = measure(cluster, arguments.members, arguments.runs, peers=arguments.peers, patience=arguments.patience)
        print(json.dumps(asyncio.run(work), indent=2))


if __name__ == "__main__":
    main()
