"""Strategic merge of a user's pod template over the pod that Shoal builds.

Maps are merged, lists of named things are merged by their key, other lists are appended to; None deletes, as in
`kubectl patch`.
Kubernetes publishes the merge keys in its Go types (`patchMergeKey`); those of a PodSpec are below.
"""

from copy import deepcopy
from typing import Any

_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "schedulingGates": "name",
    "resourceClaims": "name",
}
_REPLACED = frozenset({"command", "args"})
"""Lists without identity that Kubernetes replaces as a whole; appending to a command line would only break it."""


def strategic_merge(base: Any, patch: Any, key: str = "") -> Any:
    """`patch` laid over `base`; neither is changed."""
    if key == "volumes[]" and set(base) - set(patch) - {"name"}:
        return deepcopy(patch)  # another source in place of the first: a volume cannot have two
    if isinstance(base, dict) and isinstance(patch, dict):
        merged = {name: deepcopy(value) for name, value in base.items() if patch.get(name, value) is not None}
        for name, value in patch.items():
            if value is not None:
                merged[name] = strategic_merge(merged.get(name), value, name)
        return merged
    if isinstance(base, list) and isinstance(patch, list) and key not in _REPLACED:
        return _merge_lists(base, patch, key)
    return deepcopy(patch)


def _merge_lists(base: list[Any], patch: list[Any], name: str) -> list[Any]:
    merge_key = _MERGE_KEYS.get(name)
    if merge_key is None:
        return deepcopy(base) + [item for item in deepcopy(patch) if item not in base]
    merged = deepcopy(base)
    index = {item.get(merge_key): position for position, item in enumerate(merged) if isinstance(item, dict)}
    for item in patch:
        position = index.get(item.get(merge_key)) if isinstance(item, dict) else None
        if position is None:
            merged.append(deepcopy(item))
        else:
            merged[position] = strategic_merge(merged[position], item, f"{name}[]")
    return merged
