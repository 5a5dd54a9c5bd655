"""The scale subresource of custom resources."""

from typing import Any

from shoal_embedded.apiserver.errors import bad_request
from shoal_embedded.apiserver.resources import Resource

Json = dict[str, Any]


def scale_of(resource: Resource, body: Json) -> Json:
    """The object as an autoscaling/v1 Scale."""
    paths, metadata = resource.subresources["scale"], body["metadata"]
    status: Json = {"replicas": _at(body, paths["statusReplicasPath"]) or 0}
    if paths.get("labelSelectorPath"):
        selector = _at(body, paths["labelSelectorPath"])
        status |= {"selector": selector} if selector else {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    replicas = _at(body, paths["specReplicasPath"])
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"replicas": replicas} if replicas is not None else {},
        "status": status,
    }


def scaled(resource: Resource, body: Json, scale: Json) -> Json:
    """The object with the number of replicas that a Scale asks for; raises 400 without one."""
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        raise bad_request(f"spec.replicas: Invalid value: {replicas}: must be a number")
    asked = (scale.get("metadata") or {}).get("resourceVersion")
    version = asked or body["metadata"]["resourceVersion"]
    changed = {**body, "metadata": {**body["metadata"], "resourceVersion": version}}
    parts = resource.subresources["scale"]["specReplicasPath"].strip(".").split(".")
    return _with(changed, parts, replicas)


def _at(body: Any, path: str) -> Any:
    for part in path.strip(".").split("."):
        body = body.get(part) if isinstance(body, dict) else None
    return body


def _with(body: Json, parts: list[str], value: Any) -> Json:
    head, *rest = parts
    return {**body, head: _with(body.get(head) or {}, rest, value) if rest else value}
