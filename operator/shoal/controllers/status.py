"""Writes a resource's status when it changed, and remembers what was written until the cache shows it."""

from dataclasses import dataclass
from typing import Any

from shoal.kube.client import KubeClient
from shoal.kube.errors import NotFoundError
from shoal.kube.resources import Resource

Json = dict[str, Any]


@dataclass(frozen=True)
class _Written:
    resource_version: int
    status: Json


class StatusWriter:
    """The only writer of status. A pass that runs before the cache shows the last write must not undo or repeat it."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._written: dict[str, _Written] = {}

    def current(self, body: Json) -> Json:
        """The newest status known of this object: the cache's, or what was written after it."""
        metadata = body["metadata"]
        written = self._written.get(metadata["uid"])
        if written is None:
            return body.get("status") or {}
        if int(metadata["resourceVersion"]) >= written.resource_version:
            del self._written[metadata["uid"]]
            return body.get("status") or {}
        return written.status

    async def write(self, resource: Resource, body: Json, status: Json) -> bool:
        """Patch the status if it differs; returns whether it was written. An object that is gone is no error."""
        before = self.current(body)
        patch = _difference(before, status)
        if not patch:
            return False
        metadata = body["metadata"]
        try:
            stored = await self._client.patch_status(resource, metadata["name"], patch, metadata["namespace"])
        except NotFoundError:
            return False
        self._written[metadata["uid"]] = _Written(int(stored["metadata"]["resourceVersion"]), status)
        return True

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an object that is gone."""
        self._written.pop(uid, None)


def _difference(before: Json, after: Json) -> Json:
    """The merge patch from one status to the other, by top-level fields; a field that is no more becomes null."""
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    return changed | {key: None for key in before if key not in after}
