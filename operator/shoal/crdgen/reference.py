"""The API reference (Markdown), from the same definitions as crds/."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from shoal.api.services.roles.environmentconfig import CONFIGURATIONS
from shoal.api.v1alpha1.common import DURATION, POSITIVE_DURATION
from shoal.crdgen import generate

Json = dict[str, Any]

INTRODUCTION = """\
# API reference

<!-- Generated from operator/shoal/api by `python -m shoal.crdgen --docs docs/reference/api.md`; change the models. -->

Group `{group}`, version `{version}`. `kubectl explain {plural}.spec` prints the same. In paths, `[]` stands for an item
of a list and `{{}}` for a value of a map. A required field has no default; any other field may be left out. A duration
is written like `90s`, `5m`, `1h30m` or `250ms`.
"""

CONFIGURATION_INTRODUCTION = """\
## environment.config

What `spec.environment.config` of a pool (and `config` of a variant, merged over it) may hold. `shoal validate` names
each field that is wrong, and the member does at its start. A protocol of your own takes what its adapter takes.
"""


def page() -> str:
    """The whole page."""
    definitions = generate.definitions()
    first = definitions[0]["spec"]
    head = INTRODUCTION.format(
        group=first["group"], version=first["versions"][0]["name"], plural=first["names"]["plural"]
    )
    kinds = (_kind(definition["spec"]) for definition in definitions)
    configurations = (_configuration(protocol, model) for protocol, model in CONFIGURATIONS.items())
    return "\n".join([head, *kinds, CONFIGURATION_INTRODUCTION, *configurations])


def _configuration(protocol: str, model: type[BaseModel]) -> str:
    rows = "\n".join(_config_rows(model, ""))
    words = (model.__doc__ or "").partition("\n\n")[2].strip()
    about = [" ".join(words.split()), ""] if words else []
    return "\n".join(
        [
            f"### environment.config of {protocol}",
            "",
            *about,
            "| field | default | meaning |",
            "|---|---|---|",
            rows,
            "",
        ]
    )


def _config_rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """One row a field; the fields of a nested model after it."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = next((each for each in options if isinstance(each, type) and issubclass(each, BaseModel)), None)
        default = field.get_default(call_default_factory=True)
        shown = "" if inner is not None or default is None else f"`{json.dumps(default)}`"
        meaning = field.description or " ".join((inner.__doc__ or "").split() if inner is not None else ())
        yield f"| `{path}` | {shown} | {meaning.replace('|', chr(92) + '|')} |"
        if inner is not None:
            yield from _config_rows(inner, f"{path}.")


def _kind(spec: Json) -> str:
    names, version = spec["names"], spec["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    words = [f"plural `{names['plural']}`", *(f"short `{name}`" for name in names.get("shortNames", []))]
    words += [f"category `{name}`" for name in names.get("categories", [])]
    words.append("subresources " + ", ".join(f"`{name}`" for name in version["subresources"]))
    lines = [f"## {names['kind']}", "", schema.get("description", ""), "", f"{'; '.join(words)}.", ""]
    lines += _columns(version["additionalPrinterColumns"])
    for part in ("spec", "status"):
        rows = list(_rows(schema["properties"][part], part, part == "spec"))
        lines += [
            f"### {names['kind']} {part}",
            "",
            "| field | type | default | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    rules = list(_rules(schema, ""))
    if rules:
        lines += [f"### {names['kind']} rules", "", "| where | rule |", "|---|---|", *rules, ""]
    return "\n".join(lines)


def _columns(columns: list[Json]) -> list[str]:
    shown = [
        f"{column['name']} (`{column['jsonPath']}`{', wide' if column.get('priority') else ''})" for column in columns
    ]
    return ["Columns of `kubectl get`: " + ", ".join(shown) + ".", ""] if shown else []


def _rows(schema: Json, path: str, tell_required: bool) -> Iterator[str]:
    """One row for each field below a node, in the order of the models."""
    required = schema.get("required", [])
    for name, node in schema.get("properties", {}).items():
        below = f"{path}.{name}"
        if "default" in node:
            default = f"`{_scalar(node['default'])}`" if not isinstance(node["default"], dict | list) else "see below"
        else:
            default = "**required**" if tell_required and name in required else ""
        yield f"| `{below}` | {_type(node)} | {default} | {_cell(node)} |"
        yield from _rows(node, below, tell_required)
        for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
            if isinstance(node.get(key), dict):
                yield from _rows(node[key], below + mark, tell_required)


def _rules(schema: Json, path: str) -> Iterator[str]:
    """One row for each CEL rule at or below a node."""
    for rule in schema.get("x-kubernetes-validations", []):
        yield f"| `{path or 'object'}` | {_escaped(rule['message'])} |"
    for name, node in schema.get("properties", {}).items():
        yield from _rules(node, f"{path}.{name}" if path else name)
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(key), dict):
            yield from _rules(schema[key], path + mark)


def _type(node: Json) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "integer or text"
    if node.get("x-kubernetes-preserve-unknown-fields"):
        return "object, any fields"
    if node["type"] == "array":
        keys = node.get("x-kubernetes-list-map-keys")
        return f"list of {_type(node['items'])}" + (f", keyed by `{'`, `'.join(keys)}`" if keys else "")
    if "additionalProperties" in node:
        return f"map to {_type(node['additionalProperties'])}"
    if "enum" in node:
        return " \\| ".join(f"`{value}`" for value in node["enum"])
    if node.get("pattern") == POSITIVE_DURATION:
        return "duration > 0"
    return "duration" if node.get("pattern") == DURATION else str(node["type"])


_LIMITS = (
    ("minimum", "at least {}"), ("maximum", "at most {}"), ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"), ("minItems", "at least {} items"), ("maxItems", "at most {} items"),
    ("pattern", "matches `{}`"),
)  # fmt: skip


def _cell(node: Json) -> str:
    """What the field means, and what its value must be."""
    told = {key: value for key, value in node.items() if node.get("pattern") not in (DURATION, POSITIVE_DURATION)}
    limits = ", ".join(words.format(_escaped(str(told[key]))) for key, words in _LIMITS if key in told)
    return " ".join(each for each in (_escaped(node.get("description", "")), f"({limits})" if limits else "") if each)


def _scalar(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
