"""An independent look at a set of pods: how many live at each resource version, and when each became Ready."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from shoal.kube import EventType, GoneError, Json, KubeClient, UnavailableError
from shoal.kube.resources import PODS


class PodWatch:
    """Follows the pods of one namespace and label selector by its own list and watch.

    The API server closes watches that fall behind; going on from the last version seen misses nothing, so every state
    that ever was is counted. Only where the server no longer has that version is the list read again (`gaps`).

    Attributes:
        live: names of the pods that exist now, terminating ones among them.
        peak: the largest number of pods that existed at any resource version.
        peak_version: that resource version.
        ready_at: name -> time of `time.perf_counter` at which the pod was first seen Ready.
        born: every name ever seen.
        last_birth: time of `time.perf_counter` at which the youngest of them was first seen.
        versions: states counted.
        closed: watches that the server ended.
        gaps: times the list had to be read again.
    """

    def __init__(self, client: KubeClient, namespace: str, labels: str) -> None:
        self._client = client
        self._namespace = namespace
        self._labels = labels
        self.live: set[str] = set()
        self.peak = 0
        self.peak_version = ""
        self.ready_at: dict[str, float] = {}
        self.born: set[str] = set()
        self.last_birth = 0.0
        self.versions = 0
        self.closed = 0
        self.gaps = -1
        self._changed = asyncio.Event()
        self._listed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[PodWatch]:
        """Follow the pods during the block, from a complete list on."""
        task = asyncio.create_task(self._run())
        try:
            await asyncio.wait({task, asyncio.create_task(self._listed.wait())}, return_when=asyncio.FIRST_COMPLETED)
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def until(self, done: Callable[[PodWatch], bool], what: str, seconds: float = 600.0) -> None:
        """Wait for `done`, looking at each change; raises `TimeoutError` naming what did not come."""
        try:
            async with asyncio.timeout(seconds):
                while not done(self):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            state = f"{len(self.live)} pods, {len(self.ready_at)} were Ready"
            raise TimeoutError(f"{what} did not happen within {seconds:g} s: {state}") from error

    # --- inside

    async def _run(self) -> None:
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list()
                async for event in self._client.watch(
                    PODS, self._namespace, resource_version=version, labels=self._labels
                ):
                    version = event.resource_version
                    if event.type is not EventType.BOOKMARK:
                        self._take(event.object, version, gone=event.type is EventType.DELETED)
                self.closed += 1
            except GoneError:
                version = ""
            except UnavailableError:
                self.closed += 1
                await asyncio.sleep(0.1)

    async def _list(self) -> str:
        page = await self._client.list(PODS, self._namespace, labels=self._labels, limit=0)
        self.gaps += 1
        self.live.clear()
        for body in page.items:
            self._take(body, page.resource_version, gone=False)
        self._listed.set()
        return page.resource_version

    def _take(self, body: Json, version: str, *, gone: bool) -> None:
        name = body["metadata"]["name"]
        self.versions += 1
        if gone:
            self.live.discard(name)
            self.ready_at.pop(name, None)
        else:
            self.live.add(name)
            if name not in self.born:
                self.born.add(name)
                self.last_birth = time.perf_counter()
            if name not in self.ready_at and _ready(body):
                self.ready_at[name] = time.perf_counter()
        if len(self.live) > self.peak:
            self.peak, self.peak_version = len(self.live), version
        self._changed.set()


def _ready(body: Json) -> bool:
    conditions = body.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
