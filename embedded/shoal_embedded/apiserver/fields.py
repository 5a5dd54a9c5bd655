"""Sets of fields: which fields an object has, which of them a change touches, and how Kubernetes writes such sets.

A path is a tuple of FieldsV1's own words: `f:` names, `k:` keys of list items, `v:` values of sets. A set holds a map
or an item itself, too, where it is a member (`.` in FieldsV1).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Path = tuple[str, ...]
Paths = set[Path]

_MISSING = object()
_KEYS: dict[str, list[str]] = {
    **{
        name: ["name"]
        for name in (
            *("containers", "initContainers", "ephemeralContainers", "env", "volumes", "imagePullSecrets", "secrets"),
            *("schedulingGates", "resourceClaims"),
        )
    },
    "volumeMounts": ["mountPath"],
    "volumeDevices": ["devicePath"],
    "conditions": ["type"],
    "addresses": ["type"],
    "hostAliases": ["ip"],
    "podIPs": ["ip"],
    "hostIPs": ["ip"],
    "topologySpreadConstraints": ["topologyKey", "whenUnsatisfiable"],
}
"""Keys of the lists of built-in kinds whose items are owned one by one; other lists are owned whole."""
_ATOMIC = frozenset({"selector", "nodeSelector", "involvedObject", "matchLabels", "configMapKeyRef", "secretKeyRef"})
_ATOMIC |= {"fieldRef", "resourceFieldRef", "related", "claimRef", "podSelector", "namespaceSelector"}
"""Maps of built-in kinds that are owned whole."""
_PROTOCOL = {"protocol": {"default": "TCP"}}
_METADATA: Json = {
    "properties": {
        "labels": {"additionalProperties": {}},
        "annotations": {"additionalProperties": {}},
        "finalizers": {"x-kubernetes-list-type": "set"},
        "ownerReferences": {"x-kubernetes-list-map-keys": ["uid"], "items": {"x-kubernetes-map-type": "atomic"}},
    }
}
_STRIPPED: Paths = {
    *((f"f:{name}",) for name in ("apiVersion", "kind", "metadata")),
    *(
        ("f:metadata", f"f:{name}")
        for name in (
            *("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "generation"),
            *("managedFields", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"),
        )
    ),
}
"""Nobody owns these."""


@dataclass(frozen=True)
class Shape:
    """What is known of a place in an object: from a schema, or for built-in kinds (None) from the field's name."""

    schema: Json | None
    name: str = ""
    parent: str = ""

    @property
    def atomic(self) -> bool:
        """Whether a map here is owned whole."""
        if self.schema is None:
            return self.name in _ATOMIC
        return self.schema.get("x-kubernetes-map-type") == "atomic"

    @property
    def is_set(self) -> bool:
        """Whether a list here is a set of values."""
        return self.schema is not None and self.schema.get("x-kubernetes-list-type") == "set"

    @property
    def keys(self) -> list[str] | None:
        """By which keys the items of a list here are told apart; None for a list that is owned whole."""
        if self.schema is not None:
            return self.schema.get("x-kubernetes-list-map-keys")
        if self.name == "ports":
            return ["port", "protocol"] if self.parent == "spec" else ["containerPort", "protocol"]
        return _KEYS.get(self.name)

    def declared(self, key: str) -> bool:
        """Whether the key is a field of a struct, and not one of a map."""
        return self.schema is None or key in self.schema.get("properties", {})

    def child(self, key: str) -> "Shape":
        """What is known of a key of a map here."""
        if self.name == "" and key == "metadata":
            return Shape(_METADATA, "metadata")
        if self.schema is None:
            return Shape(None, key, self.name)
        found = self.schema.get("properties", {}).get(key, self.schema.get("additionalProperties"))
        return Shape(found if isinstance(found, dict) else {}, key)

    def items(self) -> "Shape":
        """What is known of an item of a list here."""
        if self.schema is None:
            return Shape(None, "[]", self.name)
        found = self.schema.get("items")
        return Shape(found if isinstance(found, dict) else {}, "[]")

    def key_of(self, item: Any) -> str | None:
        """The word for an item of a list here; None when the list is owned whole or the item has no key."""
        if self.is_set:
            return "v:" + json.dumps(item, separators=(",", ":"))
        keys = self.keys
        if not keys or not isinstance(item, dict):
            return None
        known = _PROTOCOL if self.schema is None else (self.schema.get("items") or {}).get("properties", {})
        found = {key: item.get(key, known.get(key, {}).get("default")) for key in keys}
        if all(value is None for value in found.values()):
            return None
        return "k:" + json.dumps(found, separators=(",", ":"), sort_keys=True)

    def split(self, value: Any) -> dict[str, Any] | None:
        """What a value has below it, each under its word; None for one that is owned whole."""
        if isinstance(value, dict):
            return None if self.atomic else {f"f:{key}": child for key, child in value.items()}
        if isinstance(value, list) and (self.is_set or self.keys):
            keyed = {self.key_of(item): item for item in value}
            return None if None in keyed else {str(key): item for key, item in keyed.items()}
        return None

    def below(self, word: str) -> "Shape":
        """What is known of a part that `split` gave."""
        return self.child(word[2:]) if word.startswith("f:") else self.items()


