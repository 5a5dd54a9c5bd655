"""CEL rules (`x-kubernetes-validations`) of a schema, on an object and, for transition rules, on what it was before."""

from functools import lru_cache
from typing import Any

import cel

from shoal.embedded.apiserver.schema import INT_OR_STRING, cause

Json = dict[str, Any]

_MISSING = object()
_REASONS = {"FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"}


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
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            found += broken(item, schema["items"], _correlated(item, before, schema), f"{path}[{index}]")
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


def _check(rule: Json, value: Any, schema: Json, before: Any, path: str) -> list[Json]:
    text = rule["rule"]
    scope = {"self": value}
    if "oldSelf" in text:
        if before is _MISSING:
            return []
        scope["oldSelf"] = before
    field = path + rule.get("fieldPath", "")
    shown = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else str(value).lower()
    quoted = f'"{shown}"' if not isinstance(value, bool | int) or schema.get(INT_OR_STRING) else shown
    try:
        holds = _program(text).execute(scope)
    except Exception as error:
        return [cause("FieldValueInvalid", field, f"Invalid value: {quoted}: rule {text!r} failed: {error}")]
    if holds:
        return []
    reason = rule.get("reason", "FieldValueInvalid")
    message = rule.get("message", f"failed rule: {text}")
    word = "Forbidden: " if reason == "FieldValueForbidden" else f"Invalid value: {quoted}: "
    return [cause(reason if reason in _REASONS else "FieldValueInvalid", field, word + message)]
