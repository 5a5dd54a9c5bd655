"""A kind -> its CustomResourceDefinition."""

from typing import Any

from pydantic import BaseModel

from shoal.api.markers import Resource
from shoal.api.v1alpha1.common import GROUP, VERSION
from shoal.crdgen.schema import rule_of, schema_of

Json = dict[str, Any]


def definition_of(kind: type[BaseModel]) -> Json:
    """The whole CustomResourceDefinition of a kind (a model with `resource`, `spec` and `status`)."""
    resource: Resource = kind.resource  # type: ignore[attr-defined]
    names: Json = {
        "kind": resource.kind,
        "listKind": f"{resource.kind}List",
        "plural": resource.plural,
        "singular": resource.singular,
        "shortNames": list(resource.short_names),
        "categories": list(resource.categories),
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {key: value for key, value in names.items() if value},
            "scope": "Namespaced",
            "versions": [_version(kind, resource)],
        },
    }


def _version(kind: type[BaseModel], resource: Resource) -> Json:
    subresources: Json = {"status": {}}
    if resource.scale is not None:
        scale = resource.scale
        paths = {
            "specReplicasPath": scale.spec_path,
            "statusReplicasPath": scale.status_path,
            "labelSelectorPath": scale.selector_path,
        }
        subresources["scale"] = {key: value for key, value in paths.items() if value}
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": subresources,
        "additionalPrinterColumns": [_column(column) for column in resource.columns],
        "schema": {"openAPIV3Schema": _root(kind)},
    }


def _column(column: Any) -> Json:
    written = {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.json_path,
        "description": column.description,
    }
    if column.priority:
        written["priority"] = column.priority
    return {key: value for key, value in written.items() if value is not None}


def _root(kind: type[BaseModel]) -> Json:
    spec = kind.model_fields["spec"].annotation
    status = kind.model_fields["status"].annotation
    assert isinstance(spec, type)
    assert isinstance(status, type)
    schema: Json = {
        "type": "object",
        "description": " ".join((kind.__doc__ or "").split()),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": schema_of(spec, defaults=True, path="spec"),
            "status": schema_of(status, defaults=False, path="status"),
        },
    }
    rules = getattr(kind, "cel", ())
    if rules:
        schema["x-kubernetes-validations"] = [rule_of(rule) for rule in rules]
    return schema
