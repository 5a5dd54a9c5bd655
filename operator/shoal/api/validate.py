"""Checks a manifest as the API server would, without one: schema and rules from the same models.

Rules that compare with an older object are left to the API server, which alone has one.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cel
from pydantic import BaseModel, ValidationError

from shoal.api.base import ApiModel
from shoal.api.markers import Cel, ListMap, StrategyGroup
from shoal.api.services.roles.environmentconfig import wrong_config
from shoal.api.strategies import wrong_parameters
from shoal.api.v1alpha1 import API_VERSION, GROUP, KINDS
from shoal.api.v1alpha1.common import Strategy
from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec

Json = dict[str, Any]


LARGEST_SPEC = 1_400_000
"""Bytes of a spec: etcd refuses a request of 1.5 MiB, and the API server adds its own records to the object."""
_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
"""RFC 1123, as Kubernetes has names."""
_METADATA = frozenset(
    (
        *("name", "generateName", "namespace", "labels", "annotations", "finalizers", "ownerReferences", "uid"),
        *("resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
        *("managedFields", "selfLink"),
    )
)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where."""

    path: str
    message: str


def validate_manifest(document: Json) -> list[Problem]:
    """Everything that is wrong with a manifest of Shoal's; nothing about objects of other groups, see `is_ours`."""
    api_version, kind = str(document.get("apiVersion", "")), str(document.get("kind", ""))
    if not is_ours(document):
        return []
    if api_version != API_VERSION:
        return [Problem("apiVersion", f"{api_version!r} is not served; use {API_VERSION}")]
    model = next((each for each in KINDS if each.resource.kind == kind), None)
    if model is None:
        return [Problem("kind", f"{kind!r} is not one of {', '.join(each.resource.kind for each in KINDS)}")]
    unknown = set(document) - {"apiVersion", "kind", "metadata", "spec", "status"}
    if unknown:
        return [Problem(name, "unknown field") for name in sorted(unknown)]
    if not isinstance(document.get("spec"), dict):
        return [Problem("spec", "is required and must be an object")]
    spec_model = model.model_fields["spec"].annotation
    assert isinstance(spec_model, type)
    assert issubclass(spec_model, ApiModel)
    try:
        spec = spec_model.model_validate(document["spec"])
    except ValidationError as error:
        return [Problem(_path("spec", each["loc"]), _words(each)) for each in error.errors()]
    size = len(json.dumps(document["spec"], separators=(",", ":"), ensure_ascii=False, default=str).encode())
    if size > LARGEST_SPEC:
        words = f"has {size:,} bytes, and the API server takes {LARGEST_SPEC:,}: put tasks into data.tasks.file"
        return [Problem("spec", words)]
    metadata = document.get("metadata") or {}
    if problems := list(_metadata(metadata)):
        return problems
    return [*_broken(model.cel, {"metadata": metadata, "spec": spec.to_json()}, ""), *_walk(spec, "spec")]


def is_ours(document: Json) -> bool:
    """Whether the manifest is of Shoal's API group."""
    return str(document.get("apiVersion", "")).partition("/")[0] == GROUP


def _metadata(metadata: Any) -> Iterator[Problem]:
    """What is wrong with the part that all kinds share."""
    if not isinstance(metadata, dict):
        yield Problem("metadata", "must be an object")
        return
    name = metadata.get("name")
    if not isinstance(name, str) or len(name) > 253 or not re.fullmatch(_SUBDOMAIN, name):
        yield Problem("metadata.name", f"must be lower-case letters, digits, '-' and '.' (got {name!r})")
    for field in sorted(set(metadata) - _METADATA):
        yield Problem(f"metadata.{field}", "unknown field")
    for field in ("labels", "annotations"):
        entries = metadata.get(field) or {}
        if not isinstance(entries, dict):
            yield Problem(f"metadata.{field}", "must be an object")
            continue
        for key, value in entries.items():
            if not isinstance(value, str):
                yield Problem(f"metadata.{field}.{key}", f"must be text (got {value!r})")


def _walk(value: Any, path: str) -> Iterator[Problem]:
    """Broken rules of a model and of everything below it."""
    if isinstance(value, EnvironmentPoolSpec):
        yield from _environment(value, path)
    if isinstance(value, ApiModel):
        yield from _broken(getattr(value, "cel", ()), value.to_json(), path)
        for name, info in type(value).model_fields.items():
            below = f"{path}.{info.alias or name}"
            for mark in info.metadata:
                if isinstance(mark, ListMap):
                    yield from _duplicates(getattr(value, name), mark.keys, below)
                if isinstance(mark, StrategyGroup):
                    yield from _parameters(getattr(value, name), mark.name, f"{below}.parameters")
            yield from _walk(getattr(value, name), below)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, f"{path}[{index}]")


def _environment(spec: EnvironmentPoolSpec, path: str) -> Iterator[Problem]:
    """What the adapter of a built-in protocol would refuse in `environment.config` and the variants' over it."""
    protocol, config = spec.environment.protocol, spec.environment.config
    base = wrong_config(protocol, config)
    yield from (Problem(f"{path}.environment.config.{field}", words) for field, words in base)
    for index, variant in enumerate(spec.variants):
        for field, words in wrong_config(protocol, {**config, **variant.config}):
            if (field, words) not in base:
                yield Problem(f"{path}.variants[{index}].config.{field}", words)


def _duplicates(items: list[ApiModel], keys: tuple[str, ...], path: str) -> Iterator[Problem]:
    seen = set()
    for index, item in enumerate(items):
        key = tuple(getattr(item, each) for each in keys)
        if key in seen:
            yield Problem(f"{path}[{index}]", f"duplicate entry {', '.join(map(str, key))}")
        seen.add(key)


def _parameters(strategy: Strategy, group: str, path: str) -> Iterator[Problem]:
    for parameter, words in wrong_parameters(group, strategy.name, strategy.parameters):
        yield Problem(f"{path}.{parameter}", words)


def _broken(rules: tuple[Cel, ...], value: Json, path: str) -> Iterator[Problem]:
    for rule in rules:
        if "oldSelf" not in rule.rule and not cel.evaluate(rule.rule, {"self": value}):
            yield Problem((path + (rule.field_path or "")) or "metadata.name", rule.message)


def _path(root: str, location: tuple[int | str, ...]) -> str:
    text = root
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text


def _words(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown field"
    given = error.get("input")
    if error["type"] == "string_type" and isinstance(given, int | float) and not isinstance(given, bool):
        return f'must be text: put the number in quotes, "{given}"'
    shown = "" if isinstance(given, dict | list | BaseModel) or error["type"] == "missing" else f" (got {given!r})"
    return f"{error['msg']}{shown}"
