"""Paths and small objects that the cases share."""

from typing import Any

from tests.embedded.conformance.gadgets import GADGETS, gadget

Json = dict[str, Any]

CORE = "/api/v1/namespaces/{namespace}"
PODS = f"{CORE}/pods"
MAPS = f"{CORE}/configmaps"
SECRETS = f"{CORE}/secrets"
SERVICES = f"{CORE}/services"
EVENTS = f"{CORE}/events"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
HOLD = "example.com/hold"


def config_map(name: str = "m", /, data: dict[str, str] | None = None, **metadata: Any) -> Json:
    """A config map of this name."""
    body: Json = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}}
    return body if data is None else {**body, "data": data}


def marked(called: str, /, **metadata: Any) -> Json:
    """A gadget with more metadata than its name."""
    body = gadget(called)
    return {**body, "metadata": {**body["metadata"], **metadata}}


def pod(name: str, **spec: Any) -> Json:
    """A pod of two containers that stays where it is on both servers: nobody schedules it."""
    containers = [
        {"name": "a", "image": "one", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
        {"name": "b", "image": "two"},
    ]
    body = {"schedulerName": "nobody", "containers": containers, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": body}


def image(name: str, value: str) -> Json:
    """A patch of one container's image."""
    return {"spec": {"containers": [{"name": name, "image": value}]}}


def owner(kind: str, name: str, uid: str, /, **more: Any) -> Json:
    """An owner reference."""
    version = "conformance.shoal.dev/v1" if kind == "Gadget" else "v1"
    return {"apiVersion": version, "kind": kind, "name": name, "uid": uid, **more}


__all__ = ["CORE", "EVENTS", "GADGETS", "HOLD", "LEASES", "MAPS", "PODS", "SECRETS", "SERVICES", "gadget"]
