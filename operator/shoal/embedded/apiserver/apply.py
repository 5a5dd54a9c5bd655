"""Server-side apply: who set which field, what a manager no longer sets, and who else set it.

Only appliers own fields here; what others write by updates and patches has no owner, and an applier takes it over
without a conflict.
"""

import json
from typing import Any

from shoal.embedded.apiserver.errors import StatusError
from shoal.embedded.apiserver.patches import MERGE_KEYS, SETS

Json = dict[str, Any]
Fields = dict[str, Any]
"""A set of fields in the form of FieldsV1: `f:` names, `k:` keys of list items, `.` the item itself; a leaf is empty.
"""

_UNOWNED = frozenset({"apiVersion", "kind"})
_UNOWNED_METADATA = frozenset(
    {"name", "namespace", "uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink"}
)


def apply(live: Json | None, config: Json, manager: str, *, force: bool, schema: Json | None, now: str) -> Json:
    """The object after `manager` has applied `config`, with its managed fields; raises 409 for fields of others."""
    owned = owned_fields(config, schema)
    if live is None:
        return _with_owners(config, [_entry(manager, config["apiVersion"], owned, now)])
    entries = list(live["metadata"].get("managedFields", ()))
    mine = next((each for each in entries if _is_of(each, manager)), None)
    others = [each for each in entries if each is not mine]
    others = _settle_conflicts(live, config, owned, others, force=force, schema=schema)
    merged = _merge(live, config, schema or {}, "")
    if mine is not None:
        dropped = _subtract(mine["fieldsV1"], owned)
        for each in others:
            dropped = _subtract(dropped, each["fieldsV1"])
        merged = _without(merged, dropped, schema or {}, "")
    entry = _entry(manager, config["apiVersion"], owned, now)
    if mine is not None and mine["fieldsV1"] == owned:
        entry = mine
    return _with_owners(merged, [*others, entry])


def owned_fields(config: Json, schema: Json | None) -> Fields:
    """The fields that an applied configuration sets."""
    body = {key: value for key, value in config.items() if key not in _UNOWNED}
    metadata = {key: value for key, value in body.get("metadata", {}).items() if key not in _UNOWNED_METADATA}
    body = (
        {**body, "metadata": metadata} if metadata else {key: value for key, value in body.items() if key != "metadata"}
    )
    return _fields(body, schema or {}, "")


def _is_of(entry: Json, manager: str) -> bool:
    return bool(entry.get("manager") == manager and entry.get("operation") == "Apply")


def _entry(manager: str, api_version: str, fields: Fields, now: str) -> Json:
    return {
        "manager": manager,
        "operation": "Apply",
        "apiVersion": api_version,
        "time": now,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }


def _with_owners(body: Json, entries: list[Json]) -> Json:
    kept = [entry for entry in entries if entry["fieldsV1"]]
    return {**body, "metadata": {**body["metadata"], "managedFields": kept}}


def _keys(schema: Json, field: str) -> list[str] | None:
    """The map keys of a list: by its schema, or by its name where the resource is built in."""
    if schema:
        return schema.get("x-kubernetes-list-map-keys")
    return (
        [MERGE_KEYS[field]]
        if field in MERGE_KEYS and field != "ports"
        else ["containerPort"]
        if field == "ports"
        else None
    )


def _key_of(item: Any, keys: list[str]) -> str | None:
    if not isinstance(item, dict) or not any(key in item for key in keys):
        return None
    return "k:" + json.dumps({key: item.get(key) for key in keys}, separators=(",", ":"), sort_keys=True)


def _is_set(schema: Json, field: str) -> bool:
    return schema.get("x-kubernetes-list-type") == "set" or (not schema and field in SETS)


def _value_key(item: Any) -> str:
    return "v:" + json.dumps(item, separators=(",", ":"))


def _below(schema: Json, key: str) -> Json:
    found = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
    return found if isinstance(found, dict) else {}


def _fields(value: Any, schema: Json, field: str) -> Fields:
    if isinstance(value, dict):
        if schema.get("x-kubernetes-map-type") == "atomic":
            return {}
        return {f"f:{key}": _fields(child, _below(schema, key), key) for key, child in value.items()}
    if isinstance(value, list) and _is_set(schema, field):
        return {_value_key(item): {} for item in value}
    keys = _keys(schema, field)
    if isinstance(value, list) and keys and all(_key_of(item, keys) for item in value):
        items = schema.get("items", {})
        return {str(_key_of(item, keys)): {".": {}, **_fields(item, items, "")} for item in value}
    return {}


def _subtract(fields: Fields, other: Fields) -> Fields:
    """The leaves of `fields` that are not in `other`."""
    left: Fields = {}
    for key, below in fields.items():
        if key not in other:
            left[key] = below
        elif below:
            rest = _subtract(below, other[key])
            if rest:
                left[key] = rest
    return left


