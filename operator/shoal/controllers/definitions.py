"""What the served CustomResourceDefinitions lack of what this operator's models know.

Asked through discovery and `/openapi`, which every account may read: a namespaced installation may not read the
definitions themselves.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from shoal.kube.client import KubeClient
from shoal.kube.errors import ForbiddenError, NotFoundError
from shoal.kube.resources import SHOAL_GROUP, SHOAL_VERSION

Json = dict[str, Any]

GROUP_PATH = f"{SHOAL_GROUP}/{SHOAL_VERSION}"

ANYTHING = "x-kubernetes-preserve-unknown-fields"


@dataclass(frozen=True)
class Lack:
    """What is not served: whole resources (plurals), and of those that are, fields and values by plural."""

    missing: frozenset[str] = frozenset()
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


async def find_lack(client: KubeClient, models: Mapping[str, type[BaseModel]]) -> Lack:
    """Compare what is served with the models (by plural). Raises `ApiError` when the server cannot say."""
    try:
        listed = await client.get_path(f"/apis/{GROUP_PATH}")
    except NotFoundError:
        return Lack(frozenset(models))
    except ForbiddenError:  # a cluster that hides discovery; what is refused later tells
        return Lack()
    names = {each["name"] for each in listed.get("resources") or ()}
    schemas = await _schemas(client)
    fields: dict[str, tuple[str, ...]] = {}
    for plural, model in models.items():
        if plural not in names:
            continue
        # A definition made a moment ago is served before its schema is published.
        lacks = lacking(model, schemas[model.__name__]) if model.__name__ in schemas else []
        if f"{plural}/status" not in names:
            lacks.append("the status subresource")
        if lacks:
            fields[plural] = tuple(lacks)
    return Lack(frozenset(models) - names, fields)


async def _schemas(client: KubeClient) -> dict[str, Json]:
    """The served schemas by kind; none where they cannot be read."""
    try:
        document = await client.get_path(f"/openapi/v3/apis/{GROUP_PATH}")
    except (NotFoundError, ForbiddenError):
        return {}
    schemas = (document.get("components") or {}).get("schemas") or {}
    return {
        each["kind"]: schema
        for schema in schemas.values()
        for each in schema.get("x-kubernetes-group-version-kind") or ()
        if each.get("group") == SHOAL_GROUP and each.get("version") == SHOAL_VERSION
    }


def lacking(model: type[BaseModel], served: Json) -> list[str]:
    """Paths of the fields (`spec.scale.buffer`) and values (`spec.backend=Pod`) that the served schema does not know.

    A definition that knows more than the model is no trouble: it is that of a newer operator.
    """
    wanted = model.model_json_schema(by_alias=True)
    top = [name for name in ("spec", "status") if name in wanted["properties"]]
    return [
        path
        for name in top
        for path in _compare(wanted["properties"][name], wanted.get("$defs", {}), _property(served, name), name)
    ]


def _property(schema: Json, name: str) -> Json | None:
    found = (schema.get("properties") or {}).get(name)
    return found if isinstance(found, dict) else None


def _compare(wanted: Json, known: Json, served: Json | None, path: str) -> Iterator[str]:
    wanted = _resolve(wanted, known)
    if served is None:
        yield path
        return
    if served.get(ANYTHING):
        return
    for name, each in (wanted.get("properties") or {}).items():
        yield from _compare(each, known, _property(served, name), f"{path}.{name}")
    for name, mark in (("items", "[]"), ("additionalProperties", "{}")):
        inner, inside = wanted.get(name), served.get(name)
        if isinstance(inner, dict) and isinstance(inside, dict):
            yield from _compare(inner, known, inside, path + mark)
    if "enum" in served:
        yield from (f"{path}={value}" for value in wanted.get("enum") or () if value not in served["enum"])


def _resolve(schema: Json, known: Json) -> Json:
    """Follow references and take `| None` off; of any other union nothing can be compared."""
    while True:
        if "$ref" in schema:
            schema = known[schema["$ref"].rpartition("/")[2]]
        elif len(schema.get("allOf") or ()) == 1:
            schema = schema["allOf"][0]
        elif "anyOf" in schema:
            rest = [each for each in schema["anyOf"] if each.get("type") != "null"]
            if len(rest) != 1:
                return {}
            schema = rest[0]
        else:
            return schema
