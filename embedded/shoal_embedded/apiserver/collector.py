"""Garbage collection: what belongs to an object that is gone goes, too; and what lies in a namespace that ends."""

from collections import defaultdict
from typing import Any

from shoal_embedded.apiserver.errors import StatusError
from shoal_embedded.apiserver.objects import Objects
from shoal_embedded.apiserver.resources import Registry, Resource
from shoal_embedded.apiserver.storage import Change, Storage

Json = dict[str, Any]
Place = tuple[str, str, str]
"""Resource, namespace and name of an object."""


class Collector:
    """Acts on removals and marks; an object's dependants are found by the UID in their ownerReferences."""

    def __init__(self, storage: Storage, registry: Registry, objects: Objects) -> None:
        self._storage = storage
        self._registry = registry
        self._objects = objects
        self._due: list[tuple[str, str, Json]] = []
        self._places: dict[str, Place] = {}
        self._owned: defaultdict[str, set[str]] = defaultdict(set)
        for resource, body in storage.everything():
            self._learn(resource, body)
        storage.listen(self._note)

    def _learn(self, resource: str, body: Json) -> None:
        metadata = body["metadata"]
        self._places[metadata["uid"]] = (resource, metadata.get("namespace", ""), metadata["name"])
        for owner in metadata.get("ownerReferences") or ():
            self._owned[owner["uid"]].add(metadata["uid"])

    def _note(self, change: Change) -> None:
        """Remember what has to be looked at; acting inside a change would nest writes."""
        metadata = change.body["metadata"]
        for owner in (change.previous or {}).get("metadata", {}).get("ownerReferences") or ():
            self._owned[owner["uid"]].discard(metadata["uid"])
            if not self._owned[owner["uid"]]:
                del self._owned[owner["uid"]]
        if change.type == "DELETED":
            self._places.pop(metadata["uid"], None)
        else:
            self._learn(change.resource, change.body)
        if change.type == "DELETED" or "deletionTimestamp" in metadata or metadata.get("ownerReferences"):
            self._due.append((change.type, change.resource, change.body))

    def sweep(self) -> None:
        """Do what the last changes call for, until nothing more follows from it."""
        while self._due:
            type_, resource, body = self._due.pop(0)
            metadata = body["metadata"]
            if type_ == "DELETED":
                for each in self._dependants(metadata["uid"]):
                    self._judge(*each)
                for owner in metadata.get("ownerReferences") or ():
                    self._release(owner["uid"])
                self._close(metadata.get("namespace", ""))
            elif "deletionTimestamp" not in metadata:
                self._judge(resource, body)
            elif "orphan" in metadata.get("finalizers", ()):
                self._orphan(metadata["uid"])
                self._unfinalize(body, "orphan")
            elif "foregroundDeletion" in metadata.get("finalizers", ()):
                for each in self._dependants(metadata["uid"]):
                    self._judge(*each)
                self._release(metadata["uid"])
            elif resource == "namespaces":
                self._drop_contents(metadata["name"])
                self._close(metadata["name"])

    def recover(self) -> None:
        """After a restart: look at everything once, since a sweep may have been cut short."""
        for resource, body in self._storage.everything():
            if body["metadata"].get("ownerReferences") or "deletionTimestamp" in body["metadata"]:
                self._due.append(("MODIFIED", resource, body))
        self.sweep()

    def _dependants(self, uid: str) -> list[tuple[str, Json]]:
        places = [self._places[each] for each in sorted(self._owned.get(uid, ()), key=self._places.__getitem__)]
        found = [(place[0], self._storage.get(*place)) for place in places]
        return [(resource, body) for resource, body in found if body is not None]

    def _owner(self, uid: str, namespace: str) -> Json | None:
        """The owner with this UID, if it is there and may own something in this namespace."""
        place = self._places.get(uid)
        return self._storage.get(*place) if place is not None and place[1] in ("", namespace) else None

    def _judge(self, resource: str, body: Json) -> None:
        """Delete what belongs to nobody who stays; forget owners that are gone of what belongs to others, too."""
        metadata = body["metadata"]
        if self._storage.get(resource, metadata.get("namespace", ""), metadata["name"]) is not body:
            return
        references = metadata.get("ownerReferences") or []
        owners = [(each, self._owner(each["uid"], metadata.get("namespace", ""))) for each in references]
        there = [(reference, owner) for reference, owner in owners if owner is not None]
        if not any("foregroundDeletion" not in owner["metadata"].get("finalizers", ()) for _, owner in there):
            self._delete(resource, body)
        elif len(there) < len(owners):
            kept = [reference for reference, _ in there]
            self._storage.put(resource, {**body, "metadata": {**metadata, "ownerReferences": kept}})

    def _drop_contents(self, namespace: str) -> None:
        for resource, body in self._storage.everything():
            if body["metadata"].get("namespace") == namespace:
                self._delete(resource, body)

    def _close(self, namespace: str) -> None:
        """Let a namespace that ends be gone once nothing is left in it."""
        body = self._storage.get("namespaces", "", namespace)
        if body is None or "deletionTimestamp" not in body["metadata"] or body["metadata"].get("finalizers"):
            return
        if not any(place[1] == namespace for place in self._places.values()):
            self._storage.remove("namespaces", body)

    def _orphan(self, uid: str) -> None:
        for resource, body in self._dependants(uid):
            owners = [owner for owner in body["metadata"]["ownerReferences"] if owner["uid"] != uid]
            metadata = {**body["metadata"], "ownerReferences": owners}
            if not owners:
                del metadata["ownerReferences"]
            self._storage.put(resource, {**body, "metadata": metadata})

    def _release(self, uid: str) -> None:
        """Let a foreground deletion end once no blocking dependant is left."""
        place = self._places.get(uid)
        owner = self._storage.get(*place) if place is not None else None
        if owner is None or "foregroundDeletion" not in owner["metadata"].get("finalizers", ()):
            return
        references = [each for _, body in self._dependants(uid) for each in body["metadata"]["ownerReferences"]]
        if not any(each["uid"] == uid and each.get("blockOwnerDeletion") for each in references):
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
        if resource is None or "deletionTimestamp" in body["metadata"]:
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
