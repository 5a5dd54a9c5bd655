"""How the machinery names an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class ObjectKey(NamedTuple):
    """Namespace (empty for cluster-wide objects) and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def key_of(body: Mapping[str, Any]) -> ObjectKey:
    """Return the key of an object as the API gives it."""
    meta = body["metadata"]
    return ObjectKey(meta.get("namespace", ""), meta["name"])
