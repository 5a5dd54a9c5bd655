"""Tables, as `kubectl get` prints them: the server's own for some built-in kinds, printer columns for custom ones."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from shoal_embedded.apiserver.resources import CRDS, Resource

Json = dict[str, Any]
Cells = Callable[[Json], list[Any]]


def table(resource: Resource, items: list[Json], list_metadata: Json, include: str = "") -> Json:
    """A meta.k8s.io Table of these objects.

    Args:
        include: what the rows hold of the objects: "Object" all, "None" nothing, else their metadata.
    """
    definitions, cells = _columns(resource)
    shown: Callable[[Json], Any] = {"Object": lambda body: body, "None": lambda body: None}.get(include, partial)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "columnDefinitions": definitions,
        "rows": [{"cells": cells(body), "object": shown(body)} for body in items],
    }


def partial(body: Json) -> Json:
    """The object's metadata alone."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": body["metadata"]}


def _definition(name: str, type_: str = "string", priority: int = 0) -> Json:
    return {
        "name": name,
        "type": type_,
        "format": "name" if name == "Name" else "",
        "description": "",
        "priority": priority,
    }


def age(timestamp: str | None) -> str:
    """How long ago, as kubectl writes it: 5s, 3m10s, 2h, 4d."""
    if not timestamp:
        return "<unknown>"
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(timestamp.replace("Z", "+00:00"))).total_seconds())
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{max(0, seconds)}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    return f"{days}d{hours % 24}h" if days < 8 and hours % 24 else f"{days}d"


def _columns(resource: Resource) -> tuple[list[Json], Cells]:
    if resource.key in _BUILTIN:
        return _BUILTIN[resource.key]
    if resource.columns:
        heads = [_definition("Name")]
        heads += [_definition(each["name"], each["type"], each.get("priority", 0)) for each in resource.columns]
        return heads, lambda body: [body["metadata"]["name"], *(_cell(body, each) for each in resource.columns)]
    heads = [_definition("Name"), _definition("Age")]
    return heads, lambda body: [body["metadata"]["name"], age(body["metadata"].get("creationTimestamp"))]


def _cell(body: Json, column: Json) -> Any:
    values = json_path(body, column["jsonPath"])
    if not values:
        return None
    if column["type"] == "date":
        return age(values[0])
    if column["type"] == "string" and not isinstance(values[0], str):
        return json.dumps(values[0], separators=(",", ":"))
    return values[0]


_STEP = re.compile(r"\.([A-Za-z0-9_-]+)|\[\?\(@\.([A-Za-z0-9_.-]+)==[\"']([^\"']*)[\"']\)\]|\[(\d+|\*)\]|\['([^']+)'\]")


def json_path(body: Any, path: str) -> list[Any]:
    """What a JSONPath of printer columns finds: names, indexes, `[*]` and filters by equality."""
    found = [body]
    for name, field, wanted, index, quoted in _STEP.findall(path):
        if name or quoted:
            found = [each[name or quoted] for each in found if isinstance(each, dict) and (name or quoted) in each]
        elif field:
            items = [item for each in found if isinstance(each, list) for item in each]
            found = [item for item in items if str(item.get(field)) == wanted]
        elif index == "*":
            found = [item for each in found if isinstance(each, list) for item in each]
        else:
            found = [each[int(index)] for each in found if isinstance(each, list) and int(index) < len(each)]
    return found


def _pod_cells(body: Json) -> list[Any]:
    status, spec = body.get("status", {}), body.get("spec", {})
    containers = status.get("containerStatuses", [])
    ready = sum(1 for each in containers if each.get("ready"))
    restarts = sum(each.get("restartCount", 0) for each in containers)
    return [
        body["metadata"]["name"],
        f"{ready}/{len(spec.get('containers', []))}",
        _pod_status(body),
        str(restarts),
        age(body["metadata"].get("creationTimestamp")),
        status.get("podIP") or "<none>",
        spec.get("nodeName") or "<none>",
        "<none>",
        "<none>",
    ]


def _pod_status(body: Json) -> str:
    if "deletionTimestamp" in body["metadata"]:
        return "Terminating"
    status = body.get("status", {})
    for each in status.get("containerStatuses", []):
        state = each.get("state", {})
        for kind in ("waiting", "terminated"):
            reason = (state.get(kind) or {}).get("reason")
            if reason:
                return str(reason)
    return str(status.get("reason") or status.get("phase", "Unknown"))


