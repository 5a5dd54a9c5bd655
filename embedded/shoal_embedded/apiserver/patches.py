"""Patch types: JSON patch (RFC 6902), merge patch (RFC 7386), and strategic merge for built-in resources."""

from copy import deepcopy
from typing import Any

from shoal_embedded.apiserver.errors import StatusError, bad_request

Json = dict[str, Any]

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "port",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "conditions": "type",
    "addresses": "type",
    "ownerReferences": "uid",
    "secrets": "name",
    "schedulingGates": "name",
    "topologySpreadConstraints": "topologyKey",
    "taints": "key",
}
"""`patchMergeKey` of Kubernetes' Go types, by the list's field name."""
SETS = frozenset({"finalizers", "podCIDRs"})


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def strategic_merge_patch(target: Any, patch: Any, field: str = "") -> Any:
    """Merge by keys, with the directives `$patch`, `$retainKeys`, `$setElementOrder/…` and
    `$deleteFromPrimitiveList/…`.
    """
    if isinstance(patch, dict):
        if patch.get("$patch") not in (None, "replace", "delete"):
            shown = " ".join(f"{key}:{value}" for key, value in sorted(patch.items()))
            raise StatusError(500, "", f"unknown patch type: {patch['$patch']} in map: map[{shown}]")
        if patch.get("$patch") == "replace":
            return {key: value for key, value in patch.items() if key != "$patch"}
        base = dict(target) if isinstance(target, dict) else {}
        if "$retainKeys" in patch:
            base = {key: value for key, value in base.items() if key in patch["$retainKeys"]}
        for key, value in patch.items():
            if key.startswith("$deleteFromPrimitiveList/"):
                name = key.partition("/")[2]
                base[name] = [each for each in base.get(name, []) if each not in value]
            elif not key.startswith("$"):
                if value is None:
                    base.pop(key, None)
                elif isinstance(value, list):
                    base[key] = _merge_list(base.get(key) or [], value, key, _order(patch, key))
                else:
                    base[key] = strategic_merge_patch(base.get(key), value, key)
            elif key.startswith("$setElementOrder/") and (name := key.partition("/")[2]) not in patch:
                base[name] = _merge_list(base.get(name) or [], [], name, _order(patch, name))
        return base
    if isinstance(patch, list):
        return _merge_list(target if isinstance(target, list) else [], patch, field, [])
    return deepcopy(patch)


def _order(patch: Json, field: str) -> list[Any]:
    """The order that a patch wants for a list, by its items' keys; empty for none."""
    wanted = patch.get(f"$setElementOrder/{field}") or []
    return [next(iter(each.values())) if isinstance(each, dict) else each for each in wanted]


def _merge_list(target: list[Any], patch: list[Any], field: str, order: list[Any]) -> list[Any]:
    if field in SETS:
        return list(_ordered({each: each for each in target}, {each: each for each in patch}, order))
    key = MERGE_KEYS.get(field)
    if key == "port" and any("containerPort" in each for each in (*target, *patch) if isinstance(each, dict)):
        key = "containerPort"
    if key is None or not all(isinstance(each, dict) for each in patch):
        return deepcopy(patch)
    gone = [item.get(key) for item in patch if item.get("$patch") == "delete"]
    if {"$patch": "replace"} in patch:
        return [item for item in patch if "$patch" not in item]
    left = {each.get(key): each for each in target if each.get(key) not in gone}
    changed = {
        item.get(key): strategic_merge_patch(left.get(item.get(key), {}), item)
        for item in patch
        if item.get("$patch") not in ("delete", "replace")
    }
    return list(_ordered(left, changed, order).values())


def _ordered(left: dict[Any, Any], changed: dict[Any, Any], order: list[Any]) -> dict[Any, Any]:
    """Patched items before the others, each kind in its order, but for others that stood before a patched one."""
    places = {name: index for index, name in enumerate(left)}
    merged = {**left, **changed}
    first = [name for name in order if name in merged] if order else list(changed)
    rest = [name for name in left if name not in first]
    result: dict[Any, Any] = {}
    for name in first:
        while rest and name in places and places[rest[0]] < places[name]:
            kept = rest.pop(0)
            result[kept] = merged[kept]
        result[name] = merged[name]
    return {**result, **{name: merged[name] for name in (*rest, *changed) if name not in result}}


def json_patch(target: Json, operations: Any) -> Any:
    """RFC 6902; raises 422 for an operation that cannot be done, 400 for one that is none."""
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is a list of operations")
    document: Any = deepcopy(target)
    for operation in operations:
        try:
            document = _apply(document, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            words = "the server rejected our request due to an error in our request"
            raise StatusError(422, "Invalid", words) from error
    return document


def _apply(document: Any, operation: Json) -> Any:
    kind, path = operation["op"], _pointer(operation["path"])
    if kind == "test":
        if _get(document, path) != operation["value"]:
            raise ValueError("test failed")
        return document
    if kind in ("move", "copy"):
        source = _pointer(operation["from"])
        value = deepcopy(_get(document, source))
        if kind == "move":
            document = _change(document, source, "remove", None)
        return _change(document, path, "add", value)
    if kind not in ("add", "remove", "replace"):
        raise ValueError(f"unknown operation {kind}")
    return _change(document, path, kind, operation.get("value"))


def _pointer(text: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _get(document: Any, path: list[str]) -> Any:
    for part in path:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def _change(document: Any, path: list[str], kind: str, value: Any) -> Any:
    if not path:
        return deepcopy(value)
    parent, last = _get(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        index = len(parent) if last == "-" else int(last)
        if kind == "add" and index > len(parent):
            raise IndexError(index)
        if kind == "add":
            parent.insert(index, deepcopy(value))
        elif kind == "remove":
            del parent[index]
        else:
            parent[index] = deepcopy(value)
    elif kind == "remove":
        del parent[last]
    else:
        parent[last] = deepcopy(value)
    return document
