"""The node: mirrors the API, gives each pod a worker, and keeps Services, figures and registration going."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import shutil
import ssl
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from typing import Any

from shoal.engine.recorder import EventRecorder
from shoal.engine.store import Change
from shoal.kube.client import KubeClient
from shoal.kube.errors import ApiError
from shoal.kube.kubeconfig import kubeconfig_source
from shoal.kube.resources import PERSISTENT_VOLUME_CLAIMS
from shoal_embedded.node.addresses import AddressBook
from shoal_embedded.node.cache import Cache, claim_folder
from shoal_embedded.node.decide import BackoffPolicy
from shoal_embedded.node.figures import Figures, has_limit, over_limit
from shoal_embedded.node.podspec import Pod
from shoal_embedded.node.procfs import all_processes, boot_id, find_marked, kill_all
from shoal_embedded.node.records import PodFolder, PodRecord
from shoal_embedded.node.registration import Registration, build_node, machine_capacity
from shoal_embedded.node.scheduling import DEFAULT_SCHEDULER, Binder, devices, obstacle, wants_node
from shoal_embedded.node.server import NodeServer
from shoal_embedded.node.services import Backend, ServiceTable
from shoal_embedded.node.strays import find_strays
from shoal_embedded.node.surroundings import NODE_MARK, POD_MARK, Surroundings, base_variables
from shoal_embedded.node.volumes import Claims, VolumeSources
from shoal_embedded.node.worker import PodWorker

Json = dict[str, Any]
log = logging.getLogger(__name__)

HOST_IP = "127.0.0.1"
LOG_SECONDS = 1.0
"""Between looks at the sizes of logs: the precision of their times."""
MEMORY_SECONDS = 2.0
CLAIM_BOUND = {"phase": "Bound"}


@dataclass(frozen=True)
class NodeSettings:
    """How the node was started. `scheduler`: bind pods that wait for the scheduler of this name; empty: bind none."""

    kubeconfig: Path
    name: str
    data: Path
    host_data: Path | None = None
    listen: str = "127.0.0.1:0"
    backoff: BackoffPolicy = field(default_factory=BackoffPolicy)
    scheduler: str = DEFAULT_SCHEDULER
    stop_seconds: float = 5.0
    tls: ssl.SSLContext | None = None


class Node:
    """One node. `run` works until cancelled; `halt` ends every container."""

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._data = settings.data
        self._data.mkdir(parents=True, exist_ok=True)
        self._capacity = machine_capacity()
        self._client = KubeClient(kubeconfig_source(settings.kubeconfig), field_manager="shoal-node")
        self._recorder = EventRecorder(self._client, component="shoal-node", instance=settings.name)
        self._cache = Cache(self._client)
        self._book = AddressBook(self._data / "addresses.json")
        self._services = ServiceTable(self._book, self._cache.all_services, self._backends)
        self._cache.address = self._services.address
        self._workers: dict[str, PodWorker] = {}
        self._server = NodeServer(settings.listen, Figures(settings.name), lambda: self._workers.values(), settings.tls)
        self._binder = Binder(self._client, settings.name)
        self._binding: set[str] = set()
        self._around = self._surroundings()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] | None = None

    def _surroundings(self) -> Surroundings:
        claims = Claims(lambda namespace, name: claim_folder(self._data / "claims", self._cache, namespace, name))
        return Surroundings(
            folder=self._data,
            node_name=self._settings.name,
            host_ip=HOST_IP,
            boot=boot_id(),
            capacity=self._capacity,
            base_variables=base_variables(),
            client=self._client,
            events=self._recorder,
            objects=self._cache,
            volume_sources=VolumeSources(self._cache, claims, self._settings.host_data),
            service_address=self._cache.service_address,
            backoff=self._settings.backoff,
            on_change=self._services.poke,
        )

    async def run(self) -> None:
        """Work until cancelled; raises when a part of the node fails."""
        self._failed = asyncio.get_running_loop().create_future()
        self._take_lock()
        self._book.claim()
        await self._server.start()
        registration = Registration(self._client, self._settings.name, self._server.url, HOST_IP, self._capacity)
        for reflector in self._cache.reflectors:
            self._spawn(reflector.run())
        for reflector in self._cache.references:
            await reflector.synced.wait()
            reflector.on_change(self._on_reference)
        for reflector in self._cache.contents:
            reflector.on_change(self._on_content)
        await self._cache.pods.synced.wait()
        self._recover()
        self._cache.pods.on_change(self._on_pod)
        for work in (
            self._recorder.run(),
            self._services.run(),
            registration.run(),
            self._watch_logs(),
            self._watch_memory(),
        ):
            self._spawn(work)
        self._on_reference(None)
        await self._failed

    async def halt(self) -> None:
        """End every container, in `stop_seconds` and a little, and leave no process behind."""
        await asyncio.gather(*(worker.halt(self._settings.stop_seconds) for worker in self._workers.values()))
        kill_all(find_marked({NODE_MARK: str(self._data)}), SIGKILL)

    def kill(self) -> None:
        """Kill every container at once."""
        for worker in self._workers.values():
            for runner in worker.runners.values():
                runner.kill()

    async def close(self) -> None:
        """Stop working; containers go on."""
        for task in self._tasks:
            task.cancel()
        for worker in self._workers.values():
            worker.release()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.close()
        await self._client.close()
        self._book.close()

    def _take_lock(self) -> None:
        self._lock = (self._data / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # Two nodes would each take the other's containers for strays.
            raise RuntimeError(f"another node works with {self._data}") from None

    # --- pods

    def _recover(self) -> None:
        """Take over what a former run of this node left: its pods' processes, or their remains."""
        pods = {pod.uid: pod for pod in map(Pod, self._cache.pods.store.values()) if self._is_mine(pod)}
        root = self._data / "pods"
        root.mkdir(parents=True, exist_ok=True)
        strays = find_strays(self._data, set(pods))
        if strays:
            log.warning("ending %d processes of pods that are gone", len(strays))
            kill_all(strays, SIGKILL)
        for path in root.iterdir():
            if path.name not in pods:
                shutil.rmtree(path, ignore_errors=True)
                self._book.release_pod(path.name)
        for body in self._cache.pods.store.values():
            self._see(Pod(body))

    def _is_mine(self, pod: Pod) -> bool:
        return pod.spec.get("nodeName") == self._settings.name

    def _on_pod(self, change: Change[Json]) -> None:
        if change.new is not None:
            self._see(Pod(change.new.value))
        elif change.old is not None:
            worker = self._workers.get(change.old.uid)
            if worker is not None:
                worker.vanish()
            self._reconsider()

    def _see(self, pod: Pod) -> None:
        if self._is_mine(pod):
            worker = self._workers.get(pod.uid)
            if worker is None:
                self._begin(pod)
            else:
                worker.update(pod)
        elif wants_node(pod, self._settings.scheduler):
            self._place(pod)

    def _begin(self, pod: Pod) -> None:
        # The worker is entered at once, not by its task: the next event may come before that runs.
        try:
            worker = self._workers[pod.uid] = self._new_worker(pod)
        except (KeyError, TypeError, ValueError) as error:
            log.exception("pod %s/%s makes no sense", pod.namespace, pod.name)
            message = f"not a pod that can be run: {type(error).__name__}: {error}"
            self._spawn(self._recorder.record(pod.reference(), "Warning", "FailedSync", message))
            return
        self._spawn(self._work(pod, worker))

    async def _work(self, pod: Pod, worker: PodWorker) -> None:
        try:
            await worker.run()
            kill_all(find_marked({NODE_MARK: str(self._data), POD_MARK: pod.uid}), SIGKILL)
        finally:
            if self._workers.get(pod.uid) is worker and not worker.running:
                del self._workers[pod.uid]
                self._book.release_pod(pod.uid)
            self._services.poke()

    def _new_worker(self, pod: Pod) -> PodWorker:
        folder = PodFolder(self._data / "pods" / pod.uid)
        record = folder.load_pod() or PodRecord(
            pod.uid, pod.namespace, pod.name, self._book.pod(pod.uid), time.time(), self._around.boot
        )
        return PodWorker(pod, folder, record, self._around)

    def _place(self, pod: Pod) -> None:
        if pod.uid in self._binding:
            return
        used: dict[str, float] = {}
        for worker in self._workers.values():
            for resource, amount in devices(worker.pod).items():
                used[resource] = used.get(resource, 0.0) + amount
        labels = build_node(self._settings.name, "")["metadata"]["labels"]
        reason = obstacle(pod, labels, self._capacity, used)
        self._binding.add(pod.uid)
        self._spawn(self._bind(pod, reason))

    async def _bind(self, pod: Pod, reason: str) -> None:
        try:
            if reason:
                await self._recorder.record(pod.reference(), "Warning", "FailedScheduling", reason)
                await self._binder.refuse(pod, reason)
            else:
                await self._binder.bind(pod)
        finally:
            self._binding.discard(pod.uid)

    def _reconsider(self) -> None:
        """Look at the pods without a node again: one that ended may have freed a device."""
        for body in self._cache.pods.store.values():
            pod = Pod(body)
            if wants_node(pod, self._settings.scheduler):
                self._place(pod)

    # --- the rest

    def _on_reference(self, _: object) -> None:
        self._services.poke()
        for worker in self._workers.values():
            worker.retry()
        for claim in self._cache.claims():
            if (claim.get("status") or {}).get("phase") != "Bound":
                self._spawn(self._bind_claim(claim))

    def _on_content(self, change: Change[Json]) -> None:
        for worker in self._workers.values():
            if worker.pod.namespace == change.key.namespace:
                worker.refresh()

    async def _bind_claim(self, claim: Json) -> None:
        meta, spec = claim["metadata"], claim.get("spec") or {}
        capacity = ((spec.get("resources") or {}).get("requests")) or {}
        status = {**CLAIM_BOUND, "accessModes": spec.get("accessModes") or [], "capacity": capacity}
        try:
            await self._client.patch_status(PERSISTENT_VOLUME_CLAIMS, meta["name"], status, meta["namespace"])
        except ApiError as error:
            log.debug("claim %s/%s: %s", meta["namespace"], meta["name"], error)

    def _backends(self) -> list[Backend]:
        return [
            Backend(worker.pod, worker.record.ip, worker.ready) for worker in self._workers.values() if worker.running
        ]

    async def _watch_logs(self) -> None:
        while True:
            now = time.time()
            for worker in self._workers.values():
                for runner in worker.runners.values():
                    if runner.record.running:
                        file = runner.current_log
                        file.note(now)
                        file.trim()
            await asyncio.sleep(LOG_SECONDS)

    async def _watch_memory(self) -> None:
        while True:
            limited = [worker for worker in self._workers.values() if worker.running and has_limit(worker)]
            if limited:
                table = all_processes()
                for worker in limited:
                    for name in over_limit(worker, table):
                        worker.runners[name].kill("OOMKilled")
            await asyncio.sleep(MEMORY_SECONDS)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        assert error is not None
        log.error("the node has an error it cannot repair: %r", error, exc_info=error)
        if self._failed is not None and not self._failed.done():
            # A clean restart, which adopts the containers, is better than a node that runs in part.
            self._failed.set_exception(error)
