"""Structural schemas at work: pruning, defaulting, validation; in the words of kube-apiserver."""

import re
from copy import deepcopy
from typing import Any

from shoal_embedded.apiserver import formats

Json = dict[str, Any]

PRESERVE = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
_BLOCKING = frozenset(f"FieldValue{each}" for each in ("NotSupported", "Required", "TooLong", "TooMany", "TypeInvalid"))
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
        return kept, sorted(unknown)
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
            elif key in filled and filled[key] is None and not child.get("nullable"):
                # Null stands for nothing where it is no value.
                del filled[key]
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
    wanted = ["integer", "string"] if schema.get(INT_OR_STRING) else [schema["type"]] if "type" in schema else []
    found = _combined(value, schema, path)
    if wanted and not any(_is(value, each) for each in wanted):
        shown = _name(value)
        message = f'Invalid value: "{shown}": {path} in body must be of type {",".join(wanted)}: "{shown}"'
        bounds = _number(value, schema, path) if _is(value, "number") else []
        return [cause("FieldValueTypeInvalid", path, message), *found, *bounds]
    if isinstance(value, dict):
        found += _object(value, schema, path)
    elif isinstance(value, list):
        found += _list(value, schema, path)
    elif isinstance(value, str):
        found += _string(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found += _number(value, schema, path)
    return found


def is_blocking(found: list[Json]) -> bool:
    """Whether rules cannot be checked, because what they read may be missing, too much or of another type."""
    return any(each["reason"] in _BLOCKING for each in found)


def _combined(value: Any, schema: Json, path: str) -> list[Json]:
    """What anyOf, oneOf, allOf and not have against the value; of a choice that fails also why its first part does."""
    found = [each for part in schema.get("allOf", ()) for each in validate(value, part, path)]
    if "not" in schema and not validate(value, schema["not"], path):
        found.append(_of_choice(f'"{path}" must not validate the schema (not)'))
    if schema.get("anyOf"):
        tried = [validate(value, part, path) for part in schema["anyOf"]]
        if all(tried):
            found += [_of_choice(f'"{path}" must validate at least one schema (anyOf)'), *tried[0]]
    if schema.get("oneOf"):
        tried = [validate(value, part, path) for part in schema["oneOf"]]
        count = sum(not each for each in tried)
        words = f'"{path}" must validate one and only one schema (oneOf). Found'
        if count > 1:
            found.append(_of_choice(f"{words} {count} valid alternatives"))
        elif count == 0:
            found += [_of_choice(f"{words} none valid"), *tried[0]]
    return found


def _of_choice(words: str) -> Json:
    return cause("FieldValueInvalid", "", f'Invalid value: "": {words}')


def cause(reason: str, path: str, message: str) -> Json:
    """One cause of a refusal."""
    return {"reason": reason, "message": message, "field": path or "<nil>"}


def _is(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted == "boolean"
    if wanted == "integer" and isinstance(value, float):
        return value.is_integer()
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
    most, least = schema.get("maxProperties"), schema.get("minProperties", 0)
    if most is not None and len(value) > most:
        found.append(cause("FieldValueTooMany", path, f"Too many: {len(value)}: must have at most {most} items"))
    if len(value) < least:
        message = f"Invalid value: {len(value)}: {path} in body should have at least {least} properties"
        found.append(cause("FieldValueInvalid", path, message))
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
    found += _shape(value, schema, path)
    if "format" in schema and not formats.fits(value, schema["format"]):
        message = f'Invalid value: "{value}": {path} in body must be of type {schema["format"]}: "{value}"'
        found.append(cause("FieldValueTypeInvalid", path, message))
    return found


def _shape(value: str, schema: Json, path: str) -> list[Json]:
    """Length and pattern; only the first that is wrong is told."""
    if len(value) > schema.get("maxLength", len(value)):
        message = f"Too long: may not be more than {schema['maxLength']} bytes"
        return [cause("FieldValueTooLong", path, message)]
    if len(value) < schema.get("minLength", 0):
        message = f'Invalid value: "{value}": {path} in body should be at least {schema["minLength"]} chars long'
        return [cause("FieldValueInvalid", path, message)]
    if "pattern" in schema and not re.search(schema["pattern"], value):
        message = f"Invalid value: \"{value}\": {path} in body should match '{schema['pattern']}'"
        return [cause("FieldValueInvalid", path, message)]
    return []


def _number(value: float, schema: Json, path: str) -> list[Json]:
    found = []

    def refuse(words: str) -> None:
        found.append(cause("FieldValueInvalid", path, f"Invalid value: {value}: {path} in body should be {words}"))

    least, most, step = schema.get("minimum"), schema.get("maximum"), schema.get("multipleOf")
    if least is not None and schema.get("exclusiveMinimum"):
        if value <= least:
            refuse(f"greater than {least}")
    elif least is not None and value < least:
        refuse(f"greater than or equal to {least}")
    if most is not None and schema.get("exclusiveMaximum"):
        if value >= most:
            refuse(f"less than {most}")
    elif most is not None and value > most:
        refuse(f"less than or equal to {most}")
    if step and not _is_multiple(value, step):
        refuse(f"a multiple of {step}")
    return found


def _is_multiple(value: float, step: float) -> bool:
    return abs(value / step - round(value / step)) < 1e-9


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _go_map(mark: Any) -> str:
    if isinstance(mark, dict):
        return "{" + ",".join(f'"{key}":"{value}"' for key, value in mark.items()) + "}"
    return f'"{mark}"' if isinstance(mark, str) else str(mark)
