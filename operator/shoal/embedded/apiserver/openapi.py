"""OpenAPI documents: enough for `kubectl explain`, and for kubectl to know that the server validates fields itself."""

from typing import Any

from shoal.embedded.apiserver.resources import Registry, Resource
from shoal.embedded.apiserver.schema import INT_OR_STRING

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
    schemas: Json = {}
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
    return {**schema, "x-kubernetes-group-version-kind": [_kind(resource)]}


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
