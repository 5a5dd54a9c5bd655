"""Who wrote what, by an object's managed fields (server-side apply's own record)."""

from collections.abc import Iterable
from typing import Any

from shoal.kube.client import FIELD_MANAGER

Json = dict[str, Any]

SCALE_MANAGER = "shoal-scale"
"""Field manager under which the operator writes a size that nobody pins; whoever else writes there pins it."""
_REPLICAS = "f:replicas"


def last_manager(metadata: Json) -> str:
    """The manager, Shoal aside, that last wrote to the object itself (not to its status); "" for none."""
    others = [each for each in _entries(metadata) if each.get("manager") not in (FIELD_MANAGER, SCALE_MANAGER)]
    latest = max(others, key=lambda each: str(each.get("time", "")), default={})
    return str(latest.get("manager", ""))


def scaled_from_outside(metadata: Json) -> bool:
    """Whether `spec.replicas` came by the scale subresource: from an autoscaler or `kubectl scale`, not a manifest."""
    return any(each.get("subresource") == "scale" for each in _writers_of_replicas(metadata))


def reflects_scale(metadata: Json) -> bool:
    """Whether the operator alone wrote `spec.replicas`."""
    return {str(each.get("manager", "")) for each in _writers_of_replicas(metadata)} == {SCALE_MANAGER}


def _writers_of_replicas(metadata: Json) -> list[Json]:
    entries = [each for each in metadata.get("managedFields") or () if isinstance(each, dict)]
    return [each for each in entries if _REPLICAS in ((each.get("fieldsV1") or {}).get("f:spec") or {})]


def _entries(metadata: Json) -> Iterable[Json]:
    found = metadata.get("managedFields")
    return [each for each in found or () if isinstance(each, dict) and not each.get("subresource")]
