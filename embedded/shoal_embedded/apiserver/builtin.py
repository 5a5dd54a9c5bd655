"""What built-in resources get or refuse beyond what every object does: the little of it that Shoal and kubectl need."""

import ipaddress
from typing import Any

from shoal_embedded.apiserver.defaults import DEFAULT_GRACE, defaulted
from shoal_embedded.apiserver.resources import Resource
from shoal_embedded.apiserver.storage import Storage

Json = dict[str, Any]

SERVICE_NETWORK = ipaddress.ip_network("127.96.0.0/16")
"""Loopback, so that a process of this machine can listen on a Service's address without root."""

_PARTS = ("spec", "status")
__all__ = ["bare", "created", "defaulted", "established", "grace_seconds"]


def bare(resource: Resource, body: Json) -> Json:
    """What an object of the kind has before anybody says anything: nobody owns that."""
    if resource.custom:
        return {"metadata": {}}
    parts: Json = {part: {} for part in _PARTS if part in body}
    if resource.key == "pods":
        parts["spec"] = {"containers": []}
    if resource.key == "events":
        parts = {"involvedObject": {}, "source": {}, "reportingComponent": "", "reportingInstance": ""}
        parts |= dict.fromkeys(("eventTime", "firstTimestamp", "lastTimestamp"))
    return {"metadata": {}, **parts}


def created(storage: Storage, resource: Resource, body: Json) -> Json:
    """The object with what the server itself fills in at its creation."""
    if resource.key == "pods":
        return _pod(body)
    if resource.key == "services":
        return _service(storage, body)
    if resource.key == "namespaces":
        return {**body, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
    if resource.key == "persistentvolumeclaims":
        # The node gives every claim a folder of its own: there is nothing to wait for.
        spec = body.get("spec", {})
        capacity = (spec.get("resources") or {}).get("requests") or {}
        status = {"phase": "Bound", "accessModes": spec.get("accessModes", []), "capacity": capacity}
        return {**body, "status": status}
    if resource.key == "customresourcedefinitions.apiextensions.k8s.io":
        return established(body)
    return body


def established(definition: Json) -> Json:
    """The definition with the conditions that say it is served."""
    now = definition["metadata"]["creationTimestamp"]
    names = definition["spec"]["names"]
    conditions = [
        {
            "type": "NamesAccepted",
            "status": "True",
            "reason": "NoConflicts",
            "message": "no conflicts found",
            "lastTransitionTime": now,
        },
        {
            "type": "Established",
            "status": "True",
            "reason": "InitialNamesAccepted",
            "message": "the initial names have been accepted",
            "lastTransitionTime": now,
        },
    ]
    stored = [version["name"] for version in definition["spec"]["versions"] if version.get("storage")]
    return {**definition, "status": {"conditions": conditions, "acceptedNames": names, "storedVersions": stored}}


_TOLERATED = [
    {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
    for what in ("not-ready", "unreachable")
]


def _pod(body: Json) -> Json:
    spec = {"serviceAccountName": "default", "serviceAccount": "default", **body["spec"]}
    spec = {"priority": 0, "preemptionPolicy": "PreemptLowerPriority", **spec}
    keys = {each.get("key") for each in spec.get("tolerations") or ()}
    spec["tolerations"] = [*(spec.get("tolerations") or ()), *(each for each in _TOLERATED if each["key"] not in keys)]
    status: Json = {"phase": "Pending", "qosClass": _quality(spec)}
    if spec.get("schedulingGates"):
        words = "Scheduling is blocked due to non-empty scheduling gates"
        gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": words}
        since = body["metadata"]["creationTimestamp"]
        status["conditions"] = [{**gated, "lastProbeTime": None, "lastTransitionTime": since}]
    return {**body, "spec": spec, "status": status}


def _quality(spec: Json) -> str:
    """The pod's quality of service, by what its containers request and are limited to."""
    containers = [*spec["containers"], *(spec.get("initContainers") or ())]
    asked = [each.get("resources") or {} for each in containers]
    if not any(each.get("requests") or each.get("limits") for each in asked):
        return "BestEffort"
    whole = all(
        {"cpu", "memory"} <= (each.get("limits") or {}).keys() and each["limits"] == each.get("requests")
        for each in asked
    )
    return "Guaranteed" if whole else "Burstable"


def _service(storage: Storage, body: Json) -> Json:
    spec = dict(body["spec"])
    if not spec.get("clusterIP"):
        taken = {each["spec"].get("clusterIP") for each in storage.objects("services")}
        spec["clusterIP"] = next(str(ip) for ip in SERVICE_NETWORK.hosts() if str(ip) not in taken)
    families = {"clusterIPs": [spec["clusterIP"]], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}
    return {**body, "spec": {**families, **spec}, "status": {"loadBalancer": {}}}


def grace_seconds(resource: Resource, body: Json, options: Json) -> int:
    """Seconds that the object is kept for its processes to end; only a pod that runs on a node has any."""
    if resource.key != "pods" or not body.get("spec", {}).get("nodeName"):
        return 0
    if body.get("status", {}).get("phase") in ("Succeeded", "Failed") and options.get("gracePeriodSeconds") is None:
        return 0
    asked = options.get("gracePeriodSeconds")
    return int(asked if asked is not None else body["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE))
