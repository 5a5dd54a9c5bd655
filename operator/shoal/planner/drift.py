"""Whether an object on the server still is what Shoal applied: its own fields, compared by content.

An annotation with a hash tells what Shoal wants, not what somebody made of it since. So each field that Shoal builds is
compared with the stored one. Fields that others add (an annotation of a service mesh, the cluster's own defaults) are
theirs and stay; a list or a selector is one value, as server-side apply holds it, and must be equal as a whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

_WHOLE = frozenset({"selector", "podSelector", "namespaceSelector", "matchLabels"})
"""Maps that server-side apply holds as one value: one more label in a Service's selector, and it selects nobody."""
_BY_KEY = {
    ("Service", "ports"): "port",
    ("RolloutFleet", "workerGroups"): "name",
    ("EnvironmentPool", "variants"): "name",
}
"""Lists that server-side apply merges by a key: another's entry in them is left alone, and is no drift."""
_METADATA = ("labels", "annotations")


@dataclass(frozen=True, slots=True)
class LiveChild:
    """A child as the server holds it.

    Args:
        body: the object, less its managed fields.
        version: its resourceVersion.
        changed_by: field manager that wrote it last, Shoal's own aside; "" when there is none.
    """

    body: Json
    version: str = ""
    changed_by: str = ""


def difference(wanted: Json, stored: Json) -> str:
    """Path of the first field of `wanted` that the stored object does not hold, such as `spec.type`; "" if none."""
    own, held = wanted["metadata"], stored.get("metadata") or {}
    for part in _METADATA:
        path = _differs(own.get(part) or {}, held.get(part) or {}, f"metadata.{part}", "")
        if path:
            return path
    owners = {owner["uid"]: owner for owner in held.get("ownerReferences") or ()}
    for owner in own.get("ownerReferences") or ():
        if owners.get(owner["uid"]) != owner:
            return "metadata.ownerReferences"
    content = {key: value for key, value in wanted.items() if key not in ("apiVersion", "kind", "metadata")}
    return _differs(content, stored, "", wanted["kind"])


def _differs(wanted: Any, stored: Any, path: str, kind: str) -> str:
    """Path of the first difference below `path`."""
    name = path.rpartition(".")[2]
    if isinstance(wanted, Mapping) and name not in _WHOLE:
        if not isinstance(stored, Mapping):
            return path if stored is not None or _something(wanted) else ""
        for key, value in wanted.items():
            below = f"{path}.{key}" if path else key
            found = _differs(value, stored.get(key), below, kind)
            if found:
                return found
        return ""
    if isinstance(wanted, list):
        return _list_differs(wanted, stored, path, kind)
    # The API server leaves out what is empty.
    return "" if wanted == stored or (stored is None and not _something(wanted)) else path


def _list_differs(wanted: list[Any], stored: Any, path: str, kind: str) -> str:
    items = stored if isinstance(stored, list) else []
    key = _BY_KEY.get((kind, path.removeprefix("spec.")))
    if key is not None:
        there = {item.get(key): item for item in items if isinstance(item, Mapping)}
        items = [there.get(item[key]) for item in wanted]
    if len(items) != len(wanted):
        return path
    pairs = zip(wanted, items, strict=True)
    # An element that is a map has defaults of the cluster's beside Shoal's fields.
    return path if any(_differs(one, other, "item", kind) or (other is None) for one, other in pairs) else ""


def _something(value: Any) -> bool:
    """Whether the API server would store it: not null, and no empty text, list or map."""
    return value is not None and value != "" and value != [] and value != {}
