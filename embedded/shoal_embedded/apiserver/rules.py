"""CEL rules (`x-kubernetes-validations`) of a schema, on an object and, for transition rules, on what it was before."""

from contextlib import suppress
from functools import lru_cache
from typing import Any

import cel

from shoal_embedded.apiserver.schema import cause

Json = dict[str, Any]

_MISSING = object()


@lru_cache(maxsize=4096)
def _program(rule: str) -> Any:
    return cel.compile(rule)


def broken(value: Any, schema: Json, before: Any = _MISSING, path: str = "") -> list[Json]:
    """Causes for the rules that do not hold. A transition rule is checked only where the field was there before."""
    found: list[Json] = []
    for rule in schema.get("x-kubernetes-validations", ()):
        found += _check(rule, value, schema, before, path)
    if isinstance(value, dict):
        for key, child in schema.get("properties", {}).items():
            if value.get(key) is not None:
                old = before.get(key, _MISSING) if isinstance(before, dict) else _MISSING
                found += broken(value[key], child, old, f"{path}.{key}" if path else key)
        found += _broken_in_map(value, schema, before, path)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            found += broken(item, schema["items"], _correlated(item, before, schema), f"{path}[{index}]")
    return found


def _broken_in_map(value: Json, schema: Json, before: Any, path: str) -> list[Json]:
    extra = schema.get("additionalProperties")
    if not isinstance(extra, dict):
        return []
    found: list[Json] = []
    for key in sorted(value.keys() - schema.get("properties", {}).keys()):
        if value[key] is not None:
            old = before.get(key, _MISSING) if isinstance(before, dict) else _MISSING
            found += broken(value[key], extra, old, f"{path}[{key}]")
    return found


def _correlated(item: Any, before: Any, schema: Json) -> Any:
    """The item of the old list with the same keys; other lists have no items that correspond."""
    keys = schema.get("x-kubernetes-list-map-keys")
    if not keys or not isinstance(before, list) or not isinstance(item, dict):
        return _MISSING
    for each in before:
        if all(each.get(key) == item.get(key) for key in keys):
            return each
    return _MISSING


def any_in(schema: Json) -> bool:
    """Whether the schema has a rule anywhere."""
    if schema.get("x-kubernetes-validations"):
        return True
    below = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    return any(any_in(each) for each in below if isinstance(each, dict))


def _check(rule: Json, value: Any, schema: Json, before: Any, path: str) -> list[Json]:
    text = rule["rule"]
    scope = {"self": _typed(value, schema)}
    if "oldSelf" in text:
        if before is _MISSING:
            return []
        scope["oldSelf"] = _typed(before, schema)
    field = path + rule.get("fieldPath", "")
    # Not the value: kube-apiserver names its type here.
    shown = f'Invalid value: "{schema.get("type", "")}": '
    try:
        holds = _program(text).execute(scope)
    except Exception as error:
        why = f"no such key: {error.args[0]}" if isinstance(error, KeyError) else str(error)
        named = rule.get("message") or f"failed rule: {text}"
        return [cause("FieldValueInvalid", field, f"{shown}{why} evaluating rule: {named}")]
    if holds:
        return []
    message = _message(rule, scope)
    if rule.get("reason") == "FieldValueForbidden":
        return [cause("FieldValueForbidden", field, f"Forbidden: {message}")]
    if rule.get("reason") == "FieldValueRequired":
        return [cause("FieldValueRequired", field, f"Required value: {message}")]
    if rule.get("reason") == "FieldValueDuplicate":
        return [cause("FieldValueDuplicate", field, f'Duplicate value: "{schema.get("type", "")}"')]
    return [cause("FieldValueInvalid", field, shown + message)]


def _message(rule: Json, scope: Json) -> str:
    """What the rule says of itself: its expression's text, unless that fails, before its fixed message."""
    if rule.get("messageExpression"):
        with suppress(Exception):
            text = _program(rule["messageExpression"]).execute(scope)
            if isinstance(text, str) and text.strip():
                return text.strip()
    return str(rule.get("message") or f"failed rule: {rule['rule']}")


def _typed(value: Any, schema: Json) -> Any:
    """The value with a float wherever the schema says number: CEL does not mix the two kinds of numbers."""
    if isinstance(value, dict):
        properties, extra = schema.get("properties", {}), schema.get("additionalProperties")
        other = extra if isinstance(extra, dict) else {}
        return {key: _typed(child, properties.get(key, other)) for key, child in value.items()}
    if isinstance(value, list):
        return [_typed(child, schema.get("items") or {}) for child in value]
    if schema.get("type") == "number" and isinstance(value, int):
        return float(value)
    return value
