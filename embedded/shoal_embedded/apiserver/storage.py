"""Objects, their versions and the log of changes: objects in memory for reading, everything in SQLite for staying.

One counter numbers every change of every object: the resourceVersion. The log of recent changes lets a watch go on
where it ended, also after the server was killed and started again. It stays in the file, because twenty thousand
bodies in memory would be hundreds of megabytes.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from shoal_embedded.apiserver.errors import gone

Json = dict[str, Any]
Name = tuple[str, str]
"""(namespace, name); the namespace of a cluster-wide object is empty."""

HISTORY = 20_000
"""Changes kept; a watch that is further behind is told to list again (410)."""
TRIMMED_EVERY = 1000
"""Changes between two trims of the log; deleting a row with each change would double the cost of a write."""

_TABLES = """
CREATE TABLE IF NOT EXISTS objects (resource TEXT, namespace TEXT, name TEXT, body BLOB NOT NULL,
  PRIMARY KEY (resource, namespace, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (version INTEGER PRIMARY KEY, resource TEXT NOT NULL, type TEXT NOT NULL,
  body BLOB NOT NULL, previous BLOB);
"""


@dataclass(frozen=True, slots=True)
class Change:
    """One change: ADDED, MODIFIED or DELETED; `previous` is the object before it (None for an addition)."""

    version: int
    resource: str
    type: str
    body: Json
    previous: Json | None


Listener = Callable[[Change], None]


class Storage:
    """Everything the server knows. Bodies are never changed in place: a change is a new body."""

    def __init__(self, file: Path, history: int | None = None) -> None:
        """Open the file; `history` is the number of changes that are kept, `HISTORY` without it."""
        self._history = history
        file.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(file, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing; only a machine that loses power may lose its last changes.
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.executescript(_TABLES)
        self._objects: dict[str, dict[Name, Json]] = {}
        self._listeners: list[Listener] = []
        for resource, namespace, name, body in self._database.execute("SELECT * FROM objects"):
            self._objects.setdefault(resource, {})[namespace, name] = orjson.loads(body)
        oldest, newest = self._database.execute("SELECT MIN(version), MAX(version) FROM changes").fetchone()
        self.version: int = newest or 1
        """The newest resourceVersion."""
        self._oldest: int = oldest - 1 if oldest else self.version

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def listen(self, listener: Listener) -> None:
        """Have `listener` called after each change."""
        self._listeners.append(listener)

    def get(self, resource: str, namespace: str, name: str) -> Json | None:
        """One object."""
        return self._objects.get(resource, {}).get((namespace, name))

    def objects(self, resource: str, namespace: str | None = None) -> list[Json]:
        """Objects of a resource, in one namespace or all, sorted by namespace and name."""
        found = self._objects.get(resource, {})
        return [found[key] for key in sorted(found) if namespace is None or key[0] == namespace]

    def objects_at(self, resource: str, version: int, namespace: str | None = None) -> list[Json]:
        """Objects as they were in a version, sorted as `objects`; raises 410 when that is no longer known."""
        found = dict(self._objects.get(resource, {}))
        for change in reversed(self.since(resource, version)):
            metadata = change.body["metadata"]
            key = (metadata.get("namespace", ""), metadata["name"])
            if change.previous is None:
                found.pop(key, None)
            else:
                found[key] = change.previous
        return [found[key] for key in sorted(found) if namespace is None or key[0] == namespace]

    def everything(self) -> list[tuple[str, Json]]:
        """All objects, with their resource."""
        return [(resource, body) for resource, objects in self._objects.items() for body in objects.values()]

    def put(self, resource: str, body: Json) -> Json:
        """Store an object in its next version; returns it with that version."""
        metadata = body["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        previous = self._objects.get(resource, {}).get(key)
        stored = self._numbered(body)
        self._objects.setdefault(resource, {})[key] = stored
        self._commit(Change(self.version, resource, "MODIFIED" if previous else "ADDED", stored, previous))
        return stored

    def remove(self, resource: str, body: Json) -> Json:
        """Forget an object; returns it with the version of its removal."""
        metadata = body["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        previous = self._objects[resource].pop(key)
        last = self._numbered(body)
        self._commit(Change(self.version, resource, "DELETED", last, previous))
        return last

    def since(self, resource: str, version: int) -> list[Change]:
        """Changes of a resource after a version; raises 410 when they are no longer all known."""
        if version < self._oldest:
            raise gone(f"too old resource version: {version} ({self._oldest})")
        if version == self.version:
            return []
        asked = "SELECT * FROM changes WHERE version > ? AND resource = ? ORDER BY version"
        return [_change(row) for row in self._database.execute(asked, (version, resource))]

    def _numbered(self, body: Json) -> Json:
        self.version += 1
        return {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}

    def _commit(self, change: Change) -> None:
        metadata = change.body["metadata"]
        key = (change.resource, metadata.get("namespace", ""), metadata["name"])
        encoded = orjson.dumps(change.body)
        self._database.execute("BEGIN")
        if change.type == "DELETED":
            self._database.execute("DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?", key)
        else:
            self._database.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", (*key, encoded))
        previous = None if change.previous is None else orjson.dumps(change.previous)
        self._database.execute(
            "INSERT INTO changes VALUES (?, ?, ?, ?, ?)",
            (change.version, change.resource, change.type, encoded, previous),
        )
        history = self._history or HISTORY
        if change.version % min(TRIMMED_EVERY, history) == 0:
            self._oldest = max(self._oldest, change.version - history)
            self._database.execute("DELETE FROM changes WHERE version <= ?", (self._oldest,))
        self._database.execute("COMMIT")
        for listener in self._listeners:
            listener(change)


def _change(row: tuple[int, str, str, bytes, bytes | None]) -> Change:
    version, resource, type_, body, previous = row
    return Change(version, resource, type_, orjson.loads(body), None if previous is None else orjson.loads(previous))
