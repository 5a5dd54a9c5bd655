"""Who owns which field: of what is applied (server-side apply), and of what updates and patches write."""

import json
from typing import Any

from shoal_embedded.apiserver import fields
from shoal_embedded.apiserver.errors import StatusError
from shoal_embedded.apiserver.fields import Path, Paths, Shape

Json = dict[str, Any]

KUBECTL = "kubectl"
"""Manager of `kubectl apply --server-side`."""
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def apply(live: Json | None, config: Json, manager: str, *, force: bool, schema: Json | None, now: str) -> Json:
    """The object after `manager` has applied `config`, with its managed fields; raises 409 for fields of others.

    Args:
        manager: name of the manager, with the subresource after a slash where one is applied to.
    """
    name, _, subresource = manager.partition("/")
    shape = Shape(schema)
    mine = fields.owned(config, shape)
    entry = _entry(name, "Apply", config["apiVersion"], subresource, now)
    if live is None:
        return _with_owners(config, [{**entry, "fieldsV1": fields.encode(mine)}])
    entries = list(live["metadata"].get("managedFields", ()))
    former = next((each for each in entries if _same(each, entry)), None)
    others = [each for each in entries if each is not former]
    merged = _merge(live, config, shape)
    if former is not None:
        kept = mine.union(*(fields.decode(each["fieldsV1"]) for each in others))
        last = fields.decode(former["fieldsV1"])
        merged = _without(merged, _dropped(last, kept, shape), shape, ())
    allowed = _applied_before(live, shape) if name == KUBECTL else set()
    others = _settled(live, merged, others, shape, allowed, force=force)
    merged = _with_last_applied(merged, config) if name == KUBECTL else merged
    encoded = fields.encode(mine)
    if former is not None and former["fieldsV1"] == encoded:
        return _with_owners(merged, [*others, former])
    return _with_owners(merged, [*others, {**entry, "fieldsV1": encoded}])


def written(before: Json, after: Json, manager: str, subresource: str, schema: Json | None, now: str) -> Json:
    """`after` with its managed fields: what differs from `before` belongs to `manager`, and to nobody else.

    Args:
        before: the object as it was, {} with the parts that every object of the kind has for a new one.
        after: the object as it shall be; managed fields in it replace those that were (`[{}]` clears them).
    """
    given = after["metadata"].get("managedFields")
    entries = list(given or before.get("metadata", {}).get("managedFields", ()))
    if given == [{}]:
        entries = []
    changed, removed = fields.compare(before, after, Shape(schema))
    if not changed and not removed:
        return _with_owners(after, entries)
    entry = _entry(manager, "Update", after["apiVersion"], subresource, now)
    kept, mine = [], changed
    for each in entries:
        has = fields.decode(each["fieldsV1"])
        if _same(each, entry):
            mine = (has - removed) | changed
        elif (left := has - removed - changed) != has:
            kept.append({**each, "fieldsV1": fields.encode(left)})
        else:
            kept.append(each)
    return _with_owners(after, [*kept, {**entry, "fieldsV1": fields.encode(mine)}])


def _applied_before(live: Json, shape: Shape) -> Paths:
    """What `kubectl apply` set before it was told to apply on the server, and that nobody changed since: its own."""
    text = (live["metadata"].get("annotations") or {}).get(_LAST_APPLIED)
    try:
        last = json.loads(text) if text else None
    except json.JSONDecodeError:
        return set()
    if not isinstance(last, dict):
        return set()
    changed, removed = fields.compare(last, live, shape)
    return fields.owned(last, shape) - changed - removed


def _with_last_applied(body: Json, config: Json) -> Json:
    """The object with the note that `kubectl apply` reads, where it has one, brought up to date."""
    metadata = body["metadata"]
    notes = metadata.get("annotations") or {}
    if _LAST_APPLIED not in notes:
        return body
    text = json.dumps(config, separators=(",", ":"), sort_keys=True) + "\n"
    return {**body, "metadata": {**metadata, "annotations": {**notes, _LAST_APPLIED: text}}}


def _same(entry: Json, other: Json) -> bool:
    return all(entry.get(key) == other.get(key) for key in ("manager", "operation", "apiVersion", "subresource"))