def owned(config: Json, shape: Shape) -> Paths:
    """The fields that an applied configuration sets."""
    found: Paths = set()
    _collect(config, shape, (), found)
    return found - _STRIPPED


def _collect(value: Any, shape: Shape, path: Path, found: Paths) -> None:
    parts = shape.split(value)
    if parts is None:
        if value != [] or not shape.keys:
            found.add(path)
        return
    if parts == {} and isinstance(value, dict):
        found.add(path)
    for word, part in parts.items():
        if not word.startswith("f:") or not shape.declared(word[2:]):
            found.add((*path, word))
        if not word.startswith("v:"):
            _collect(part, shape.below(word), (*path, word), found)


def compare(before: Any, after: Any, shape: Shape) -> tuple[Paths, Paths]:
    """The fields that were set or changed, and those that were removed."""
    changed: Paths = set()
    removed: Paths = set()
    _compare(before, after, shape, (), changed, removed)
    return changed - _STRIPPED, removed - _STRIPPED


def _compare(before: Any, after: Any, shape: Shape, path: Path, changed: Paths, removed: Paths) -> None:
    if before == after:
        return
    was = {} if before is _MISSING else shape.split(before)
    now = {} if after is _MISSING else shape.split(after)
    if before is _MISSING:
        changed.add(path)
    elif after is _MISSING:
        removed.add(path)
    if (was is None or now is None) and before is not _MISSING and after is not _MISSING:
        changed.add(path)
    was, now = was or {}, now or {}
    for word in was.keys() | now.keys():
        old, new = was.get(word, _MISSING), now.get(word, _MISSING)
        _compare(old, new, shape.below(word), (*path, word), changed, removed)


def prefixes(paths: Iterable[Path]) -> Paths:
    """The paths, and all that lead to them."""
    return {path[:length] for path in paths for length in range(1, len(path) + 1)}


def encode(paths: Paths) -> Json:
    """A set as FieldsV1."""
    root: Json = {}
    inner = prefixes(path[:-1] for path in paths)
    for path in sorted(paths):
        place = root
        for word in path:
            place = place.setdefault(word, {})
        if path in inner:
            place["."] = {}
    return root


def decode(fields: Json) -> Paths:
    """FieldsV1 as a set."""
    found: Paths = set()
    stack: list[tuple[Path, Json]] = [((), fields)]
    while stack:
        path, below = stack.pop()
        for word, rest in below.items():
            if word == ".":
                found.add(path)
            elif rest:
                stack.append(((*path, word), rest))
            else:
                found.add((*path, word))
    return found


def shown(path: Path) -> str:
    """A path as kube-apiserver names it in a conflict."""
    text = ""
    for word in path:
        kind, _, rest = word.partition(":")
        if kind == "f":
            text += f".{rest}"
        elif kind == "k":
            keys = json.loads(rest)
            text += "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in sorted(keys.items())) + "]"
        else:
            text += f"[={rest}]"
    return text
