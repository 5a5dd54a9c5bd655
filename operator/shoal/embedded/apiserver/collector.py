"""Garbage collection: what belongs to an object that is gone goes, too; and what lies in a namespace that is gone."""

from typing import Any

from shoal.embedded.apiserver.errors import StatusError
from shoal.embedded.apiserver.objects import Objects
from shoal.embedded.apiserver.resources import Registry, Resource
from shoal.embedded.apiserver.storage import Change, Storage

Json = dict[str, Any]


class Collector:
    """Acts on removals and marks; an object's dependants are found by the UID in their ownerReferences."""

    def __init__(self, storage: Storage, registry: Registry, objects: Objects) -> None:
        self._storage = storage
        self._registry = registry
        self._objects = objects
        self._due: list[tuple[str, Json]] = []
        storage.listen(self._note)

    def _note(self, change: Change) -> None:
        """Remember what has to be looked at; acting inside a change would nest writes."""
        marked = "deletionTimestamp" in change.body["metadata"]
        if change.type == "DELETED" or marked:
            self._due.append((change.type, change.body))

    def sweep(self) -> None:
        """Do what the last changes call for, until nothing more follows from it."""
        while self._due:
            type_, body = self._due.pop(0)
            metadata = body["metadata"]
            if type_ == "DELETED":
                self._drop_dependants(metadata["uid"])
                if body["kind"] == "Namespace":
                    self._drop_contents(metadata["name"])
                for owner in metadata.get("ownerReferences", ()):
                    self._release(owner["uid"])
            elif "orphan" in metadata.get("finalizers", ()):
                self._orphan(metadata["uid"])
                self._unfinalize(body, "orphan")
            elif "foregroundDeletion" in metadata.get("finalizers", ()):
                self._drop_dependants(metadata["uid"])
                self._release(metadata["uid"])

    def recover(self) -> None:
        """After a restart: look at everything once, since a sweep may have been cut short."""
        alive = {body["metadata"]["uid"] for _, body in self._storage.everything()}
        for resource, body in self._storage.everything():
            owners = body["metadata"].get("ownerReferences") or ()
            if owners and not any(owner["uid"] in alive for owner in owners):
                self._delete(resource, body)
        self.sweep()

    def _dependants(self, uid: str) -> list[tuple[str, Json]]:
        return [
            (resource, body)
            for resource, body in self._storage.everything()
            if any(owner["uid"] == uid for owner in body["metadata"].get("ownerReferences") or ())
        ]

    def _drop_dependants(self, uid: str) -> None:
        """Delete what belongs to nobody else who is still there."""
        dependants = self._dependants(uid)
        if not dependants:
            return
        alive = {body["metadata"]["uid"] for _, body in self._storage.everything()} - {uid}
        for resource, body in dependants:
            if not any(owner["uid"] in alive for owner in body["metadata"]["ownerReferences"]):
                self._delete(resource, body)

    def _drop_contents(self, namespace: str) -> None:
        for resource, body in self._storage.everything():
            if body["metadata"].get("namespace") == namespace:
                self._delete(resource, body)

    def _orphan(self, uid: str) -> None:
        for resource, body in self._dependants(uid):
            owners = [owner for owner in body["metadata"]["ownerReferences"] if owner["uid"] != uid]
            self._storage.put(resource, {**body, "metadata": {**body["metadata"], "ownerReferences": owners}})

    def _release(self, uid: str) -> None:
        """Let a foreground deletion end once no blocking dependant is left."""
        owner = next((body for _, body in self._storage.everything() if body["metadata"]["uid"] == uid), None)
        if owner is None or "foregroundDeletion" not in owner["metadata"].get("finalizers", ()):
            return
        if not self._dependants(uid):
            self._unfinalize(owner, "foregroundDeletion")

    def _unfinalize(self, body: Json, finalizer: str) -> None:
        resource = self._registry.by_kind(body["apiVersion"], body["kind"])
        if resource is None:
            return

        def without(current: Json) -> Json:
            kept = [each for each in current["metadata"].get("finalizers", ()) if each != finalizer]
            return {**current, "metadata": {**current["metadata"], "finalizers": kept}}

        metadata = body["metadata"]
        self._objects.update(resource, metadata.get("namespace", ""), metadata["name"], without)

    def _delete(self, key: str, body: Json) -> None:
        resource = self._resource(key, body)
        if resource is None:
            return
        metadata = body["metadata"]
        options = {"preconditions": {"uid": metadata["uid"]}}
        try:
            self._objects.delete(resource, metadata.get("namespace", ""), metadata["name"], options)
        except StatusError as error:
            if error.code not in (404, 409):
                raise

    def _resource(self, key: str, body: Json) -> Resource | None:
        return self._registry.by_kind(body["apiVersion"], body["kind"]) or next(
            (each for each in self._registry if each.key == key), None
        )
