"""An operator with 10,000 members in its care: its memory, and how soon it decides rightly after a restart.

    python -m bench.pool_hold --members 10000 --runs 3

The pool is filled by the operator on a real control plane with fake nodes; a stand-in for the broker reports every
member every two seconds. `held` is the operator's resident memory after a minute with all of them (`peak`: the largest
ever). Then, for each run, the operator is killed (kill -9), one member is deleted while it is away, and it is started
again: `first_decision` is the time from the start of the process to the moment at which an independent watch sees the
replacement, and exactly one pod must be created (`created`). It takes interpreter, log-in, complete caches (`caches`:
the moment by the operator's own log) and a plan. Beside it, `listing` is the time in which a bare client that runs
already reads the same pods from the same server just before, and `load` the machine's load.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.cluster import PODS_PER_NODE, ScaleCluster, namespace, running_cluster
from bench.contestants import MEMBERS, WORKING, create_pool, kill, operator, start_operator
from bench.fake_broker import FakeBroker
from bench.operator_scale import memory
from bench.pod_watch import PodWatch
from shoal.kube import KubeClient
from shoal.kube.resources import PODS

HOLD_SECONDS = 60.0
AFTER_SECONDS = 20.0
FILL_SECONDS = 1800.0


async def held(cluster: ScaleCluster, client: KubeClient, home: str, watch: PodWatch, members: int) -> dict[str, Any]:
    """Fill the pool, hold it for a minute, and read the operator's memory."""
    async with operator(cluster.operator_kubeconfig, cluster.server.folder / "operator.log") as process:
        started = time.perf_counter()
        await create_pool(client, home, members)
        await watch.until(lambda seen: len(seen.ready_at) >= members, f"{members} Ready", FILL_SECONDS)
        seconds = time.perf_counter() - started
        await asyncio.sleep(HOLD_SECONDS)
        return {"fill_seconds": round(seconds, 1), "above_target": watch.peak - members, **memory(process.pid)}


async def restarted(cluster: ScaleCluster, client: KubeClient, home: str, watch: PodWatch) -> dict[str, Any]:
    """Delete one member while no operator runs, start it, and wait for the replacement."""
    log = cluster.server.folder / "operator.log"
    listing = await _listing(client, home)
    victim = min(watch.live)
    await client.delete(PODS, victim, home, grace_seconds=0)
    await watch.until(lambda seen: victim not in seen.live, "the deletion")
    before = len(watch.born)
    started, wall = time.perf_counter(), time.time()
    process = await start_operator(cluster.operator_kubeconfig, log)
    try:
        await watch.until(lambda seen: len(seen.born) > before, "the first decision")
        seconds = time.perf_counter() - started
        await asyncio.sleep(AFTER_SECONDS)
        return {
            "first_decision": round(seconds, 2), "caches": round(_caches_at(log) - wall, 2), "listing": listing,
            "load": round(os.getloadavg()[0], 1), "created": len(watch.born) - before, **memory(process.pid),
        }  # fmt: skip
    finally:
        await kill(process)


async def _listing(client: KubeClient, home: str) -> float:
    """Seconds to read all pods, page by page."""
    started = time.perf_counter()
    async for _ in client.pages(PODS, home, labels=MEMBERS):
        pass
    return round(time.perf_counter() - started, 2)


def _caches_at(log: Path) -> float:
    """Seconds since the epoch at which the operator last said that it begins to work."""
    line = [line for line in log.read_text().splitlines() if WORKING in line][-1]
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


async def measure(cluster: ScaleCluster, members: int, runs: int) -> dict[str, Any]:
    """Fill once, restart `runs` times."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(cluster.client())
        home = await stack.enter_async_context(namespace(client, "hold", wait=False))
        watch = await stack.enter_async_context(PodWatch(client, home, MEMBERS).running())
        broker = asyncio.create_task(stack.enter_async_context(FakeBroker(watch).running(client, home)))
        filled = await held(cluster, client, home, watch, members)
        await broker
        print(json.dumps({"held": filled}), flush=True)
        restarts = []
        for _ in range(runs):
            restarts.append(await restarted(cluster, client, home, watch))
            print(json.dumps(restarts[-1]), flush=True)
    seconds = [run["first_decision"] for run in restarts]
    return {
        "members": members,
        "held": filled,
        "first_decision_median": statistics.median(seconds),
        "first_decision_worst": max(seconds),
        "rss_worst": max([filled["rss"], *(run["rss"] for run in restarts)]),
        "peak_worst": max([filled["peak"], *(run["peak"] for run in restarts)]),
    }


def main() -> None:
    """Print each step as a line and the sum at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    nodes = 1 + arguments.members // PODS_PER_NODE * 2
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder, "cluster"), nodes) as cluster:
        print(json.dumps(asyncio.run(measure(cluster, arguments.members, arguments.runs)), indent=2))


if __name__ == "__main__":
    main()
