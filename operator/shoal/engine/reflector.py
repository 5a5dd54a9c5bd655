"""Keeps a store equal to what the API server holds: list, then watch, and list again whenever continuity is in doubt.

A watch that ends is normal (the server ends each after some minutes and any that falls behind). Going on from the last
version seen loses nothing, because the server replays what came after it. When it can't (410, or resuming keeps
failing), the whole list is read again and compared with the store, so that the differences, and nothing but
the differences, are reported: an object that is still there is never reported as deleted.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

from shoal.engine.backoff import Backoff
from shoal.engine.clock import Clock, SystemClock
from shoal.engine.keys import ObjectKey, key_of
from shoal.engine.store import Change, Entry, Store
from shoal.kube.client import PAGE, KubeClient, Page
from shoal.kube.errors import ApiError, ForbiddenError, GoneError, NotFoundError
from shoal.kube.resources import Json, Resource
from shoal.kube.watch import EventType, WatchEvent

T = TypeVar("T")
log = logging.getLogger(__name__)

WATCH_SECONDS = 300.0
"""The server ends the watch after this; without an end, a connection broken by a middlebox stays silent for ever."""
SHORT_WATCH_SECONDS = 1.0
"""A watch that ended sooner, and without an event, counts as a failure, or a broken server would be asked in a loop."""
FAILED_RESUMES = 2
"""Failures to resume in a row after which the list is read again: it may be this version that the server can't do."""


@dataclass(slots=True)
class ReflectorStats:
    """Counters since the start."""

    lists: int = 0
    watches: int = 0
    events: int = 0
    failures: int = 0


