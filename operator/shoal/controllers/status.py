"""Writes a resource's status when it changed, and remembers what was written until the cache shows it."""

import re
from dataclasses import dataclass
from typing import Any, Protocol

from shoal.engine.clock import Clock, SystemClock
from shoal.kube.client import KubeClient
from shoal.kube.errors import NotFoundError
from shoal.kube.resources import Resource

Json = dict[str, Any]

NUMBERS_SECONDS = 0.5
"""A status in which only numbers moved is written this often at most: a pool of thousands that fills or is replaced
would else cost a write for every few members, and its watchers a message each."""
BELIEF_SECONDS = 60.0
"""How long a write is believed that the cache does not show: a server restored from a backup never will."""
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class _Written:
    resource_version: int
    status: Json
    at: float


class Overlay(Protocol):
    """Says in each status what a plan cannot know: that the operator itself is hindered."""

    def without(self, status: Json) -> Json:
        """The status as the plan left it."""
        ...

    def over(self, resource: Resource, body: Json, before: Json, status: Json) -> Json:
        """The status to write instead; `before` is the one that is stored."""
        ...


class StatusWriter:
    """The only writer of status. A pass that runs before the cache shows the last write must not undo or repeat it."""

    def __init__(self, client: KubeClient, clock: Clock | None = None) -> None:
        self._client = client
        self._clock = clock or SystemClock()
        self._written: dict[str, _Written] = {}
        self._put_off: set[str] = set()
        self.overlay: Overlay | None = None

    def current(self, body: Json) -> Json:
        """The newest status known of this object: the cache's, or what was written after it; without the overlay."""
        stored = self._stored(body)
        return stored if self.overlay is None else self.overlay.without(stored)

    def _stored(self, body: Json) -> Json:
        metadata = body["metadata"]
        written = self._written.get(metadata["uid"])
        if written is None:
            return body.get("status") or {}
        shown = int(metadata["resourceVersion"]) >= written.resource_version
        if shown or self._clock.now() > written.at + BELIEF_SECONDS:
            return body.get("status") or {}
        return written.status

    async def write(self, resource: Resource, body: Json, status: Json) -> bool:
        """Patch the status if it differs; returns whether it was written. An object that is gone is no error.

        Where only numbers differ and the last write was a moment ago, the write is put off: come again in `due_in`
        seconds with the status of then.
        """
        before = self._stored(body)
        if self.overlay is not None:
            status = self.overlay.over(resource, body, before, status)
        patch = _difference(before, status)
        metadata = body["metadata"]
        self._put_off.discard(metadata["uid"])
        if not patch:
            return False
        if self._left(metadata["uid"]) > 0 and _words(before) == _words(status):
            self._put_off.add(metadata["uid"])
            return False
        try:
            stored = await self._client.patch_status(resource, metadata["name"], patch, metadata["namespace"])
        except NotFoundError:
            return False
        self._written[metadata["uid"]] = _Written(int(stored["metadata"]["resourceVersion"]), status, self._clock.now())
        return True

    def due_in(self, uid: str) -> float | None:
        """Seconds until a write that was put off may be made; None when nothing waits."""
        return self._left(uid) if uid in self._put_off else None

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an object that is gone."""
        self._written.pop(uid, None)
        self._put_off.discard(uid)

    def _left(self, uid: str) -> float:
        written = self._written.get(uid)
        return 0.0 if written is None else max(0.0, written.at + NUMBERS_SECONDS - self._clock.now())


def _difference(before: Json, after: Json) -> Json:
    """The merge patch from one status to the other, by top-level fields; a field that is no more becomes null."""
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    return changed | {key: None for key in before if key not in after}


def _words(value: Any) -> Any:
    """The value without its numbers, also those inside texts ("7 of 10 members are ready")."""
    if isinstance(value, dict):
        return {key: _words(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_words(each) for each in value]
    if isinstance(value, str):
        return _DIGITS.sub("0", value)
    return 0 if isinstance(value, int | float) and not isinstance(value, bool) else value
