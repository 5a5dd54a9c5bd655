"""How the operator starts again with thousands of pods in its care: seconds to its first decision, and its memory.

    python -m bench.operator_scale --members 2000 --runs 5

A real kube-apiserver and etcd hold one EnvironmentPool; no kubelet runs, so a fake one marks every pod Ready. The
operator is the command users run. It fills the pool once (reported as `fill`); then, for each run, it is killed with
SIGKILL, one member is deleted while it is away, and it is started again. `first_decision` is the time from the start of
the process to the moment the API server has the replacement, which takes interpreter, log-in, complete caches and a
plan. Memory is read 10 s later (`rss`) together with the peak (`peak`). Faked: nodes, kubelets and the broker (its pod
has an address where nobody listens), so the status of leases is no part of the load.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from shoal.engine.reflector import Reflector
from shoal.engine.store import Change, Store
from shoal.kube import ApiError, Json, KubeClient, kubeconfig_source
from shoal.kube.resources import ENVIRONMENT_POOLS, PODS
from tests.kubernetes import KubernetesServer, running_server

ROOT = Path(__file__).resolve().parent.parent
MEMBER = "rl.shoal.dev/role=environment"
PARALLEL = 32
DEADLINE_SECONDS = 600.0
SETTLE_SECONDS = 10.0
MIB = 2**20


class FakeKubelets:
    """Marks each new pod Running and Ready, and knows the names of those that exist."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._slots = asyncio.Semaphore(PARALLEL)
        self._tasks: set[asyncio.Task[None]] = set()
        self.store: Store[bool] = Store(_is_member)
        self.reflector = Reflector(client, PODS, self.store, namespace=namespace)
        self.reflector.on_change(self._changed)
        self.ready: set[str] = set()
        self.changed = asyncio.Event()

    @property
    def members(self) -> list[str]:
        """Names of the member pods that exist."""
        return [entry.key.name for entry in self.store.entries() if entry.value]

    def _changed(self, change: Change[bool]) -> None:
        self.changed.set()
        if change.new is None:
            self.ready.discard(change.key.name)
        elif change.old is None:
            task = asyncio.create_task(self._start(change.key.name))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _start(self, name: str) -> None:
        status = {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}],
        }
        async with self._slots:
            with contextlib.suppress(ApiError):
                await self._client.patch_status(PODS, name, status, self._namespace)
                self.ready.add(name)
                self.changed.set()


def _is_member(body: Json) -> bool:
    return bool((body["metadata"].get("labels") or {}).get("rl.shoal.dev/role") == "environment")


@contextlib.asynccontextmanager
async def operator(kubeconfig: Path, namespace: str, log: Path) -> AsyncIterator[Process]:
    """Run the operator's command for the block; it is killed at the end, without a chance to tidy up."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "shoal.cli.main", "operator",
            "--kubeconfig", str(kubeconfig), "--namespace", namespace,
            stdout=output, stderr=output, cwd=ROOT,
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


def memory(pid: int) -> dict[str, float]:
    """Resident memory of a process now and at its peak, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = {key: float(value.split()[0]) * 1024 / MIB for key, _, value in (line.partition(":") for line in lines)
              if key in ("VmRSS", "VmHWM")}  # fmt: skip
    return {"rss": round(values["VmRSS"], 1), "peak": round(values["VmHWM"], 1)}


async def until(kubelets: FakeKubelets, done: Any, what: str) -> None:
    """Wait for `done()`, looking at each change of a pod; raises `TimeoutError` naming what did not come."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not done():
                kubelets.changed.clear()
                await kubelets.changed.wait()
    except TimeoutError as error:
        raise TimeoutError(f"{what} did not happen within {DEADLINE_SECONDS:g} s") from error


def pool(name: str, members: int) -> Json:
    """A pool that wants exactly `members` members, created as fast as it may."""
    return {
        "metadata": {"name": name},
        "spec": {
            "environment": {"protocol": "Gymnasium", "entrypoint": "FrozenLake-v1"},
            "scale": {"min": members, "max": members, "refillRate": 1000, "maxPending": members},
        },
    }


async def fill(kubeconfig: Path, namespace: str, log: Path, kubelets: FakeKubelets, members: int) -> dict[str, float]:
    """Have the operator create all members; returns seconds and memory."""
    started = time.perf_counter()
    async with operator(kubeconfig, namespace, log) as process:
        await until(kubelets, lambda: len(kubelets.members) >= members, "filling the pool")
        seconds = time.perf_counter() - started
        await until(kubelets, lambda: len(kubelets.ready) >= members, "readiness")
        await asyncio.sleep(SETTLE_SECONDS)
        surplus = len(kubelets.members) - members
        return {"seconds": round(seconds, 2), "surplus": surplus, **memory(process.pid)}


async def restart(
    client: KubeClient, kubeconfig: Path, namespace: str, log: Path, kubelets: FakeKubelets, members: int
) -> dict[str, float]:
    """Delete one member while no operator runs, start it, and wait for the replacement."""
    victim = kubelets.members[0]
    await client.delete(PODS, victim, namespace, grace_seconds=0)
    await until(kubelets, lambda: len(kubelets.members) == members - 1, "the deletion")
    started = time.perf_counter()
    async with operator(kubeconfig, namespace, log) as process:
        await until(kubelets, lambda: len(kubelets.members) >= members, "the first decision")
        seconds = time.perf_counter() - started
        await asyncio.sleep(SETTLE_SECONDS)
        surplus = len(kubelets.members) - members
        return {"first_decision": round(seconds, 3), "surplus": surplus, **memory(process.pid)}


async def measure(server: KubernetesServer, folder: Path, members: int, runs: int) -> dict[str, Any]:
    """The whole benchmark on a running API server."""
    server.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    namespace = server.new_namespace("scale")
    log = folder / "operator.log"
    async with KubeClient(kubeconfig_source(server.kubeconfig), field_manager="bench") as client:
        kubelets = FakeKubelets(client, namespace)
        mirror = asyncio.create_task(kubelets.reflector.run())
        await client.create(ENVIRONMENT_POOLS, _whole(pool("many", members)), namespace)
        try:
            filled = await fill(server.kubeconfig, namespace, log, kubelets, members)
            restarts = [
                await restart(client, server.kubeconfig, namespace, log, kubelets, members) for _ in range(runs)
            ]
        except TimeoutError as error:
            raise SystemExit(f"{error}; the operator's log ends:\n{log.read_text()[-3000:]}") from error
        finally:
            mirror.cancel()
    return {"members": members, "cpus": os.cpu_count(), "fill": filled, "restarts": restarts, **_summary(restarts)}


def _whole(body: Json) -> Json:
    return {"apiVersion": ENVIRONMENT_POOLS.api_version, "kind": ENVIRONMENT_POOLS.kind, **body}


def _summary(restarts: list[dict[str, float]]) -> dict[str, Any]:
    seconds = [run["first_decision"] for run in restarts]
    return {
        "first_decision_median": round(statistics.median(seconds), 3),
        "first_decision_worst": max(seconds),
        "rss_worst": max(run["rss"] for run in restarts),
    }


def main() -> None:
    """Print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder, "server")) as server:
        print(json.dumps(asyncio.run(measure(server, Path(folder), arguments.members, arguments.runs)), indent=2))


if __name__ == "__main__":
    main()