class Reflector(Generic[T]):
    """Mirrors one resource (in one namespace or all; optionally a label or field selection) into `store`."""

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        store: Store[T],
        *,
        namespace: str | None = None,
        labels: str | None = None,
        fields: str | None = None,
        page: int = PAGE,
        watch_seconds: float = WATCH_SECONDS,
        idle_seconds: float = 90.0,
        backoff: Backoff | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.resource = resource
        self.store = store
        self.synced = asyncio.Event()
        """Set when the store holds a complete list for the first time."""
        self.stats = ReflectorStats()
        self._client = client
        self._namespace = namespace
        self._labels = labels
        self._fields = fields
        self._page = page
        self._watch_seconds = watch_seconds
        self._idle_seconds = idle_seconds
        self._backoff = backoff or Backoff(base=0.2, cap=30.0)
        self._clock = clock or SystemClock()
        self._observers: list[Callable[[Change[T]], None]] = []
        self._version: str | None = None
        self._newest = ""
        """The last version that was listed or watched."""
        self._failed_resumes = 0
        self._last_complaint = ""
        self._refusals: list[Callable[[ApiError], None]] = []
        self._interrupt: asyncio.Timeout | None = None
        self._goal = self._reached = 0
        self._listed = asyncio.Condition()

    def on_change(self, observer: Callable[[Change[T]], None]) -> None:
        """Have `observer` called with each change, after the store shows it; used to settle expectations."""
        self._observers.append(observer)

    def on_key(self, handler: Callable[[ObjectKey], None]) -> None:
        """Have `handler` called with the key of each changed object; usually `queue.add`."""
        self._observers.append(lambda change: handler(change.key))

    def on_refusal(self, handler: Callable[[ApiError], None]) -> None:
        """Have `handler` called when the server says that the resource is not there (404) or not for us (403).

        Telling of it is then the handler's affair.
        """
        self._refusals.append(handler)

    def hurry(self) -> None:
        """Try again now instead of after the back-off: what stood in the way is known to be gone."""
        self._backoff.reset()
        if self._interrupt is not None:
            self._interrupt.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Mirror until cancelled. Errors of the server never end it: they are logged once and retried with back-off."""
        while True:
            try:
                # A timeout without a time: `refresh` sets it to now, to interrupt whatever goes on.
                async with asyncio.timeout(None) as self._interrupt:
                    await self._step()
            except TimeoutError:
                self._version = None

    async def refresh(self) -> None:
        """List again now and return when the store shows it: every write that ended before this call, at least.

        A new leader calls it before its first decision, because its cache may lag behind the old leader's last writes.
        `run` must be running.
        """
        self._goal += 1
        goal = self._goal
        self.hurry()
        async with self._listed:
            await self._listed.wait_for(lambda: self._reached >= goal)

    # --- inside

    async def _step(self) -> None:
        try:
            if self._version is None:
                await self._list()
            await self._watch()
        except GoneError:
            self._version = None
            await self._pause()
        except ApiError as error:
            self._complain(error)
            self._count_failed_resume()
            await self._pause()

    async def _list(self) -> None:
        self.stats.lists += 1
        goal = self._goal
        try:
            fresh, self._version = await self._read_list(self._page)
        except GoneError:
            # The list changed too much while it was paged through; in one piece it can't.
            fresh, self._version = await self._read_list(0)
        if _older(self._version, self._newest):
            # The server was restored from a backup and counts on from there: one version may now mean another content.
            log.warning("%s went back from version %s to %s", self.resource, self._newest, self._version)
            self.store.doubt()
            fresh, self._version = await self._read_list(0)
        self._newest = self._version
        self._report(self.store.replace(fresh))
        self._failed_resumes = 0
        self._recovered()
        self.synced.set()
        self._reached = goal
        async with self._listed:
            self._listed.notify_all()

    async def _read_list(self, limit: int) -> tuple[dict[ObjectKey, Entry[T]], str]:
        fresh: dict[ObjectKey, Entry[T]] = {}
        version = ""
        async for page in self._pages(limit):
            # Page by page into small entries: the untrimmed objects are never in memory all at once.
            fresh.update((entry.key, entry) for entry in map(self._read, page.items) if entry is not None)
            version = page.resource_version
        return fresh, version

    def _read(self, body: Json) -> Entry[T] | None:
        """Trim an object; one that can't be trimmed stays as it was, or unknown, and stops nothing else."""
        try:
            return self.store.read(body)
        except Exception:
            key = key_of(body)
            log.exception("%s %s cannot be read and is passed over", self.resource, key)
            return self.store.entry(key)

    def _pages(self, limit: int) -> AsyncIterator[Page]:
        return self._client.pages(self.resource, self._namespace, labels=self._labels, fields=self._fields, limit=limit)

    async def _watch(self) -> None:
        assert self._version is not None
        self.stats.watches += 1
        started, seen = self._clock.now(), 0
        # Spread the ends, so that the watches of all reflectors and replicas are not renewed in one moment.
        seconds = self._watch_seconds * random.uniform(0.8, 1.0)
        events = self._client.watch(
            self.resource,
            self._namespace,
            resource_version=self._version,
            labels=self._labels,
            fields=self._fields,
            timeout=seconds,
            idle_timeout=self._idle_seconds,
        )
        async with aclosing(events):
            async for event in events:
                self._take(event)
                seen += 1
                if seen == 1:
                    self._failed_resumes = 0
                    self._backoff.reset()
                    self._recovered()
        if not seen and self._clock.now() - started < min(SHORT_WATCH_SECONDS, self._watch_seconds / 2):
            self._count_failed_resume()
            await self._pause()

    def _take(self, event: WatchEvent) -> None:
        if self._version is not None and _older(event.resource_version, self._version):
            # etcd was restored from a backup: what this store holds may never have happened there.
            raise GoneError(f"{self.resource}: the server went back from version {self._version}")
        if event.type is not EventType.BOOKMARK:
            self.stats.events += 1
            if event.type is EventType.DELETED:
                self._report(self.store.remove(key_of(event.object)))
            elif (entry := self._read(event.object)) is not None:
                self._report(self.store.put(entry))
        self._version = self._newest = event.resource_version

    def _report(self, changes: list[Change[T]]) -> None:
        for change in changes:
            for observer in self._observers:
                try:
                    observer(change)
                except Exception:
                    # One bad object must not stop the mirroring of all the others.
                    log.exception("a handler of %s failed for %s", self.resource, change.key)

    def _count_failed_resume(self) -> None:
        self._failed_resumes += 1
        if self._failed_resumes >= FAILED_RESUMES:
            self._version = None

    async def _pause(self) -> None:
        self.stats.failures += 1
        await self._clock.sleep(self._backoff.next())

    def _complain(self, error: ApiError) -> None:
        complaint = f"{type(error).__name__} {error.status}"
        told = bool(self._refusals) and isinstance(error, NotFoundError | ForbiddenError)
        level = logging.DEBUG if told or complaint == self._last_complaint else logging.WARNING
        self._last_complaint = complaint
        for handler in self._refusals if told else ():
            handler(error)
        log.log(level, "cannot follow %s, retrying: %s", self.resource, error)

    def _recovered(self) -> None:
        if self._last_complaint:
            log.info("following %s again", self.resource)
            self._last_complaint = ""


def _older(version: str, than: str) -> bool:
    """Whether a version lies before another; versions that are no numbers (not Kubernetes' own) cannot be compared."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)
