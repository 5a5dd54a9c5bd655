"""The cache of one kind of object: what the API server last told, trimmed, with indexes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Generic, TypeVar

from shoal.engine.keys import ObjectKey, key_of

T = TypeVar("T")
Json = dict[str, Any]
Index = Callable[[Json], Iterable[str]]
"""Gives the values under which an object (as the API gives it, untrimmed) is found."""

OWNER_UID = "owner"
"""Name of the index by the UID of the controlling owner."""


def by_owner_uid(body: Json) -> Iterable[str]:
    """Index by the UID of the owner that controls the object."""
    owners = body["metadata"].get("ownerReferences") or ()
    return [str(owner["uid"]) for owner in owners if owner.get("controller")]


def by_label(label: str) -> Index:
    """Index by the value of one label."""

    def values(body: Json) -> Iterable[str]:
        value = (body["metadata"].get("labels") or {}).get(label)
        return () if value is None else (str(value),)

    return values


class ChangeType(StrEnum):
    """What happened to an object between two looks at the cache."""

    ADDED = "Added"
    MODIFIED = "Modified"
    DELETED = "Deleted"


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One cached object: identity, version and the trimmed value."""

    key: ObjectKey
    uid: str
    resource_version: str
    deleting: bool
    """The object has a deletionTimestamp."""
    value: T
    indexed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """A difference of the cache. `old` is None for an addition, `new` for a deletion."""

    type: ChangeType
    old: Entry[T] | None
    new: Entry[T] | None

    @property
    def entry(self) -> Entry[T]:
        """The newest state known: `new`, or `old` for a deletion."""
        entry = self.new or self.old
        assert entry is not None
        return entry

    @property
    def key(self) -> ObjectKey:
        """Key of the object."""
        return self.entry.key


class Store(Generic[T]):
    """Objects by key and by index. Only the reflector writes; everyone reads, without copying: never change a value."""

    def __init__(self, trim: Callable[[Json], T], indexes: Mapping[str, Index] | None = None) -> None:
        self._trim = trim
        self._functions = dict(indexes or {})
        self._entries: dict[ObjectKey, Entry[T]] = {}
        self._index: dict[tuple[str, str], set[ObjectKey]] = {}

    # --- reading

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: ObjectKey) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[ObjectKey]:
        return iter(self._entries)

    def get(self, key: ObjectKey) -> T | None:
        """Return the object, or None."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def entry(self, key: ObjectKey) -> Entry[T] | None:
        """Return the object with its identity and version, or None."""
        return self._entries.get(key)

    def values(self) -> list[T]:
        """Return all objects."""
        return [entry.value for entry in self._entries.values()]

    def entries(self) -> list[Entry[T]]:
        """Return all objects with identity and version."""
        return list(self._entries.values())

    def by_index(self, index: str, value: str, namespace: str | None = None) -> list[T]:
        """Return the objects that the index `index` files under `value`, of one namespace or all, in no order."""
        entries = self.entries_by_index(index, value)
        return [entry.value for entry in entries if namespace is None or entry.key.namespace == namespace]

    def entries_by_index(self, index: str, value: str) -> list[Entry[T]]:
        """As `by_index`, with identity and version. Raises `KeyError` for an index that was never declared."""
        if index not in self._functions:
            raise KeyError(f"no index {index!r}; there are {sorted(self._functions)}")
        return [self._entries[key] for key in self._index.get((index, value), ())]

    # --- writing, by the reflector

    def read(self, body: Json) -> Entry[T]:
        """Trim an object into an entry, re-using the cached one when its version is the same."""
        meta = body["metadata"]
        key = key_of(body)
        uid, version = str(meta.get("uid", "")), str(meta.get("resourceVersion", ""))
        known = self._entries.get(key)
        if known is not None and known.uid == uid and known.resource_version == version:
            return known
        indexed = tuple((name, value) for name, values in self._functions.items() for value in values(body))
        return Entry(key, uid, version, "deletionTimestamp" in meta, self._trim(body), indexed)

    def put(self, entry: Entry[T]) -> list[Change[T]]:
        """Store an entry; returns what changed: nothing, one change, or a deletion and an addition (another UID)."""
        old = self._entries.get(entry.key)
        if old is entry:
            return []
        if old is not None:
            if old.uid == entry.uid and old.resource_version == entry.resource_version:
                return []
            self._unindex(old)
        self._entries[entry.key] = entry
        for pair in entry.indexed:
            self._index.setdefault(pair, set()).add(entry.key)
        if old is None:
            return [Change(ChangeType.ADDED, None, entry)]
        if old.uid != entry.uid:
            # Deleted and created again under one name while nobody watched: its dependants must hear of both.
            return [Change(ChangeType.DELETED, old, None), Change(ChangeType.ADDED, None, entry)]
        return [Change(ChangeType.MODIFIED, old, entry)]

    def remove(self, key: ObjectKey) -> list[Change[T]]:
        """Forget an object; returns the deletion, or nothing when it was not there."""
        old = self._entries.pop(key, None)
        if old is None:
            return []
        self._unindex(old)
        return [Change(ChangeType.DELETED, old, None)]

    def replace(self, fresh: Mapping[ObjectKey, Entry[T]]) -> list[Change[T]]:
        """Take `fresh` as the complete truth; returns the differences, true deletions among them."""
        gone = [key for key in self._entries if key not in fresh]
        changes = [change for key in gone for change in self.remove(key)]
        for entry in fresh.values():
            changes += self.put(entry)
        return changes

    def doubt(self) -> None:
        """Take every cached object for changed until it is read again: its version may have been used twice."""
        self._entries = {key: replace(entry, resource_version="") for key, entry in self._entries.items()}

    def _unindex(self, entry: Entry[T]) -> None:
        for pair in entry.indexed:
            keys = self._index[pair]
            keys.discard(entry.key)
            if not keys:
                del self._index[pair]
