"""A pool whose operator is killed (kill -9) while it fills: more members than asked for at no instant.

    python -m bench.pool_kill --members 1000 --kills 2 --runs 5 --seed 1

For each run the pool goes from 0 to all members; at random moments of the fill, by the number of pods that exist, the
operator is killed and started again at once. An independent watch counts the pods that exist at each resource version
(`above_target` is the largest count less the target) and goes on for ten seconds after the last member is Ready.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.cluster import PODS_PER_NODE, ScaleCluster, namespace, running_cluster
from bench.contestants import MEMBERS, create_pool, operator
from bench.pod_watch import PodWatch
from shoal.kube import KubeClient

AFTER_SECONDS = 10.0
"""Pods too many, if there are any, are there by then."""


async def killed_fill(
    cluster: ScaleCluster, client: KubeClient, name: str, members: int, moments: list[int], after: float = AFTER_SECONDS
) -> dict[str, Any]:
    """One fill with a kill at each of `moments` (numbers of pods, ascending); returns what was seen.

    The watch goes on for `after` seconds.
    """
    log = cluster.server.folder / "operator.log"
    async with namespace(client, name) as home, PodWatch(client, home, MEMBERS).running() as watch:
        started = time.perf_counter()
        await create_pool(client, home, members)
        struck = []
        for moment in moments:
            async with operator(cluster.operator_kubeconfig, log):
                await watch.until(lambda seen, moment=moment: len(seen.live) >= moment, f"{moment} pods")  # type: ignore[misc]
            struck.append(len(watch.live))
        async with operator(cluster.operator_kubeconfig, log):
            await watch.until(lambda seen: len(seen.ready_at) >= members, f"{members} Ready")
            seconds = time.perf_counter() - started
            await asyncio.sleep(after)
        return {
            "killed_at": struck, "seconds": round(seconds, 2), "members": len(watch.live),
            "above_target": watch.peak - members, "born": len(watch.born),
            "states": watch.versions, "closed": watch.closed, "gaps": watch.gaps,
        }  # fmt: skip


async def measure(cluster: ScaleCluster, members: int, kills: int, runs: int, seed: int) -> dict[str, Any]:
    """`runs` fills, each killed at other moments."""
    chance = random.Random(seed)
    results = []
    async with cluster.client() as client:
        for number in range(runs):
            moments = sorted(chance.randrange(1, members) for _ in range(kills))
            results.append(await killed_fill(cluster, client, f"kill-{number}", members, moments))
            print(json.dumps(results[-1]), flush=True)
    return {"runs": runs, "seed": seed, "above_target": max(result["above_target"] for result in results)}


def main() -> None:
    """Print each run as a line and the sum at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=2, help="Kills in one fill.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    nodes = 1 + arguments.members // PODS_PER_NODE * 2
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder, "cluster"), nodes) as cluster:
        work = measure(cluster, arguments.members, arguments.kills, arguments.runs, arguments.seed)
        print(json.dumps(asyncio.run(work)))


if __name__ == "__main__":
    main()
