"""Patch types: JSON patch (RFC 6902), merge patch (RFC 7386), and strategic merge for built-in resources."""

from copy import deepcopy
from typing import Any

from shoal.embedded.apiserver.errors import StatusError, bad_request

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
                else:
                    base[key] = strategic_merge_patch(base.get(key), value, key)
        return base
    if isinstance(patch, list):
        return _merge_list(target if isinstance(target, list) else [], patch, field)
    return deepcopy(patch)


def _merge_list(target: list[Any], patch: list[Any], field: str) -> list[Any]:
    if field in SETS:
        return target + [each for each in patch if each not in target]
    key = MERGE_KEYS.get(field)
    if key == "port" and any("containerPort" in each for each in (*target, *patch) if isinstance(each, dict)):
        key = "containerPort"
    if key is None or not all(isinstance(each, dict) for each in patch):
        return deepcopy(patch)
    result = [each for each in target if {"$patch": "delete", key: each.get(key)} not in patch]
    for item in patch:
        if item.get("$patch") == "delete":
            result = [each for each in result if each.get(key) != item.get(key)]
            continue
        position = next((index for index, each in enumerate(result) if each.get(key) == item.get(key)), None)
        if position is None:
            result.append(strategic_merge_patch({}, item))
        else:
            result[position] = strategic_merge_patch(result[position], item)
    return result


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
        if kind == "add":
            parent.insert(index, deepcopy(value))
        elif kind == "remove":
            del parent[index]
        else:
            parent[index] = deepcopy(value)
    elif kind == "remove":
        del parent[last]
    elif kind == "replace" and last not in parent:
        raise KeyError(last)
    else:
        parent[last] = deepcopy(value)
    return document
