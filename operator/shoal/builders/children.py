"""Shared children: the Service of a role, and the Secrets with a resource's bearer tokens."""

import secrets
from base64 import b64encode
from datetime import datetime
from typing import Any

from shoal.api.labels import (
    MANAGED_BY,
    MANAGER,
    PORTS,
    PREVIOUS_TOKEN_KEY,
    RENEW_TOKEN,
    ROLE,
    SPEC_HASH,
    TOKEN_DIGEST,
    TOKEN_KEY,
    TOKEN_RENEWED_AT,
)
from shoal.api.tokens import token_digest
from shoal.builders.hashing import spec_hash
from shoal.builders.owner import Owner

Manifest = dict[str, Any]


def build_service(owner: Owner, role: str) -> Manifest:
    """A ClusterIP Service in front of the owner's pods of this role."""
    port = PORTS[role]
    spec = {
        "type": "ClusterIP",
        "selector": {ROLE: role, owner.label: owner.name},
        "ports": [{"name": "http", "port": port, "targetPort": port, "protocol": "TCP"}],
    }
    return with_hash(build_child(owner, "v1", "Service", owner.service(role), {"spec": spec}))


def build_tokens(owner: Owner, *roles: str) -> list[Manifest]:
    """The Secrets with the bearer tokens of this resource's services.

    One opens everything; one for each of `roles` opens what that role's pods call. All are made once: of the tokens
    that are drawn at each pass, the first are kept, until a renewal (planner/tokens.py).
    """
    names = [owner.secret, *(owner.secret_for(role) for role in roles)]
    return [_first_token(owner, name, new_token()) for name in names]


def _first_token(owner: Owner, name: str, token: str) -> Manifest:
    content = {"type": "Opaque", "data": {TOKEN_KEY: _encoded(token), PREVIOUS_TOKEN_KEY: ""}}
    secret = build_child(owner, "v1", "Secret", name, content)
    secret["metadata"]["annotations"] = {TOKEN_DIGEST: token_digest(token)}
    return secret


def token_renewed(token: str, former: str, now: datetime) -> Manifest:
    """What to merge into a Secret for another token."""
    annotations = {
        TOKEN_RENEWED_AT: now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        RENEW_TOKEN: None,
        TOKEN_DIGEST: token_digest(token),
    }
    data = {TOKEN_KEY: _encoded(token), PREVIOUS_TOKEN_KEY: _encoded(former)}
    return {"metadata": {"annotations": annotations}, "data": data}


def new_token() -> str:
    """A token of 256 random bits."""
    return secrets.token_urlsafe(32)


def _encoded(token: str) -> str:
    return b64encode(token.encode()).decode()


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
