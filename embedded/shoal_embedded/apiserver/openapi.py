"""OpenAPI documents: enough for `kubectl explain`, and for kubectl to know that the server validates fields itself."""

from typing import Any

from shoal_embedded.apiserver.resources import Registry, Resource
from shoal_embedded.apiserver.schema import INT_OR_STRING

Json = dict[str, Any]

_VALIDATION = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}


def index(registry: Registry, prefix: str) -> Json:
    """/openapi/v3: where the documents are; `prefix` stands before every path of this server."""
    paths = {"api/v1": {"serverRelativeURL": f"{prefix}/openapi/v3/api/v1"}}
    for group, versions in registry.groups().items():
        for version in versions:
            paths[f"apis/{group}/{version}"] = {"serverRelativeURL": f"{prefix}/openapi/v3/apis/{group}/{version}"}
    return {"paths": paths}


def document(resources: list[Resource]) -> Json:
    """The document of one group in one version."""
    paths: Json = {}
    schemas: Json = dict(META)
    for resource in resources:
        name = _name(resource)
        schemas[name] = _schema(resource)
        paths[_path(resource)] = _operations(resource, name)
    info = {"title": "Kubernetes", "version": "v1.34.0"}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def swagger() -> Json:
    """/openapi/v2: nothing in it; clients of today read version 3."""
    info = {"title": "Kubernetes", "version": "v1.34.0"}
    return {"swagger": "2.0", "info": info, "paths": {}, "definitions": {}}


def _name(resource: Resource) -> str:
    group = ".".join(reversed(resource.group.split("."))) if resource.group else "io.k8s.api.core"
    return f"{group}.{resource.version}.{resource.kind}"


def _path(resource: Resource) -> str:
    root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    return (
        f"{root}/namespaces/{{namespace}}/{resource.plural}/{{name}}"
        if resource.namespaced
        else f"{root}/{resource.plural}/{{name}}"
    )


def _kind(resource: Resource) -> Json:
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}


def _operations(resource: Resource, name: str) -> Json:
    answer = {
        "200": {
            "description": "OK",
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
        }
    }
    operations: Json = {}
    for method, action in (("get", "get"), ("put", "put"), ("patch", "patch"), ("delete", "delete")):
        operation: Json = {
            "responses": answer,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": _kind(resource),
        }
        if method in ("put", "patch"):
            operation["parameters"] = [_VALIDATION]
        operations[method] = operation
    return operations


def _schema(resource: Resource) -> Json:
    schema = _published(resource.schema or {"type": "object", "x-kubernetes-preserve-unknown-fields": True})
    schema = _object(schema) if resource.custom else schema
    return {**schema, "x-kubernetes-group-version-kind": [_kind(resource)]}


_CONVENTIONS = "More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"
_DESCRIPTIONS = {
    "apiVersion": "APIVersion defines the versioned schema of this representation of an object. Servers should convert "
    "recognized schemas to the latest internal value, and may reject unrecognized values. "
    f"{_CONVENTIONS}#resources",
    "kind": "Kind is a string value representing the REST resource this object represents. Servers may infer this from "
    f"the endpoint the client submits requests to. Cannot be updated. In CamelCase. {_CONVENTIONS}#types-kinds",
}
"""Kubernetes' own words on what every object has, as `kubectl explain` shows them."""
_PREFIX = "io.k8s.apimachinery.pkg.apis.meta.v1"


def _reference(name: str, description: str = "") -> Json:
    return {"description": description, "allOf": [{"$ref": f"#/components/schemas/{_PREFIX}.{name}"}], "default": {}}


def _fields(names: tuple[str, ...], type_: str = "string") -> Json:
    return {name: {"type": type_} for name in names}


META: Json = {
    f"{_PREFIX}.FieldsV1": {"type": "object"},
    f"{_PREFIX}.Time": {"type": "string", "format": "date-time"},
    f"{_PREFIX}.ManagedFieldsEntry": {
        "type": "object",
        "properties": {
            **_fields(("apiVersion", "fieldsType", "manager", "operation", "subresource")),
            "fieldsV1": _reference("FieldsV1"),
            "time": _reference("Time"),
        },
    },
    f"{_PREFIX}.OwnerReference": {
        "type": "object",
        "required": ["apiVersion", "kind", "name", "uid"],
        "properties": {
            **_fields(("apiVersion", "kind", "name", "uid")),
            **_fields(("blockOwnerDeletion", "controller"), "boolean"),
        },
    },
    f"{_PREFIX}.ObjectMeta": {
        "type": "object",
        "properties": {
            **_fields(("generateName", "name", "namespace", "resourceVersion", "selfLink", "uid")),
            **_fields(("deletionGracePeriodSeconds", "generation"), "integer"),
            **{key: _reference("Time") for key in ("creationTimestamp", "deletionTimestamp")},
            **{
                key: {"type": "object", "additionalProperties": {"type": "string", "default": ""}}
                for key in ("annotations", "labels")
            },
            "finalizers": {"type": "array", "items": {"type": "string", "default": ""}},
            "managedFields": {"type": "array", "items": _reference("ManagedFieldsEntry")},
            "ownerReferences": {"type": "array", "items": _reference("OwnerReference")},
        },
    },
}
"""Schemas of what every object has."""


def _object(schema: Json) -> Json:
    """A custom resource's schema with what every object has."""
    common: Json = {key: {"type": "string", "description": words} for key, words in _DESCRIPTIONS.items()}
    common["metadata"] = _reference("ObjectMeta", f"Standard object's metadata. {_CONVENTIONS}#metadata")
    return {**schema, "properties": {**schema.get("properties", {}), **common}}


def _published(schema: Json) -> Json:
    """A structural schema as clients are told it: what is an integer or a string says so."""
    shown: Json = {}
    for key, value in schema.items():
        if key == "properties":
            shown[key] = {name: _published(child) for name, child in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            shown[key] = _published(value)
        else:
            shown[key] = value
    if schema.get(INT_OR_STRING):
        shown.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    return shown
