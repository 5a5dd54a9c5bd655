"""Who wrote what, by an object's managed fields (server-side apply's own record)."""

from collections.abc import Iterable
from typing import Any

from shoal.kube.client import FIELD_MANAGER

Json = dict[str, Any]


def last_manager(metadata: Json) -> str:
    """The manager, Shoal aside, that last wrote to the object itself (not to its status); "" for none."""
    others = [each for each in _entries(metadata) if each.get("manager") != FIELD_MANAGER]
    latest = max(others, key=lambda each: str(each.get("time", "")), default={})
    return str(latest.get("manager", ""))


def _entries(metadata: Json) -> Iterable[Json]:
    found = metadata.get("managedFields")
    return [each for each in found or () if isinstance(each, dict) and not each.get("subresource")]
