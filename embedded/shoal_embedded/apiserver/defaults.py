"""What kube-apiserver fills into built-in objects before it stores them."""

from typing import Any

from shoal_embedded.apiserver.resources import Resource

Json = dict[str, Any]

DEFAULT_GRACE = 30
"""Seconds that a pod's processes have to end."""
_MODE = 420
"""Permissions of the files of Secret, ConfigMap and projected volumes: 0644."""
_POD: Json = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": DEFAULT_GRACE,
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "securityContext": {},
    "enableServiceLinks": True,
}
_CONTAINER: Json = {
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "resources": {},
}
_PROBE: Json = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}


def defaulted(resource: Resource, body: Json) -> Json:
    """The object with defaults where it says nothing."""
    match resource.key:
        case "pods":
            return _with_addresses({**body, "spec": _pod(body.get("spec") or {})})
        case "events":
            return {**_EVENT, **body}
        case "services":
            return {**body, "spec": _service(body.get("spec") or {})}
        case "secrets":
            return _secret(body)
        case "namespaces":
            metadata = body["metadata"]
            labels = {**(metadata.get("labels") or {}), "kubernetes.io/metadata.name": metadata["name"]}
            return {**body, "metadata": {**metadata, "labels": labels}}
    return body


_EVENT: Json = {
    **dict.fromkeys(("eventTime", "firstTimestamp", "lastTimestamp")),
    **dict.fromkeys(("reportingComponent", "reportingInstance"), ""),
}


def _with_addresses(pod: Json) -> Json:
    status = dict(pod.get("status") or {})
    if status.get("podIP"):
        status["podIPs"] = [{"ip": status["podIP"]}]
    if status.get("conditions"):
        times = {"lastProbeTime": None, "lastTransitionTime": None}
        status["conditions"] = [{**times, **each} for each in status["conditions"]]
    return {**pod, "status": status} if status else pod


def _pod(spec: Json) -> Json:
    filled = {**_POD, **_present(spec)}
    for key in ("hostNetwork", "hostPID", "hostIPC", "schedulingGates", "volumes", "tolerations"):
        # False and an empty list are not written.
        if key in filled and not filled[key]:
            del filled[key]
    if filled.get("serviceAccountName"):
        filled.setdefault("serviceAccount", filled["serviceAccountName"])
    for key in ("containers", "initContainers"):
        if filled.get(key):
            filled[key] = [_container(each) for each in filled[key]]
    if filled.get("volumes"):
        filled["volumes"] = [_volume(each) for each in filled["volumes"]]
    return filled


def _present(body: Json) -> Json:
    return {key: value for key, value in body.items() if value is not None}


def _container(container: Json) -> Json:
    image = str(container.get("image", ""))
    tag = image.rpartition("/")[2].partition(":")[2]
    latest = "@" not in image and tag in ("", "latest")
    filled = {**_CONTAINER, "imagePullPolicy": "Always" if latest else "IfNotPresent", **_present(container)}
    if filled.get("ports"):
        filled["ports"] = [{"protocol": "TCP", **port} for port in filled["ports"]]
    if filled.get("env"):
        filled["env"] = [_variable(each) for each in filled["env"]]
    if filled["resources"].get("limits"):
        # What is limited is requested, unless the container says less.
        asked = {**filled["resources"]["limits"], **(filled["resources"].get("requests") or {})}
        filled["resources"] = {**filled["resources"], "requests": asked}
    for key in ("livenessProbe", "readinessProbe", "startupProbe"):
        if filled.get(key):
            filled[key] = _probe(filled[key])
    return filled


def _variable(variable: Json) -> Json:
    reference = (variable.get("valueFrom") or {}).get("fieldRef")
    if reference:
        return {**variable, "valueFrom": {"fieldRef": {"apiVersion": "v1", **reference}}}
    # An empty value is no value.
    return {key: value for key, value in variable.items() if (key, value) != ("value", "")}


def _probe(probe: Json) -> Json:
    filled = {**_PROBE, **probe}
    if filled.get("httpGet"):
        filled["httpGet"] = {"path": "/", "scheme": "HTTP", **filled["httpGet"]}
    return filled


def _volume(volume: Json) -> Json:
    filled = _present(volume)
    if len(filled) == 1:
        filled["emptyDir"] = {}
    for key in ("secret", "configMap", "projected", "downwardAPI"):
        if key in filled:
            filled[key] = {"defaultMode": _MODE, **filled[key]}
    if "hostPath" in filled:
        filled["hostPath"] = {"type": "", **filled["hostPath"]}
    return filled


def _service(spec: Json) -> Json:
    filled = {"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", **_present(spec)}
    if filled.get("ports"):
        filled["ports"] = [{"protocol": "TCP", "targetPort": port["port"], **port} for port in filled["ports"]]
    return filled


def _secret(body: Json) -> Json:
    from base64 import b64encode

    plain = body.get("stringData") or {}
    data = {**(body.get("data") or {}), **{key: b64encode(text.encode()).decode() for key, text in plain.items()}}
    kept = {key: value for key, value in body.items() if key not in ("stringData", "data")}
    return {**kept, **({"data": data} if data else {}), "type": body.get("type", "Opaque")}
