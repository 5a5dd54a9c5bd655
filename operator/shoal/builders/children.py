"""Shared children: the Service of a role, and the Secret with a resource's bearer token."""

from base64 import b64encode
from typing import Any

from shoal.api.labels import MANAGED_BY, MANAGER, PORTS, ROLE, SPEC_HASH, TOKEN_KEY
from shoal.builders.hashing import spec_hash
from shoal.builders.owner import Owner

Manifest = dict[str, Any]


def build_service(owner: Owner, role: str) -> Manifest:
    """A ClusterIP Service in front of the owner's pods of this role."""
    port = PORTS[role]
    spec = {
        "type": "ClusterIP",
        "selector": {MANAGED_BY: MANAGER, ROLE: role, owner.label: owner.name},
        "ports": [{"name": "http", "port": port, "targetPort": port, "protocol": "TCP"}],
    }
    return with_hash(build_child(owner, "v1", "Service", owner.service(role), {"spec": spec}))


def build_token_secret(owner: Owner, token: str, name: str = "") -> Manifest:
    """The Secret that carries the bearer token of this resource's services.

    Args:
        owner: the resource.
        token: the token in clear; created once and never changed by a reconcile.
        name: the Secret's name, where it is not that of the services' own token.
    """
    encoded = b64encode(token.encode()).decode()
    return build_child(owner, "v1", "Secret", name or owner.secret, {"type": "Opaque", "data": {TOKEN_KEY: encoded}})


def build_resource(owner: Owner, api_version: str, kind: str, name: str, spec: Manifest) -> Manifest:
    """A custom resource that another one owns."""
    return with_hash(build_child(owner, api_version, kind, name, {"spec": spec}))


def with_hash(manifest: Manifest) -> Manifest:
    """The manifest with the hash of its content in an annotation, so that an unchanged one is not written again."""
    content = {key: value for key, value in manifest.items() if key != "metadata"}
    annotations = {**manifest["metadata"].get("annotations", {}), SPEC_HASH: spec_hash(content)}
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}


def build_child(owner: Owner, api_version: str, kind: str, name: str, content: Manifest) -> Manifest:
    """An object that the owner controls and garbage collection takes with it; `content` is all but its metadata."""
    metadata = {
        "name": name,
        "namespace": owner.namespace,
        "labels": {MANAGED_BY: MANAGER, owner.label: owner.name},
        "ownerReferences": [owner.reference()],
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}
