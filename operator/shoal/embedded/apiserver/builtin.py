"""What built-in resources get or refuse beyond what every object does: the little of it that Shoal and kubectl need."""

import ipaddress
from typing import Any

from shoal.embedded.apiserver.errors import invalid
from shoal.embedded.apiserver.resources import Resource
from shoal.embedded.apiserver.schema import cause
from shoal.embedded.apiserver.storage import Storage

Json = dict[str, Any]

SERVICE_NETWORK = ipaddress.ip_network("127.96.0.0/16")
"""Loopback, so that a process of this machine can listen on a Service's address without root."""
DEFAULT_GRACE = 30


def created(storage: Storage, resource: Resource, body: Json) -> Json:
    """The object with what the server itself fills in at its creation."""
    if resource.key == "pods":
        return _pod(body)
    if resource.key == "services":
        return _service(storage, body)
    if resource.key == "secrets":
        return _secret(body)
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


def _pod(body: Json) -> Json:
    spec = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": DEFAULT_GRACE,
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "serviceAccountName": "default",
        **body.get("spec", {}),
    }
    status: Json = {"phase": "Pending", "qosClass": "BestEffort"}
    if spec.get("schedulingGates"):
        words = "Scheduling is blocked due to non-empty scheduling gates"
        gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": words}
        status["conditions"] = [{**gated, "lastTransitionTime": body["metadata"]["creationTimestamp"]}]
    return {**body, "spec": spec, "status": status}


def _service(storage: Storage, body: Json) -> Json:
    spec = {"type": "ClusterIP", "sessionAffinity": "None", **body.get("spec", {})}
    spec["ports"] = [{"protocol": "TCP", "targetPort": port["port"], **port} for port in spec.get("ports", [])]
    if not spec.get("clusterIP"):
        taken = {each["spec"].get("clusterIP") for each in storage.objects("services")}
        spec["clusterIP"] = next(str(ip) for ip in SERVICE_NETWORK.hosts() if str(ip) not in taken)
    spec.setdefault("clusterIPs", [spec["clusterIP"]])
    return {**body, "spec": spec, "status": {"loadBalancer": {}}}


def _secret(body: Json) -> Json:
    from base64 import b64encode

    plain = body.get("stringData") or {}
    data = {**(body.get("data") or {}), **{key: b64encode(text.encode()).decode() for key, text in plain.items()}}
    kept = {key: value for key, value in body.items() if key != "stringData"}
    return {**kept, "data": data, "type": body.get("type", "Opaque")}


def validate(resource: Resource, body: Json) -> list[Json]:
    """Causes for which a built-in object is refused."""
    spec = body.get("spec") or {}
    if resource.key == "pods" and not spec.get("containers"):
        return [cause("FieldValueRequired", "spec.containers", "Required value")]
    if resource.key == "services":
        return _service_causes(spec)
    if resource.key == "events":
        return _event_causes(body)
    if resource.key == "customresourcedefinitions.apiextensions.k8s.io":
        return _definition_causes(body["metadata"].get("name", ""), spec)
    return []


def _service_causes(spec: Json) -> list[Json]:
    ports = spec.get("ports") or []
    if not ports and spec.get("clusterIP") != "None":
        return [cause("FieldValueRequired", "spec.ports", "Required value")]
    if len(ports) < 2:
        return []
    unnamed = [index for index, port in enumerate(ports) if not port.get("name")]
    return [cause("FieldValueRequired", f"spec.ports[{index}].name", "Required value") for index in unnamed]


def _event_causes(event: Json) -> list[Json]:
    about, home = event.get("involvedObject") or {}, event["metadata"].get("namespace", "")
    # What is cluster-wide has its events in the namespace default.
    if about.get("namespace", "") in ("", home):
        return []
    words = f'Invalid value: "{about["namespace"]}": does not match event.namespace'
    return [cause("FieldValueInvalid", "involvedObject.namespace", words)]


def _definition_causes(name: str, spec: Json) -> list[Json]:
    names = spec.get("names") or {}
    given = {"spec.group": spec.get("group"), "spec.scope": spec.get("scope"), "spec.versions": spec.get("versions")}
    given |= {f"spec.names.{key}": names.get(key) for key in ("plural", "kind")}
    missing = [cause("FieldValueRequired", field, "Required value") for field, value in given.items() if not value]
    if missing:
        return missing
    if name != f"{names['plural']}.{spec['group']}":
        words = f'Invalid value: "{name}": must be spec.names.plural+"."+spec.group'
        return [cause("FieldValueInvalid", "metadata.name", words)]
    if sum(bool(version.get("storage")) for version in spec["versions"]) != 1:
        words = "Invalid value: must have exactly one version marked as storage version"
        return [cause("FieldValueInvalid", "spec.versions", words)]
    return []


def check_update(resource: Resource, before: Json, after: Json) -> None:
    """Raise 422 for a change that a built-in object does not allow."""
    if resource.key == "services":
        _check_address(before, after)
    if resource.key != "pods":
        return
    old, new = before["spec"], after["spec"]
    changed = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    allowed = {"containers", "initContainers", "activeDeadlineSeconds", "tolerations", "nodeName", "schedulingGates"}
    if changed - allowed:
        words = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`"
        raise invalid("Pod", "", before["metadata"]["name"], [cause("FieldValueForbidden", "spec", words)])


def _check_address(before: Json, after: Json) -> None:
    old, new = before["spec"].get("clusterIP"), after["spec"].get("clusterIP")
    if old != new:
        words = f'Invalid value: ["{new}"]: may not change once set'
        wrong = cause("FieldValueInvalid", "spec.clusterIPs[0]", words)
        raise invalid("Service", "", before["metadata"]["name"], [wrong])


def grace_seconds(resource: Resource, body: Json, options: Json) -> int:
    """Seconds that the object is kept for its processes to end; only a pod that runs on a node has any."""
    if resource.key != "pods" or not body.get("spec", {}).get("nodeName"):
        return 0
    if body.get("status", {}).get("phase") in ("Succeeded", "Failed") and options.get("gracePeriodSeconds") is None:
        return 0
    asked = options.get("gracePeriodSeconds")
    return int(asked if asked is not None else body["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE))