def _service_cells(body: Json) -> list[Any]:
    spec = body.get("spec", {})
    ports = ",".join(f"{port['port']}/{port.get('protocol', 'TCP')}" for port in spec.get("ports", []))
    selector = ",".join(f"{key}={value}" for key, value in (spec.get("selector") or {}).items())
    created = age(body["metadata"].get("creationTimestamp"))
    address = spec.get("clusterIP", "<none>")
    return [
        body["metadata"]["name"],
        spec.get("type"),
        address,
        "<none>",
        ports or "<none>",
        created,
        selector or "<none>",
    ]


def _node_cells(body: Json) -> list[Any]:
    conditions = {each["type"]: each["status"] for each in body.get("status", {}).get("conditions", [])}
    info = body.get("status", {}).get("nodeInfo", {})
    state = "Ready" if conditions.get("Ready") == "True" else "NotReady"
    created = age(body["metadata"].get("creationTimestamp"))
    return [body["metadata"]["name"], state, "<none>", created, info.get("kubeletVersion", "")]


def _event_cells(body: Json) -> list[Any]:
    about = body.get("involvedObject", {})
    source = body.get("source") or {}
    named = f"{about.get('kind', '').lower()}/{about.get('name', '')}"
    first = age(body.get("firstTimestamp") or body.get("eventTime"))
    last = age(body.get("lastTimestamp")) if body.get("lastTimestamp") else first
    by = ", ".join(filter(None, (source.get("component") or body.get("reportingComponent"), source.get("host"))))
    head = [last, body.get("type", ""), body.get("reason", ""), named, about.get("fieldPath", ""), by]
    return [*head, body.get("message", "").strip(), first, body.get("count") or 1, body["metadata"]["name"]]


def _account_cells(body: Json) -> list[Any]:
    created = age(body["metadata"].get("creationTimestamp"))
    return [body["metadata"]["name"], len(body.get("secrets") or ()), created]


def _lease_cells(body: Json) -> list[Any]:
    created = age(body["metadata"].get("creationTimestamp"))
    return [body["metadata"]["name"], (body.get("spec") or {}).get("holderIdentity", ""), created]


def _definition_cells(body: Json) -> list[Any]:
    return [body["metadata"]["name"], body["metadata"].get("creationTimestamp")]


def _namespace_cells(body: Json) -> list[Any]:
    created = age(body["metadata"].get("creationTimestamp"))
    return [body["metadata"]["name"], body.get("status", {}).get("phase", "Active"), created]


def _data_cells(body: Json) -> list[Any]:
    created = age(body["metadata"].get("creationTimestamp"))
    return [body["metadata"]["name"], len(body.get("data") or {}), created]


def _secret_cells(body: Json) -> list[Any]:
    name, count, created = _data_cells(body)
    return [name, body.get("type", "Opaque"), count, created]


_POD_HEADS = [
    *(_definition(name) for name in ("Name", "Ready", "Status", "Restarts", "Age")),
    *(_definition(name, priority=1) for name in ("IP", "Node", "Nominated Node", "Readiness Gates")),
]
_SERVICE_HEADS = [
    *(_definition(name) for name in ("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age")),
    _definition("Selector", priority=1),
]


_EVENT_HEADS = [
    *(_definition(name) for name in ("Last Seen", "Type", "Reason", "Object")),
    *(_definition(name, priority=1) for name in ("Subobject", "Source")),
    _definition("Message"),
    *(_definition(name, priority=1) for name in ("First Seen", "Count", "Name")),
]


def _heads(*names: str) -> list[Json]:
    return [_definition(name) for name in names]


_BUILTIN: dict[str, tuple[list[Json], Cells]] = {
    "pods": (_POD_HEADS, _pod_cells),
    "services": (_SERVICE_HEADS, _service_cells),
    "nodes": (_heads("Name", "Status", "Roles", "Age", "Version"), _node_cells),
    "events": (_EVENT_HEADS, _event_cells),
    "serviceaccounts": (_heads("Name", "Secrets", "Age"), _account_cells),
    "leases.coordination.k8s.io": (_heads("Name", "Holder", "Age"), _lease_cells),
    f"{CRDS}.apiextensions.k8s.io": ([_definition("Name"), _definition("Created At", "date")], _definition_cells),
    "namespaces": (_heads("Name", "Status", "Age"), _namespace_cells),
    "configmaps": (_heads("Name", "Data", "Age"), _data_cells),
    "secrets": (_heads("Name", "Type", "Data", "Age"), _secret_cells),
}
