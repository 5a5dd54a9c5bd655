"""What is served: /api, /apis, resource lists, /version, OpenAPI."""

from base64 import b64encode
from hashlib import sha256
from typing import Any

from shoal_embedded.apiserver.resources import CUSTOM_VERBS, VERBS, Registry, Resource

Json = dict[str, Any]

VERSION = {
    "major": "1",
    "minor": "34",
    "gitVersion": "v1.34.0+shoal",
    "gitCommit": "",
    "gitTreeState": "",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "embedded",
}


def core_versions() -> Json:
    """/api."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_list(registry: Registry) -> Json:
    """/apis."""
    groups = [group(name, versions) for name, versions in registry.groups().items()]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(name: str, versions: list[str]) -> Json:
    """/apis/{group}."""
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": listed, "preferredVersion": listed[0]}


def resource_list(group_version: str, resources: list[Resource]) -> Json:
    """/api/v1 and /apis/{group}/{version}."""
    listed = [entry for resource in resources for entry in _entries(resource)]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}


def _entries(resource: Resource) -> list[Json]:
    main: Json = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(CUSTOM_VERBS if resource.custom else VERBS),
    }
    if resource.short_names:
        main["shortNames"] = list(resource.short_names)
    if resource.categories:
        main["categories"] = list(resource.categories)
    if resource.custom:
        named = f"{resource.group}/{resource.version}/{resource.kind}"
        main["storageVersionHash"] = b64encode(sha256(named.encode()).digest()[:8]).decode()
    entries = [main]
    for name in resource.subresources:
        scale = name == "scale"
        entries.append(
            {
                "name": f"{resource.plural}/{name}",
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": "Scale" if scale else resource.kind,
                "verbs": ["get", "patch", "update"],
                **({"group": "autoscaling", "version": "v1"} if scale else {}),
            }
        )
    if resource.key == "pods":
        log = {"name": "pods/log", "singularName": "", "namespaced": True, "kind": "Pod", "verbs": ["get"]}
        entries.append(log)
    return entries
