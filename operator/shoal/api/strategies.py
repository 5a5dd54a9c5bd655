"""Built-in strategies as the control plane knows them: names and parameters, from a table that their code generates."""

import json
import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shoal.api.markers import Cel

_TABLE: dict[str, dict[str, dict[str, Any]]] = json.loads(Path(__file__).with_name("strategies.json").read_text())


def names(group: str) -> list[str]:
    """The built-in strategies of a group."""
    return sorted(_TABLE[group])


def known_name(field: str, group: str) -> Cel:
    """The rule that a strategy is a built-in one, or has the form of a user's own."""
    listed = ", ".join(f"'{name}'" for name in names(group))
    told = f"must be one of {', '.join(names(group))}, or your own as package:Name"
    return Cel(f"self.{field}.name.contains(':') || self.{field}.name in [{listed}]", told, field_path=f".{field}.name")


def wrong_parameters(group: str, name: str, parameters: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Parameters that a built-in strategy does not take, each with what is wrong; nothing about a user's own."""
    known = _TABLE[group].get(name)
    if known is None:
        return
    for parameter, value in parameters.items():
        if parameter not in known:
            yield parameter, f"unknown parameter; {name} has: {', '.join(sorted(known)) or 'none'}"
        elif wrong := _wrong(value, known[parameter]):
            yield parameter, f"{wrong} (got {value!r})"


_TYPES: dict[str, tuple[type, ...]] = {
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


_BOUNDS: tuple[tuple[str, Callable[[Any, Any], Any], str], ...] = (
    ("minimum", operator.ge, "must be at least"),
    ("exclusiveMinimum", operator.gt, "must be above"),
    ("maximum", operator.le, "must be at most"),
    ("exclusiveMaximum", operator.lt, "must be below"),
)


def _wrong(value: Any, schema: dict[str, Any]) -> str:
    """What is wrong with a value, or ""."""
    if "anyOf" in schema:
        found = [_wrong(value, each) for each in schema["anyOf"]]
        return "" if "" in found else found[0]
    allowed = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if allowed is not None and value not in allowed:
        return f"must be one of {', '.join(map(str, allowed))}"
    kind = schema.get("type")
    if kind is not None and (not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return f"must be of type {kind}"
    for key, holds, words in _BOUNDS:
        if key in schema and not holds(value, schema[key]):
            return f"{words} {schema[key]}"
    return ""
