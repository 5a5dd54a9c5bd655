"""One pod: looks at its containers whenever something changes, does what `decide` says, and reports the status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from typing import Any

from shoal.kube.errors import ApiError, ConflictError, NotFoundError
from shoal.kube.resources import PODS
from shoal_embedded.node.decide import Decision, Start, decide
from shoal_embedded.node.podspec import Pod
from shoal_embedded.node.records import NODE_SHUTDOWN, ContainerRecord, PodFolder, PodRecord
from shoal_embedded.node.runner import ContainerRunner
from shoal_embedded.node.status import Place, build_status, is_ready
from shoal_embedded.node.surroundings import Surroundings
from shoal_embedded.node.variables import Setting
from shoal_embedded.node.volumes import VolumeMaker

Json = dict[str, Any]
log = logging.getLogger(__name__)

WRITE_RETRY_SECONDS = 1.0
"""Between tries to write a status while the API server is away."""
VANISHED_GRACE = 1.0
"""Seconds that the processes of a pod get whose object is gone already (forced deletion)."""


class PodWorker:
    """Runs one pod until its object is gone. Create it, then run `run` in a task."""

    def __init__(self, pod: Pod, folder: PodFolder, record: PodRecord, around: Surroundings) -> None:
        self.pod = pod
        self.record = record
        self._folder = folder
        self._around = around
        setting = self._setting = Setting(record.ip, around.host_ip, around.capacity, around.base_variables)
        self.runners = {
            container.name: ContainerRunner(container, folder, around, setting, self.poke)
            for container in pod.containers
        }
        self._wake = asyncio.Event()
        self._dirty = asyncio.Event()
        self._written: Json | None = None
        self._was_ready = False
        self._vanished = False
        self._halting = False

    @property
    def records(self) -> dict[str, ContainerRecord]:
        """The containers' records."""
        return {name: runner.record for name, runner in self.runners.items()}

    @property
    def ready(self) -> bool:
        """Whether the pod takes requests."""
        return not self.pod.deleting and is_ready(self.pod, self.records)

    @property
    def running(self) -> bool:
        """Whether any of its processes runs."""
        return any(record.running for record in self.records.values())

    def poke(self) -> None:
        """Have the pod looked at again."""
        self._wake.set()

    def update(self, pod: Pod) -> None:
        """Take a newer version of the object."""
        self.pod = pod
        self.poke()

    def retry(self) -> None:
        """Try starts again that lacked something: an object that pods refer to has changed."""
        for record in self.records.values():
            if record.waiting_reason:
                record.retry_at = 0.0
                self.poke()

    def refresh(self) -> None:
        """Bring what has changed of Secrets and ConfigMaps to the volumes of containers that run."""
        if self.running:
            VolumeMaker(self.pod, self._folder, self._around.volume_sources, self._setting).refresh()

    def vanish(self) -> None:
        """The object is gone: end the processes and forget the pod."""
        self._vanished = True
        metadata = {"deletionTimestamp": "", "deletionGracePeriodSeconds": VANISHED_GRACE, **self.pod.body["metadata"]}
        self.update(Pod({**self.pod.body, "metadata": metadata}))

    async def run(self) -> None:
        """Work until the pod is gone from the API and no process of it is left."""
        self._folder.save_pod(self.record)
        if self.pod.ended and not any(record.attempt for record in self.records.values()):
            # Ended under another node folder: nothing is known of it but that it must not run again.
            await self._until_deleted()
            return
        for runner in self.runners.values():
            runner.adopt(self.pod)
        publisher = asyncio.create_task(self._publish())
        try:
            while not await self._pass():
                pass
        finally:
            publisher.cancel()
            await asyncio.gather(publisher, return_exceptions=True)
        await self._leave()

    async def halt(self, grace: float) -> None:
        """End all processes within `grace` seconds and a little, without touching the object (the node stops)."""
        self._halting = True
        for runner in self.runners.values():
            runner.stop(self.pod, min(grace, self.pod.grace), reason=NODE_SHUTDOWN)
        await asyncio.gather(*(runner.until_stopped() for runner in self.runners.values()))

    def release(self) -> None:
        """Let go of the processes, to be adopted by the next node."""
        for runner in self.runners.values():
            runner.release()

    # --- inside

    async def _pass(self) -> bool:
        """Look once, act, wait for a reason to look again. Returns True when the pod is over and its object may go."""
        self._wake.clear()
        now = time.time()
        self._check_deadline(now)
        decision = decide(self.pod, self.records, now, failed=bool(self.record.failed_reason))
        for action in decision.actions:
            runner = self.runners[action.container]
            if isinstance(action, Start):
                if not self._halting:
                    await runner.start(self.pod)
            else:
                runner.stop(self.pod, action.grace)
        self._dirty.set()
        if self.ready is not self._was_ready:
            self._was_ready = self.ready
            self._around.on_change()
        if decision.gone and self.pod.deleting:
            return True
        await self._rest(decision, now)
        return False

    async def _rest(self, decision: Decision, now: float) -> None:
        timeout = None if decision.wake_at is None else max(0.0, decision.wake_at - now)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wake.wait()

    def _check_deadline(self, now: float) -> None:
        deadline = self.pod.deadline()
        if deadline is not None and now >= deadline and not self.record.failed_reason:
            seconds = self.pod.spec["activeDeadlineSeconds"]
            self.record.failed_reason = "DeadlineExceeded"
            self.record.failed_message = f"Pod was active on the node longer than the specified deadline of {seconds} s"
            self._folder.save_pod(self.record)

    async def _publish(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._write_status()
            except Exception as error:
                # Nothing that goes wrong here may end the reports of this pod for good.
                level = logging.DEBUG if isinstance(error, ApiError) else logging.ERROR
                log.log(level, "status of %s/%s not written: %r", self.pod.namespace, self.pod.name, error)
                await asyncio.sleep(WRITE_RETRY_SECONDS)
                self._dirty.set()

    async def _write_status(self) -> None:
        place = Place(self._around.host_ip, self.record)
        status = build_status(self.pod, self.records, place, time.time(), self._written)
        if status == self._written or self._vanished:
            return
        # The UID makes it fail when the name belongs to another pod by now.
        body = {"metadata": {"uid": self.pod.uid}, "status": status}
        try:
            await self._around.client.patch(PODS, self.pod.name, body, self.pod.namespace, subresource="status")
        except (NotFoundError, ConflictError):
            # The watch tells soon.
            return
        self._written = status

    async def _leave(self) -> None:
        while not self._vanished:
            try:
                await self._write_status()
                await self._around.client.delete(
                    PODS, self.pod.name, self.pod.namespace, uid=self.pod.uid, propagation=None, grace_seconds=0
                )
                break
            except (NotFoundError, ConflictError):
                break
            except ApiError as error:
                log.debug("pod %s/%s not removed: %s", self.pod.namespace, self.pod.name, error)
                await asyncio.sleep(WRITE_RETRY_SECONDS)
        await asyncio.to_thread(shutil.rmtree, self._folder.path, True)

    async def _until_deleted(self) -> None:
        while not self.pod.deleting:
            self._wake.clear()
            await self._wake.wait()
        await self._leave()