def _merge(live: Any, config: Any, schema: Json, field: str) -> Any:
    if schema.get("x-kubernetes-map-type") == "atomic":
        return config
    if isinstance(config, list) and isinstance(live, list) and _is_set(schema, field):
        return live + [item for item in config if item not in live]
    if isinstance(config, dict) and isinstance(live, dict):
        merged = dict(live)
        for key, value in config.items():
            merged[key] = _merge(live[key], value, _below(schema, key), key) if key in live else value
        return merged
    keys = _keys(schema, field)
    if isinstance(config, list) and isinstance(live, list) and keys and all(_key_of(item, keys) for item in config):
        merged_list = list(live)
        index = {_key_of(item, keys): position for position, item in enumerate(live)}
        for item in config:
            position = index.get(_key_of(item, keys))
            if position is None:
                merged_list.append(item)
            else:
                merged_list[position] = _merge(live[position], item, schema.get("items", {}), "")
        return merged_list
    return config


def _without(value: Any, dropped: Fields, schema: Json, field: str) -> Any:
    """The value without the dropped leaves; a list item goes when its own `.` is dropped."""
    if isinstance(value, dict):
        kept = {}
        for key, child in value.items():
            below = dropped.get(f"f:{key}")
            if below is None:
                kept[key] = child
            elif below:
                kept[key] = _without(child, below, _below(schema, key), key)
        return kept
    if isinstance(value, list) and _is_set(schema, field):
        return [item for item in value if _value_key(item) not in dropped]
    if isinstance(value, list):
        keys = _keys(schema, field) or []
        items = []
        for item in value:
            below = dropped.get(str(_key_of(item, keys))) if keys else None
            if below is None:
                items.append(item)
            elif "." not in below:
                items.append(_without(item, below, schema.get("items", {}), ""))
        return items
    return value


def _settle_conflicts(
    live: Json, config: Json, owned: Fields, others: list[Json], *, force: bool, schema: Json | None
) -> list[Json]:
    """The other managers' entries without what is taken over from them; raises 409 when that needs force."""
    changed = _changed(live, config, owned, schema or {}, "")
    settled, causes = [], []
    for entry in others:
        taken = _common(changed, entry["fieldsV1"])
        for path in _paths(taken):
            causes.append(
                {
                    "reason": "FieldManagerConflict",
                    "message": f'conflict with "{entry["manager"]}"',
                    "field": path,
                }
            )
        settled.append({**entry, "fieldsV1": _subtract(entry["fieldsV1"], taken)})
    if causes and not force:
        raise StatusError(409, "Conflict", _conflict_message(causes), {"causes": causes})
    return settled


def _conflict_message(causes: list[Json]) -> str:
    """One line for one conflict; else a list of fields under each manager's name."""
    if len(causes) == 1:
        return f"Apply failed with 1 conflict: {causes[0]['message']}: {causes[0]['field']}"
    lines: list[str] = []
    for words in sorted({each["message"] for each in causes}):
        lines.append(f"{words.replace('conflict', 'conflicts', 1)}:")
        lines += [f"- {each['field']}" for each in causes if each["message"] == words]
    return f"Apply failed with {len(causes)} conflicts: " + "\n".join(lines)


def _changed(live: Any, config: Any, owned: Fields, schema: Json, field: str) -> Fields:
    """The leaves of `owned` whose value in `config` is not the one that is live."""
    found: Fields = {}
    for key, below in owned.items():
        if key.startswith("f:") and isinstance(config, dict):
            name = key[2:]
            old = live.get(name) if isinstance(live, dict) else None
            if below:
                rest = _changed(old, config[name], below, _below(schema, name), name)
                if rest:
                    found[key] = rest
            elif old != config[name] and not (config[name] == {} and isinstance(old, dict)):
                found[key] = {}
        elif key.startswith("k:") and isinstance(config, list):
            keys = list(json.loads(key[2:]))
            mine = next(item for item in config if _key_of(item, keys) == key)
            theirs: Json = next((item for item in live or [] if _key_of(item, keys) == key), {})
            rest = _changed(
                theirs, mine, {each: value for each, value in below.items() if each != "."}, schema.get("items", {}), ""
            )
            if rest:
                found[key] = rest
    return found


def _common(fields: Fields, other: Fields) -> Fields:
    found: Fields = {}
    for key, below in fields.items():
        if key not in other:
            continue
        if not below:
            found[key] = {}
        elif other[key]:
            # A map that the other one owns without anything in it is no claim on what is in it.
            rest = _common(below, other[key])
            if rest:
                found[key] = rest
    return found


def _paths(fields: Fields, path: str = "") -> list[str]:
    found = []
    for key, below in fields.items():
        part = f".{key[2:]}" if key.startswith("f:") else f"[{key[2:]}]"
        found += _paths(below, path + part) if below else [path + part]
    return found
