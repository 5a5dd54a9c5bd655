"""Watches: every change is pushed to whoever asked for it; one that falls behind is ended, as kube-apiserver does."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from shoal_embedded.apiserver.resources import Resource
from shoal_embedded.apiserver.selectors import Predicate
from shoal_embedded.apiserver.storage import Change, Storage

Json = dict[str, Any]
Event = tuple[str, Json]

QUEUED = 5000
"""Events that a watch may fall behind once it is open; more would only fill memory for a client that does not read.

What is there when it opens (a long replay, a large first list) is queued whole: a watch that was ended over that would
come back, be ended again, and never get on.
"""


@dataclass(eq=False)
class Watch:
    """One client's watch of a resource, in one namespace or all."""

    resource: Resource
    namespace: str | None
    wanted: Predicate
    allowed: int = QUEUED
    queue: asyncio.Queue[Event | None] = field(default_factory=asyncio.Queue)

    def offer(self, change: Change) -> None:
        """Queue the change if the client asked for such; None in the queue ends the watch."""
        event = self.event_of(change)
        if event is not None:
            self.queue.put_nowait(event)

    def end(self) -> None:
        """End the watch after what the client has been told."""
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(None)

    def event_of(self, change: Change) -> Event | None:
        """What the change means to this watch: an object that fits the selection no more is deleted for it."""
        metadata = change.body["metadata"]
        if self.namespace is not None and metadata.get("namespace", "") != self.namespace:
            return None
        before = change.previous is not None and self.wanted(change.previous)
        now = change.type != "DELETED" and self.wanted(change.body)
        if now:
            return ("MODIFIED" if before else "ADDED", change.body)
        if before or (change.type == "DELETED" and self.wanted(change.body)):
            return ("DELETED", change.body)
        return None


class Watches:
    """All watches."""

    def __init__(self, storage: Storage) -> None:
        self._open: dict[str, set[Watch]] = {}
        storage.listen(self._tell)

    def open(self, watch: Watch) -> None:
        """Begin to tell a watch of changes."""
        watch.allowed = watch.queue.qsize() + QUEUED
        self._open.setdefault(watch.resource.key, set()).add(watch)

    def close(self, watch: Watch) -> None:
        """Tell it no more."""
        self._open.get(watch.resource.key, set()).discard(watch)

    def end_all(self) -> None:
        """End every watch (the server stops)."""
        for watches in self._open.values():
            for watch in watches:
                watch.queue.put_nowait(None)

    def _tell(self, change: Change) -> None:
        for watch in list(self._open.get(change.resource, ())):
            if watch.queue.qsize() < watch.allowed:
                watch.offer(change)
            else:
                watch.end()
                self.close(watch)
