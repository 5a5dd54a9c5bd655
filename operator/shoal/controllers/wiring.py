"""Which change wakes which resource."""

from collections.abc import Callable
from typing import Any

from shoal.controllers.world import ROOT_UID, World
from shoal.engine.keys import ObjectKey
from shoal.engine.store import OWNER_UID, Change, ChangeType
from shoal.engine.workqueue import WorkQueue

Json = dict[str, Any]
Queue = WorkQueue[ObjectKey]


class Wiring:
    """Finds the queue and the key of a resource by its UID, and wakes jobs when what they use changes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._homes: dict[str, tuple[Queue, ObjectKey]] = {}
        self._parents: dict[str, str] = {}

    def resource_changed(self, queue: Queue, change: Change[Any]) -> None:
        """A custom resource changed: work on it, and remember where it lives until it is gone."""
        entry = change.entry
        if change.type is ChangeType.DELETED:
            self._homes.pop(entry.uid, None)
            self._parents.pop(entry.uid, None)
        else:
            self._homes[entry.uid] = (queue, entry.key)
            self._parents.update((entry.uid, uid) for index, uid in entry.indexed if index == OWNER_UID)
        queue.add(entry.key)

    def child_changed(self, change: Change[Any]) -> None:
        """A child changed: work on the resource that controls it."""
        for index, uid in change.entry.indexed:
            if index in (OWNER_UID, ROOT_UID):
                self.wake(uid)
                if change.type is ChangeType.DELETED and uid in self._parents:
                    # A job that stops waits for the last pod of all that it owns.
                    self.wake(self._parents[uid])

    def wake(self, uid: str) -> None:
        """Work on the resource with this UID, if there is one."""
        home = self._homes.get(uid)
        if home is not None:
            queue, key = home
            queue.add(key)

    def wake_all(self) -> None:
        """Work on every resource: what the cluster offers has changed."""
        for queue, key in self._homes.values():
            queue.add(key)

    def dependency_changed(self, jobs: Queue, uses: Callable[[Json, str], bool], change: Change[Any]) -> None:
        """Work on the jobs that use what has changed; `uses` takes a job and the name of what it may use."""
        for entry in self._world.jobs.entries():
            if entry.key.namespace == change.key.namespace and uses(entry.value, change.key.name):
                jobs.add(entry.key)