def _entry(manager: str, operation: str, api_version: str, subresource: str, now: str) -> Json:
    entry = {
        "manager": manager,
        "operation": operation,
        "apiVersion": api_version,
        "time": now,
        "fieldsType": "FieldsV1",
    }
    return {**entry, "subresource": subresource} if subresource else entry


def _with_owners(body: Json, entries: list[Json]) -> Json:
    metadata = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
    kept = [entry for entry in entries if entry["fieldsV1"]]
    return {**body, "metadata": {**metadata, "managedFields": kept} if kept else metadata}


def _merge(live: Any, config: Any, shape: Shape) -> Any:
    """The live value with the configuration's put over it."""
    was, now = shape.split(live), shape.split(config)
    if was is None or now is None or type(live) is not type(config):
        return config
    if isinstance(config, dict):
        merged = {**live}
        for key, value in config.items():
            merged[key] = _merge(live[key], value, shape.child(key)) if key in live else value
        return merged
    if not now:
        return live
    both = {word: _merge(was[word], item, shape.items()) if word in was else item for word, item in now.items()}
    return list(_ordered(was, both).values())


def _ordered(was: Json, now: Json) -> Json:
    """Items in the order of the applied ones; items that only were before come as early as they can."""
    result: Json = {}
    waiting = list(was)
    for word, item in now.items():
        while waiting and waiting[0] not in now:
            left = waiting.pop(0)
            result[left] = was[left]
        if word in was:
            waiting.remove(word)
        result[word] = item
    return {**result, **{word: was[word] for word in waiting if word not in result}}


def _dropped(last: Paths, kept: Paths, shape: Shape) -> Paths:
    """What a manager no longer sets and nobody else does; with structs that have nothing left in them."""
    leading = {path for path in fields.prefixes(last) if path in last or _is_field(path, shape)}
    return leading - fields.prefixes(kept)


def _is_field(path: Path, shape: Shape) -> bool:
    for word in path[:-1]:
        shape = shape.below(word)
    return path[-1].startswith("f:") and shape.declared(path[-1][2:])


def _without(value: Any, dropped: Paths, shape: Shape, path: Path) -> Any:
    parts = shape.split(value)
    if parts is None:
        return value
    kept = {
        word: _without(part, dropped, shape.below(word), (*path, word))
        for word, part in parts.items()
        if (*path, word) not in dropped
    }
    return {word[2:]: part for word, part in kept.items()} if isinstance(value, dict) else list(kept.values())


def _settled(live: Json, merged: Json, others: list[Json], shape: Shape, allowed: Paths, *, force: bool) -> list[Json]:
    """The other managers' entries without what is taken over from them; raises 409 when that needs force.

    Args:
        allowed: what may be taken over without force, if that is all.
    """
    changed, removed = fields.compare(live, merged, shape)
    settled, causes, wanted = [], [], set()
    for entry in others:
        has = fields.decode(entry["fieldsV1"])
        taken = has & changed
        wanted |= taken
        causes += [_cause(entry, path) for path in sorted(taken, key=fields.shown)]
        left = has - taken - removed
        settled.append(entry if left == has else {**entry, "fieldsV1": fields.encode(left)})
    if wanted - allowed and not force:
        raise StatusError(409, "Conflict", _conflict_message(causes), {"causes": causes})
    return settled


def _cause(entry: Json, path: Path) -> Json:
    who = f'conflict with "{entry["manager"]}"'
    if entry.get("subresource"):
        who += f' with subresource "{entry["subresource"]}"'
    if entry["operation"] == "Update":
        who += f" using {entry['apiVersion']}"
    return {"reason": "FieldManagerConflict", "message": who, "field": fields.shown(path)}


def _conflict_message(causes: list[Json]) -> str:
    """One line for one conflict; else a list of fields under each manager's name."""
    if len(causes) == 1:
        return f"Apply failed with 1 conflict: {causes[0]['message']}: {causes[0]['field']}"
    lines: list[str] = []
    for words in sorted({each["message"] for each in causes}):
        lines.append(f"{words.replace('conflict', 'conflicts', 1)}:")
        lines += [f"- {each['field']}" for each in causes if each["message"] == words]
    return f"Apply failed with {len(causes)} conflicts: " + "\n".join(lines)
