"""A reflector of a resource that may not exist: it follows while the resource is served and rests while it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Generic, TypeVar

from shoal.engine.clock import Clock
from shoal.engine.reflector import Reflector
from shoal.engine.store import Store
from shoal.kube.client import KubeClient
from shoal.kube.discovery import Discovery
from shoal.kube.errors import ApiError, ForbiddenError
from shoal.kube.resources import Resource

T = TypeVar("T")


class Sight(StrEnum):
    """How much of a neighbour's resource can be seen."""

    CLEAR = "Clear"
    ABSENT = "Absent"
    FORBIDDEN = "Forbidden"
    NOT_READ = "NotRead"


class NeighbourReflector(Reflector[T], Generic[T]):
    """Mirrors a neighbour's resource into `store` for as long as the neighbour is installed.

    `synced` is set as soon as nothing more can be known: the list is read, the neighbour is absent, or reading it is
    forbidden. So an operator never waits at its start for somebody who is not there.
    """

    def __init__(
        self,
        client: KubeClient,
        discovery: Discovery,
        neighbour: str,
        plural: str,
        store: Store[T],
        *,
        namespace: str | None = None,
        labels: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        absent = Resource("", "", plural, plural)
        super().__init__(client, absent, store, namespace=namespace, labels=labels, clock=clock)
        self._discovery = discovery
        self._where = (neighbour, plural)
        self._wanted_namespace = namespace
        self._complete = False
        self._refusal = ""
        self._moved = asyncio.Event()
        self._completed: list[Callable[[], None]] = []
        discovery.on_change(self._moved.set)

    @property
    def complete(self) -> bool:
        """Whether the store holds what the server holds: the neighbour is there and its list was read."""
        return self._complete

    @property
    def refusal(self) -> str:
        """Why the resource cannot be read although it is there (a missing permission), or ""."""
        return self._refusal

    @property
    def sight(self) -> Sight:
        """What `store` is worth now: everything, or why not."""
        if not self._discovery.available(self._where[0]):
            return Sight.ABSENT
        if self._complete:
            return Sight.CLEAR
        return Sight.FORBIDDEN if self._refusal else Sight.NOT_READ

    def on_complete(self, observer: Callable[[], None]) -> None:
        """Have `observer` called when `complete` or `refusal` has changed."""
        self._completed.append(observer)

    async def run(self) -> None:
        """Follow and rest until cancelled."""
        await self._discovery.looked.wait()
        while True:
            self._moved.clear()
            resource = self._discovery.resource(*self._where)
            if resource is None:
                self._rest()
                await self._moved.wait()
            else:
                await self._follow(resource)

    async def refresh(self) -> None:
        """As `Reflector.refresh`; there is nothing to read again while the resource rests or is forbidden."""
        if not self._complete:
            return
        again = asyncio.create_task(super().refresh())
        moved = asyncio.create_task(self._moved.wait())
        try:
            await asyncio.wait({again, moved}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            again.cancel()
            moved.cancel()

    # --- inside

    def _rest(self) -> None:
        """Whoever removes a custom resource's definition removes the objects: that is what is reported."""
        self._report(self.store.replace({}))
        self._set(complete=False, refusal="")
        self.synced.set()

    async def _follow(self, resource: Resource) -> None:
        self.resource = resource
        self._namespace = self._wanted_namespace if resource.namespaced else None
        self._version = None
        following = asyncio.create_task(super().run())
        try:
            while self._discovery.resource(*self._where) == resource:
                moved = asyncio.create_task(self._moved.wait())
                await asyncio.wait({following, moved}, return_when=asyncio.FIRST_COMPLETED)
                moved.cancel()
                if following.done():
                    following.result()  # it never ends but by a bug, which is the manager's to see
                self._moved.clear()
        finally:
            following.cancel()
            await asyncio.wait({following})
        self._set(complete=False, refusal="")

    async def _list(self) -> None:
        await super()._list()
        self._set(complete=True, refusal="")

    def _complain(self, error: ApiError) -> None:
        super()._complain(error)
        if isinstance(error, ForbiddenError):
            self._set(complete=False, refusal=error.message)
            self.synced.set()

    def _set(self, *, complete: bool, refusal: str) -> None:
        if (complete, refusal) == (self._complete, self._refusal):
            return
        self._complete, self._refusal = complete, refusal
        for observer in self._completed:
            observer()


__all__ = ["NeighbourReflector", "Sight"]
