"""Structural schemas at work: pruning, defaulting, validation; in the words of kube-apiserver."""

import re
from copy import deepcopy
from typing import Any

Json = dict[str, Any]

PRESERVE = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def prune(value: Any, schema: Json, path: str = "") -> tuple[Any, list[str]]:
    """The value without fields that the schema does not know, and their paths."""
    unknown: list[str] = []
    if isinstance(value, dict):
        properties, extra = schema.get("properties", {}), schema.get("additionalProperties")
        kept: Json = {}
        for key, child in value.items():
            below = f"{path}.{key}" if path else key
            known = properties.get(key) or (extra if isinstance(extra, dict) else None)
            if known is None:
                if schema.get(PRESERVE) or not schema or extra is True:
                    kept[key] = child
                else:
                    unknown.append(below)
                continue
            kept[key], more = prune(child, known, below)
            unknown += more
        return kept, unknown
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        items = []
        for index, child in enumerate(value):
            item, more = prune(child, schema["items"], f"{path}[{index}]")
            items.append(item)
            unknown += more
        return items, unknown
    return value, unknown


def default(value: Any, schema: Json) -> Any:
    """The value with the schema's defaults where something is missing, level by level."""
    if isinstance(value, dict):
        filled = dict(value)
        for key, child in schema.get("properties", {}).items():
            if filled.get(key) is None and "default" in child:
                filled[key] = deepcopy(child["default"])
            if key in filled:
                filled[key] = default(filled[key], child)
        extra = schema.get("additionalProperties")
        if isinstance(extra, dict):
            for key in filled:
                if key not in schema.get("properties", {}):
                    filled[key] = default(filled[key], extra)
        return filled
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        return [default(child, schema["items"]) for child in value]
    return value


def validate(value: Any, schema: Json, path: str = "") -> list[Json]:
    """Causes for which the value does not fit; empty when it does. Rules (CEL) are checked elsewhere."""
    if schema.get(INT_OR_STRING):
        return _int_or_string(value, schema, path)
    wanted = schema.get("type")
    if wanted is not None and not _is(value, wanted):
        shown = _name(value)
        message = f'Invalid value: "{shown}": {path} in body must be of type {wanted}: "{shown}"'
        return [cause("FieldValueTypeInvalid", path, message)]
    found: list[Json] = []
    if isinstance(value, dict):
        found += _object(value, schema, path)
    elif isinstance(value, list):
        found += _list(value, schema, path)
    elif isinstance(value, str):
        found += _string(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found += _number(value, schema, path)
    return found


def cause(reason: str, path: str, message: str) -> Json:
    """One cause of a refusal."""
    return {"reason": reason, "message": message, "field": path or "<nil>"}


def _is(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted == "boolean"
    return isinstance(value, _TYPES[wanted])


def _name(value: Any) -> str:
    if value is None:
        return "null"
    for name in ("boolean", "integer", "number", "string", "array", "object"):
        if _is(value, name):
            return name
    return type(value).__name__


def _object(value: Json, schema: Json, path: str) -> list[Json]:
    found = []
    for key in schema.get("required", ()):
        if value.get(key) is None:
            found.append(cause("FieldValueRequired", _join(path, key), "Required value"))
    for key, child in value.items():
        known = schema.get("properties", {}).get(key)
        extra = schema.get("additionalProperties")
        if known is None and isinstance(extra, dict):
            known = extra
        if known is not None and child is not None:
            found += validate(child, known, _join(path, key))
    return found


def _list(value: list[Any], schema: Json, path: str) -> list[Json]:
    found = []
    if len(value) > schema.get("maxItems", len(value)):
        found.append(
            cause("FieldValueTooMany", path, f"Too many: {len(value)}: must have at most {schema['maxItems']} items")
        )
    if len(value) < schema.get("minItems", 0):
        message = f"Invalid value: {len(value)}: {path} in body should have at least {schema['minItems']} items"
        found.append(cause("FieldValueInvalid", path, message))
    keys, seen = schema.get("x-kubernetes-list-map-keys"), []
    for index, item in enumerate(value):
        if isinstance(schema.get("items"), dict):
            found += validate(item, schema["items"], f"{path}[{index}]")
        mark = {key: item.get(key) for key in keys} if keys and isinstance(item, dict) else item
        if schema.get("x-kubernetes-list-type") in ("map", "set") and mark in seen:
            found.append(cause("FieldValueDuplicate", f"{path}[{index}]", f"Duplicate value: {_go_map(mark)}"))
        seen.append(mark)
    return found


def _string(value: str, schema: Json, path: str) -> list[Json]:
    found = []
    if "enum" in schema and value not in schema["enum"]:
        allowed = ", ".join(f'"{each}"' for each in schema["enum"])
        found.append(
            cause("FieldValueNotSupported", path, f'Unsupported value: "{value}": supported values: {allowed}')
        )
    if "pattern" in schema and not re.search(schema["pattern"], value):
        message = f"Invalid value: \"{value}\": {path} in body should match '{schema['pattern']}'"
        found.append(cause("FieldValueInvalid", path, message))
    if len(value) > schema.get("maxLength", len(value)):
        message = f"Too long: may not be more than {schema['maxLength']} bytes"
        found.append(cause("FieldValueTooLong", path, message))
    if len(value) < schema.get("minLength", 0):
        message = f'Invalid value: "{value}": {path} in body should be at least {schema["minLength"]} chars long'
        found.append(cause("FieldValueInvalid", path, message))
    return found


def _number(value: float, schema: Json, path: str) -> list[Json]:
    found = []
    if value < schema.get("minimum", value):
        word = "greater than or equal to"
        message = f"Invalid value: {value}: {path} in body should be {word} {schema['minimum']}"
        found.append(cause("FieldValueInvalid", path, message))
    if value > schema.get("maximum", value):
        word = "less than or equal to"
        message = f"Invalid value: {value}: {path} in body should be {word} {schema['maximum']}"
        found.append(cause("FieldValueInvalid", path, message))
    return found


def _int_or_string(value: Any, schema: Json, path: str) -> list[Json]:
    if isinstance(value, str):
        return _string(value, schema, path)
    if isinstance(value, int) and not isinstance(value, bool):
        return _number(value, schema, path)
    message = f'Invalid value: "{_name(value)}": {path} in body must be of type integer or string: "{_name(value)}"'
    return [cause("FieldValueTypeInvalid", path, message)]


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _go_map(mark: Any) -> str:
    if isinstance(mark, dict):
        return "{" + ",".join(f'"{key}":"{value}"' for key, value in mark.items()) + "}"
    return f'"{mark}"' if isinstance(mark, str) else str(mark)
